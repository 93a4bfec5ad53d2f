"""A picture of the images on which two systems differ most."""

import io
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from datasets.ade20k import label_maps, read_label_map
from datasets.imagenet import open_image
from reproduce.base.errors import UserError
from reproduce.judge.comparison import Comparison
from reproduce.report.pictures import class_colours
from reproduce.tasks import TASKS, detection_scores, segmentation_scores

_INCHES = 2.6  # the width of a panel, and the height of a row
_SCORE = 0.3  # detections with less are not drawn


def draw(comparison: Comparison, root: Path) -> bytes:
    """Return a PNG with a row for each image: what is right, the first system, the second.

    Args:
        root: the data set's folder.

    Raises:
        UserError: if the data are not those that were compared, there is no difference to show, or
            a file cannot be read.
    """
    first = comparison.first
    if not comparison.images:
        raise UserError(
            f'{first.name} and {comparison.second.name} differ on no image: there is no picture.'
        )
    data = TASKS[first.task].load_part(root, first.images.statistics.images)
    if data.fingerprint != first.fingerprint:
        raise UserError(
            f'{root} has other images ({data.fingerprint}) than {first.name} ({first.fingerprint}) '
            'was evaluated on: name that folder with --data.'
        )
    painter = _PAINTERS[first.task](data, [first.predictions, comparison.second.predictions])
    rows = len(comparison.images)
    figure = Figure((3 * _INCHES, rows * (_INCHES + 0.3)), layout='constrained')
    panels = figure.subplots(rows, 3, squeeze=False)
    for line, found in zip(panels, comparison.images, strict=True):
        image = open_image(data.samples[found.index][0])
        for place, panel in enumerate(line):
            panel.set_axis_off()
            painter(panel, image, found.index, place)
        line[0].set_title(found.name, fontsize='small')
        for panel, name, value in zip(
            line[1:], ('first', 'second'), (found.first, found.second), strict=True
        ):
            panel.set_title(f'{name}: {value:.1f}', fontsize='small')
    content = io.BytesIO()
    figure.savefig(content, format='png')
    return content.getvalue()


class _Classes:
    """Writes the right class and the predicted ones under the images."""

    def __init__(self, data: Any, predictions: list[Path]) -> None:
        # Imported here, because pandas takes a second to load.
        from reproduce.tasks.classification_scores import matched, read

        self.data = data
        self.found = [matched(read(path), data, path).classes[:, 0] for path in predictions]

    def __call__(self, panel: Axes, image: Any, index: int, place: int) -> None:
        panel.imshow(image)
        label = self.data.samples[index][1] if place == 0 else self.found[place - 1][index]
        name = self.data.classes[label]
        panel.text(0.5, -0.02, name, transform=panel.transAxes, ha='center', va='top')


class _Boxes:
    """Draws the boxes of the objects, and of the detections."""

    def __init__(self, data: Any, predictions: list[Path]) -> None:
        self.data = data
        self.colours = class_colours(len(data.classes))
        sources = [data.content.instances]
        sources += [
            [r for r in detection_scores.read(path) if r['score'] >= _SCORE] for path in predictions
        ]
        self.entries: list[dict[int, list[Any]]] = []
        for source in sources:
            by_image: dict[int, list[Any]] = {}
            for entry in source:
                by_image.setdefault(entry['image_id'], []).append(entry)
            self.entries.append(by_image)

    def __call__(self, panel: Axes, image: Any, index: int, place: int) -> None:
        panel.imshow(image)
        for entry in self.entries[place].get(self.data.samples[index][1], []):
            k = self.data.category_ids.index(entry['category_id'])
            x, y, width, height = entry['bbox']
            colour = self.colours[k + 1]
            panel.add_patch(Rectangle((x, y), width, height, fill=False, color=colour))
            score = f' {entry["score"]:.2f}' if 'score' in entry else ''
            panel.text(x, y, f'{self.data.classes[k]}{score}', fontsize=5, color=colour)


class _LabelMaps:
    """Paints the classes of the pixels; those of several scales where both have them."""

    def __init__(self, data: Any, predictions: list[Path]) -> None:
        self.data, self.predictions = data, predictions
        self.colours = class_colours(len(data.classes))

    def __call__(self, panel: Axes, image: Any, index: int, place: int) -> None:
        label_map = self.data.samples[index][1]
        classes = len(self.data.classes)
        if place == 0:
            found = read_label_map(label_map, classes)
        else:
            with segmentation_scores.opened(self.predictions[place - 1]) as folder:
                scales = label_maps(folder / segmentation_scores.MULTI_SCALE) or label_maps(folder)
                found = read_label_map(scales[label_map.stem], classes)
        panel.imshow(self.colours[found], interpolation='nearest')


_PAINTERS = {'imagenet': _Classes, 'coco': _Boxes, 'ade20k': _LabelMaps}
