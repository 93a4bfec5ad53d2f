"""Pictures of images with what is right and what was predicted."""

import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from datasets.reading import open_image
from datasets.segmented import SegmentationData
from reproduce.base.errors import UserError
from reproduce.judge.comparison import Comparison
from reproduce.tasks import TASKS, detection_scores, segmentation_scores
from reproduce.tasks.scores import check_images

_INCHES = 2.6  # the width of a panel, and the height of a row
_SCORE = 0.3  # detections with less are not drawn
_GOLDEN = 0.618034  # turns of the hue from class to class: neighbours differ most

Painter = Callable[[Axes, int], None]  # draws the image of an index in the data


def differences(comparison: Comparison, root: Path) -> bytes:
    """Return a PNG with a row for each image on which two systems differ most.

    Args:
        root: the data set's folder.

    Raises:
        UserError: if the data are not those that were compared, there is no difference to show, or
            a file cannot be read.
    """
    first, second = comparison.first, comparison.second
    if not comparison.images:
        raise UserError(f'{first.name} and {second.name} differ on no image: there is no picture.')
    data = TASKS[first.task].load_part(root, first.images.statistics.images)
    if data.fingerprint != first.fingerprint:
        raise UserError(
            f'{root} has other images ({data.fingerprint}) than {first.name} ({first.fingerprint}) '
            'was evaluated on: name that folder with --data.'
        )
    predicted = {'ground truth': None, 'first': first.predictions, 'second': second.predictions}
    make = _PAINTERS[TASKS[first.task].kind.name]
    painters = {title: make(data, path) for title, path in predicted.items()}
    rows = {i.index: (i.name, f'{i.first:.1f}', f'{i.second:.1f}') for i in comparison.images}
    return _png(painters, rows)


def _png(painters: Mapping[str, Painter], rows: Mapping[int, Iterable[str]]) -> bytes:
    """Return a PNG with a titled column for each painter, and a row for each image.

    Args:
        rows: what is written above the panels of an image, by its index.
    """
    size = 3 * _INCHES + 1.5, len(rows) * (_INCHES + 0.3)
    figure = Figure(size, layout='constrained')
    panels = figure.subplots(len(rows), len(painters), squeeze=False)
    titles = painters
    for line, (index, texts) in zip(panels, rows.items(), strict=True):
        for panel, title, text, paint in zip(line, titles, texts, painters.values(), strict=True):
            panel.set_axis_off()
            paint(panel, index)
            panel.set_title(f'{title}\n{text}'.strip(), fontsize='small')
        titles = [''] * len(painters)
    named = {}
    for panel in panels.flat:
        named |= dict(zip(*panel.get_legend_handles_labels()[::-1], strict=True))
    if named:
        figure.legend(named.values(), named, loc='outside right upper', fontsize='small')
    content = io.BytesIO()
    figure.savefig(content, format='png', dpi=150)
    return content.getvalue()


def _colours(classes: int) -> np.ndarray:
    """Return colours (K + 1, 3) in 0-1: black, then one for each class."""
    i = np.arange(classes)
    hsv = np.stack([i * _GOLDEN % 1, np.where(i % 2, 0.5, 0.9), np.where(i % 3, 0.95, 0.6)], 1)
    return np.concatenate([np.zeros((1, 3)), hsv_to_rgb(hsv)])


def _image(data: Any, panel: Axes, index: int) -> None:
    panel.imshow(open_image(data.samples[index][0]))


# A painter of a task draws what is right, or what was predicted if it has a file of predictions.


def _classes(data: Any, predictions: Path | None) -> Painter:
    labels = [label for _, label in data.samples]
    if predictions is not None:
        # Imported here, because pandas takes a second to load.
        from reproduce.tasks.classification_scores import matched, read

        labels = matched(read(predictions), data, predictions).classes[:, 0]

    def paint(panel: Axes, index: int) -> None:
        _image(data, panel, index)
        place = {'transform': panel.transAxes, 'ha': 'center', 'va': 'top'}
        panel.text(0.5, -0.02, data.classes[labels[index]], **place)

    return paint


def _boxes(data: Any, predictions: Path | None) -> Painter:
    colours, entries = _colours(len(data.classes)), data.content.instances
    if predictions is not None:
        entries = [r for r in detection_scores.read(predictions) if r['score'] >= _SCORE]

    def paint(panel: Axes, index: int) -> None:
        _image(data, panel, index)
        for entry in entries:
            if entry['image_id'] == data.samples[index][1]:
                k = data.category_ids.index(entry['category_id'])
                x, y, width, height = entry['bbox']
                panel.add_patch(Rectangle((x, y), width, height, fill=False, color=colours[k + 1]))
                score = f' {entry["score"]:.2f}' if 'score' in entry else ''
                panel.text(x, y, f'{data.classes[k]}{score}', fontsize=8, color=colours[k + 1])

    return paint


def _label_maps(data: SegmentationData, predictions: Path | None) -> Painter:
    """Return a painter of label maps; of those of several scales where they were predicted."""
    colours, names = _colours(len(data.classes)), ('no class', *data.classes)

    def paint(panel: Axes, index: int) -> None:
        path = data.samples[index][1]
        if predictions is None:
            found = data.format.read_label_map(path, len(data.classes))
        else:
            with segmentation_scores.opened(predictions) as folder:
                maps = data.format.label_maps(folder / segmentation_scores.MULTI_SCALE)
                maps = maps or data.format.label_maps(folder)
                check_images(predictions, maps, [p.name for _, p in data.samples])
                found = data.format.read_label_map(maps[path.name], len(data.classes))
        panel.imshow(colours[found], interpolation='nearest')
        for k in np.unique(found):
            panel.plot([], [], 's', color=colours[k], label=names[k])

    return paint


_PAINTERS = {'classification': _classes, 'detection': _boxes, 'segmentation': _label_maps}
