"""A picture of images with their labels and their predicted label maps."""

import io
from pathlib import Path

import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from datasets.ade20k import ADE20K, label_maps, read_label_map
from datasets.imagenet import open_image
from datasets.subset import evenly_spaced
from reproduce.tasks.segmentation_scores import check_names, opened

_INCHES = 2.5  # the width of a panel, and the height of a row
_GOLDEN = 0.618034  # turns of the hue from class to class: neighbours differ most


def side_by_side(data: ADE20K, predictions: Path, n: int) -> bytes:
    """Draw a PNG with a row for each of `n` images, evenly spaced: image, labels, prediction.

    A class has one colour throughout, pixels of no class are black, and the legend names the
    classes that occur.

    Args:
        predictions: of `data`, as `score_folder` takes them; those at one scale are shown.

    Raises:
        UserError: if the predictions are not those of the images, or a file cannot be read.
    """
    colours, rows = class_colours(len(data.classes)), []
    with opened(predictions) as folder:
        found = label_maps(folder)
        check_names(predictions, found, {path.stem: path for _, path in data.samples})
        for image, label_map in evenly_spaced(data.samples, n):
            maps = (label_map, found[label_map.stem])
            rows.append((open_image(image), *(read_label_map(m, len(data.classes)) for m in maps)))
    figure = Figure((3 * _INCHES + 1.5, len(rows) * _INCHES), layout='constrained')
    panels = figure.subplots(len(rows), 3, squeeze=False)
    for line, (image, *maps) in zip(panels, rows, strict=True):
        for panel, shown in zip(line, (image, *(colours[m] for m in maps)), strict=True):
            panel.imshow(shown, interpolation='nearest')
            panel.set_axis_off()
    for panel, title in zip(panels[0], ('image', 'labels', 'prediction'), strict=True):
        panel.set_title(title)
    occurring = np.unique(np.concatenate([m.ravel() for _, *maps in rows for m in maps]))
    entries = [
        Patch(color=colours[i], label=data.classes[i - 1] if i else 'no class') for i in occurring
    ]
    figure.legend(handles=entries, loc='outside right upper', fontsize='small')
    content = io.BytesIO()
    figure.savefig(content, format='png')
    return content.getvalue()


def class_colours(classes: int) -> np.ndarray:
    """Return colours (K + 1, 3) in 0-1: black, then one for each class."""
    i = np.arange(classes)
    hsv = np.stack([i * _GOLDEN % 1, np.where(i % 2, 0.5, 0.9), np.where(i % 3, 0.95, 0.6)], 1)
    return np.concatenate([np.zeros((1, 3)), hsv_to_rgb(hsv)])
