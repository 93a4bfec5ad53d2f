"""Predicted label maps: what they score, and the archive that keeps them."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.segmented import SegmentationData, SegmentationFormat
from datasets.stores import AnyPath, open_archive
from datasets.subset import evenly_spaced
from reproduce.base.errors import UserError
from reproduce.statistics.segmentation_metrics import LABELLED, PREFIXES, PixelCounts, ious, means
from reproduce.tasks.scores import Scores, check_images

# The folder, in a folder or an archive of predictions, of those at several scales.
MULTI_SCALE = 'multi_scale'

_FIRST_DAY = (1980, 1, 1, 0, 0, 0)


def to_png(labels: np.ndarray, format: SegmentationFormat) -> bytes:
    """Return the labels of an image, (H, W) in uint8, as the content of a file."""
    content = io.BytesIO()
    image = Image.fromarray(format.encode_label_map(labels))
    image.save(content, 'PNG', compress_level=3)
    return content.getvalue()


def to_zip(predictions: Sequence[Sequence[bytes]], names: Sequence[str]) -> bytes:
    """Return an archive of PNGs for label maps of these names.

    Each prediction is at one scale, or also at several scales, which a folder of it holds.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        for scale, folder in enumerate(('', f'{MULTI_SCALE}/')):
            for name, pngs in zip(names, predictions, strict=True):
                if scale < len(pngs):
                    entry = zipfile.ZipInfo(f'{folder}{name}', _FIRST_DAY)
                    archive.writestr(entry, pngs[scale])
    return content.getvalue()


def score(pixels: Sequence[Sequence[np.ndarray]], classes: Sequence[str]) -> Scores:
    """Return mIoU, mAcc and aAcc, as mmseg's IoUMetric has them, and the IoU of each class.

    A class that only predictions have counts with an IoU of 0; see `statistics.means`.

    Args:
        pixels: of each image the `class_pixels` of its prediction, and of that at several scales
            for `ms_miou` and so on.
        classes: the names of the K classes.

    Raises:
        UserError: if no pixel has a class.
    """
    counts = np.ascontiguousarray(np.swapaxes(np.array(pixels, np.int64), 0, 1))
    if not counts[0, :, LABELLED].any():
        raise UserError('no pixel of the label maps has a class: expected some to score.')
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    for prefix, total in zip(PREFIXES, counts.sum(1), strict=False):
        metrics |= {f'{prefix}{name}': float(value) for name, value in means(total).items()}
        for name, iou in zip(classes, ious(total).tolist(), strict=True):
            if not np.isnan(iou):
                per_class.setdefault(name, {})[f'{prefix}iou'] = iou
    statistics = PixelCounts(counts)
    return Scores(metrics, statistics.intervals(), per_class, statistics)


def class_pixels_of(
    label_map: AnyPath, predictions: Sequence[np.ndarray], classes: int, format: SegmentationFormat
) -> list[np.ndarray]:
    """Return the `class_pixels` of each of the predictions for a label map.

    Raises:
        UserError: if one has another size than the label map, or this cannot be read.
    """
    label = format.read_label_map(label_map, classes)
    for prediction in predictions:
        if prediction.shape != label.shape:
            sizes = [f'{width} x {height}' for height, width in (prediction.shape, label.shape)]
            raise UserError(
                f'the prediction for {label_map} has {sizes[0]} pixels and its label map '
                f'{sizes[1]}: expected the same; predict at the size of the original image.'
            )
    return [class_pixels(prediction, label, classes) for prediction in predictions]


def class_pixels(prediction: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """Return the pixels of each class as `PixelCounts` has them, (3, K) in int64.

    Pixels with label 0 are not counted; those predicted to be of no class are not correct.

    Args:
        prediction, label: (H, W) in uint8, 0 for no class and 1 to `classes`.
        classes: K, at most 255.
    """
    # K is at most 255, so every pair of labels has a number below 2^16.
    pairs = label.astype(np.uint16) * np.uint16(classes + 1) + prediction
    counts = np.bincount(pairs.ravel(), minlength=(classes + 1) ** 2)
    confusion = counts.reshape(classes + 1, classes + 1)[1:]
    return np.stack([np.diagonal(confusion, 1), confusion.sum(1), confusion[:, 1:].sum(0)])


def score_folder(
    predictions: Path, annotations: AnyPath, limit: int | None, format: SegmentationFormat
) -> tuple[Scores, int, tuple[str, ...]]:
    """Score predicted label maps against those of a data set, without a model.

    Args:
        predictions: a folder of PNGs of the same names and form as in `annotations`, or the .zip
            that an evaluation kept; those in its folder `multi_scale` are scored as well.
        annotations: the folder of the label maps, as `annotations/validation`; a file two folders
            above may name the classes.
        limit: as many of them, evenly spaced, as were evaluated.

    Returns:
        the scores, the number of images, and what keeps them from being the whole validation set,
        a phrase for each.

    Raises:
        UserError: if one is missing, too many, of another size, no label map or has a label
            without a class.
    """
    classes = format.class_names(annotations.parent.parent)
    labels = format.label_maps(annotations)
    if not labels:
        raise UserError(f'{annotations} has no label map: expected a folder of PNGs.')
    taken = {name: labels[name] for name in evenly_spaced(list(labels), limit)}
    folder = predictions if predictions.is_dir() else open_archive(predictions)
    scales = [format.label_maps(folder, nested=False)]
    if more := format.label_maps(folder / MULTI_SCALE):
        scales.append(more)
    for found in scales:
        check_images(predictions, found, taken)
    pixels = []
    for name, label_map in taken.items():
        maps = [format.read_label_map(scale[name], len(classes)) for scale in scales]
        pixels.append(class_pixels_of(label_map, maps, len(classes), format))
    problems = format.incomplete('val', classes, list(labels), len(taken))
    return score(pixels, classes), len(taken), problems


def score_file(path: Path, data: SegmentationData) -> Scores:
    """See `Task.score_file`; `path` is a folder or an archive of label maps."""
    labels = data.root / data.format.labels.format(data.format.splits[data.split])
    return score_folder(path, labels, len(data.samples), data.format)[0]


def differing(path: Path, data: SegmentationData, again: Mapping[int, tuple]) -> list[int]:
    """Return for which images over a thousandth of the pixels differ from those predicted again."""
    folder, differ = open_archive(path), []
    for index, (_, pngs) in again.items():
        for place, png in zip((folder, folder / MULTI_SCALE), pngs, strict=False):
            kept = (place / data.samples[index][1].name).read_bytes()
            maps = (np.asarray(Image.open(io.BytesIO(content))) for content in (kept, png))
            if np.not_equal(*maps).mean() > 1e-3 and index not in differ:
                differ.append(index)
    return differ
