"""Pictures of images with what is right and what was predicted."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from datasets.reading import open_image
from datasets.segmented import SegmentationData
from datasets.subset import evenly_spaced
from reproduce.base.errors import UserError
from reproduce.judge.comparison import Comparison
from reproduce.tasks import TASKS, detection_scores, segmentation_scores
from reproduce.tasks.scores import check_images

_INCHES = 2.6  # the width of a panel, and the height of a row
_SCORE = 0.3  # detections with less are not drawn
_GOLDEN = 0.618034  # turns of the hue from class to class: neighbours differ most

Painter = Callable[[Axes, Any, int, int], None]


def side_by_side(data: SegmentationData, predictions: Path, n: int) -> bytes:
    """Return a PNG with a row for each of `n` images, evenly spaced: image, labels, prediction.

    A class has one colour throughout, pixels of no class are black, and the legend names the
    classes that occur.

    Args:
        predictions: of `data`, as `score_folder` takes them; those at one scale are shown.

    Raises:
        UserError: if the predictions are not those of the images, or a file cannot be read.
    """
    colours, rows = class_colours(len(data.classes)), []
    with segmentation_scores.opened(predictions) as folder:
        found = data.format.label_maps(folder, nested=False)
        names = [path.name for _, path in data.samples]
        check_images(predictions, found, names)
        for image, label_map in evenly_spaced(data.samples, n):
            files = (label_map, found[label_map.name])
            maps = [data.format.read_label_map(file, len(data.classes)) for file in files]
            rows.append((open_image(image), *maps))
    figure, panels = _grid(len(rows), ('image', 'ground truth', 'prediction'))
    for line, (image, *maps) in zip(panels, rows, strict=True):
        for panel, shown in zip(line, (image, *(colours[m] for m in maps)), strict=True):
            panel.imshow(shown, interpolation='nearest')
    occurring = np.unique(np.concatenate([m.ravel() for _, *maps in rows for m in maps]))
    entries = [
        Patch(color=colours[i], label=data.classes[i - 1] if i else 'no class') for i in occurring
    ]
    figure.legend(handles=entries, loc='outside right upper', fontsize='small')
    return _png(figure)


def differences(comparison: Comparison, root: Path) -> bytes:
    """Return a PNG with a row for each image on which two systems differ most.

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
    painter = _PAINTERS[TASKS[first.task].kind.name](
        data, [first.predictions, comparison.second.predictions]
    )
    figure, panels = _grid(len(comparison.images), ('ground truth', 'first', 'second'))
    for line, found in zip(panels, comparison.images, strict=True):
        image = open_image(data.samples[found.index][0])
        for place, panel in enumerate(line):
            painter(panel, image, found.index, place)
        texts = (found.name, f'{found.first:.1f}', f'{found.second:.1f}')
        for panel, text in zip(line, texts, strict=True):
            title = panel.get_title()
            panel.set_title(f'{title}\n{text}'.strip(), fontsize='small')
    return _png(figure)


def class_colours(classes: int) -> np.ndarray:
    """Return colours (K + 1, 3) in 0-1: black, then one for each class."""
    i = np.arange(classes)
    hsv = np.stack([i * _GOLDEN % 1, np.where(i % 2, 0.5, 0.9), np.where(i % 3, 0.95, 0.6)], 1)
    return np.concatenate([np.zeros((1, 3)), hsv_to_rgb(hsv)])


def _grid(rows: int, titles: Sequence[str]) -> tuple[Figure, np.ndarray]:
    """Return a figure with empty panels, under a title for each column."""
    figure = Figure((3 * _INCHES + 1.5, rows * (_INCHES + 0.3)), layout='constrained')
    panels = figure.subplots(rows, len(titles), squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(title)
    return figure, panels


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format='png', dpi=150)
    return content.getvalue()


def _classes(data: Any, predictions: Sequence[Path]) -> Painter:
    """Write the right class and the predicted ones under the images."""
    # Imported here, because pandas takes a second to load.
    from reproduce.tasks.classification_scores import matched, read

    found = [matched(read(path), data, path).classes[:, 0] for path in predictions]

    def paint(panel: Axes, image: Any, index: int, place: int) -> None:
        panel.imshow(image)
        label = data.samples[index][1] if place == 0 else found[place - 1][index]
        name = data.classes[label]
        panel.text(0.5, -0.02, name, transform=panel.transAxes, ha='center', va='top')

    return paint


def _boxes(data: Any, predictions: Sequence[Path]) -> Painter:
    """Draw the boxes of the objects, and of the detections."""
    colours = class_colours(len(data.classes))
    sources = [data.content.instances]
    for path in predictions:
        sources.append([r for r in detection_scores.read(path) if r['score'] >= _SCORE])

    def paint(panel: Axes, image: Any, index: int, place: int) -> None:
        panel.imshow(image)
        for entry in sources[place]:
            if entry['image_id'] == data.samples[index][1]:
                k = data.category_ids.index(entry['category_id'])
                x, y, width, height = entry['bbox']
                panel.add_patch(Rectangle((x, y), width, height, fill=False, color=colours[k + 1]))
                score = f' {entry["score"]:.2f}' if 'score' in entry else ''
                panel.text(x, y, f'{data.classes[k]}{score}', fontsize=8, color=colours[k + 1])

    return paint


def _label_maps(data: Any, predictions: Sequence[Path]) -> Painter:
    """Paint the classes of the pixels; those of several scales where they were predicted."""
    colours, classes, form = class_colours(len(data.classes)), len(data.classes), data.format

    def paint(panel: Axes, image: Any, index: int, place: int) -> None:
        label_map = data.samples[index][1]
        if place == 0:
            found = form.read_label_map(label_map, classes)
        else:
            with segmentation_scores.opened(predictions[place - 1]) as folder:
                scales = form.label_maps(folder / segmentation_scores.MULTI_SCALE)
                scales = scales or form.label_maps(folder)
                found = form.read_label_map(scales[label_map.name], classes)
        panel.imshow(colours[found], interpolation='nearest')

    return paint


_PAINTERS = {'classification': _classes, 'detection': _boxes, 'segmentation': _label_maps}
