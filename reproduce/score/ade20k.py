"""Predicted label maps, kept beside a result or lying in a folder, and what they score."""

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.ade20k import class_names, incomplete, label_maps, read_label_map
from datasets.subset import evenly_spaced
from reproduce.errors import UserError
from reproduce.wording import by_number, shortened

# The folder, in a folder or an archive of predictions, of those at several scales.
MULTI_SCALE = 'multi_scale'

_FIRST_DAY = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Scored:
    """What a folder of predictions scores.

    Attributes:
        metrics: in percent.
        per_class: the IoU of each class that occurs, in percent.
        images: how many.
        problems: what keeps them from being ADE20K's whole validation set, in words.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    images: int
    problems: tuple[str, ...]


def confusion(prediction: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by their class and their predicted class, (K, K + 1) in int64.

    Row i is class i + 1. Column j is prediction j: column 0 has the pixels predicted to be of no
    class. Pixels with label 0 are not counted.

    Args:
        prediction, label: (H, W) in uint8, 0 for no class and 1 to `classes`.
        classes: K, at most 255.

    Raises:
        ValueError: if the two have different sizes, or one has a larger label.
    """
    if prediction.shape != label.shape:
        raise ValueError(f'a prediction of {prediction.shape} for labels of {label.shape}')
    if max(prediction.max(), label.max()) > classes:
        raise ValueError(f'a label above {classes}')
    # K is at most 255, so every pair of labels has a number below 2^16.
    pairs = label.astype(np.uint16) * np.uint16(classes + 1) + prediction
    counts = np.bincount(pairs.ravel(), minlength=(classes + 1) ** 2)
    return counts.reshape(classes + 1, classes + 1)[1:]


def score(
    confusion: np.ndarray, classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """mIoU, mAcc and aAcc, and the IoU of each class, in percent.

    As in mmseg's IoUMetric, the means leave out what is 0 / 0: mIoU the classes that neither a
    label nor a prediction has, mAcc those that no label has. A class that only predictions have
    counts with an IoU of 0. Predictions on pixels with label 0 do not count.

    Args:
        confusion: (K, K + 1), as `confusion` gives it, summed over the images.
        classes: K names.

    Returns:
        the metrics; the IoU of each class that is not left out, by its name.

    Raises:
        UserError: if no pixel has a class.
    """
    right = np.diagonal(confusion, 1)
    labelled, predicted = confusion.sum(1), confusion[:, 1:].sum(0)
    union = labelled + predicted - right
    if not labelled.any():
        raise UserError('no pixel of the label maps has a class: there is nothing to score.')
    iou = 100 * right[union > 0] / union[union > 0]
    accuracy = 100 * right[labelled > 0] / labelled[labelled > 0]
    metrics = {
        'miou': float(iou.mean()),
        'macc': float(accuracy.mean()),
        'aacc': float(100 * right.sum() / labelled.sum()),
    }
    occurring = [name for name, pixels in zip(classes, union, strict=True) if pixels]
    return metrics, {n: {'iou': float(v)} for n, v in zip(occurring, iou, strict=True)}


def score_both(
    single: np.ndarray, multi: np.ndarray | None, classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """`score` of the predictions at one scale and, with names in `ms_`, at several scales."""
    metrics, per_class = score(single, classes)
    if multi is not None:
        more, more_per_class = score(multi, classes)
        metrics |= {f'ms_{name}': value for name, value in more.items()}
        for name, values in more_per_class.items():
            per_class.setdefault(name, {})['ms_iou'] = values['iou']
    return metrics, per_class


def score_folder(predictions: Path, annotations: Path, limit: int | None = None) -> Scored:
    """Score predicted label maps against those of a data set, without a model.

    The classes are those of the data set's `objectInfo150.txt`, two folders above `annotations`,
    and ADE20K's where there is none.

    Args:
        predictions: a folder of PNGs of the same names and form as in `annotations`, or the .zip
            that an evaluation kept; those in its folder `multi_scale` are scored as well.
        annotations: the folder of the label maps, as `annotations/validation`.
        limit: as many of them, evenly spaced, as were evaluated.

    Raises:
        UserError: if one is missing, too many, of another size, no label map or has a label
            without a class.
    """
    classes = class_names(annotations.absolute().parent.parent)
    labels = label_maps(annotations)
    if not labels:
        raise UserError(
            f'{annotations} has no label map: expected a folder of PNGs, such as '
            'ADEChallengeData2016/annotations/validation.'
        )
    taken = {name: labels[name] for name in evenly_spaced(list(labels), limit)}
    with opened(predictions) as folder:
        found = label_maps(folder)
        check_names(predictions, found, taken)
        more = label_maps(folder / MULTI_SCALE)
        if more:
            check_names(predictions / MULTI_SCALE, more, taken)
        totals = [np.zeros((len(classes), len(classes) + 1), np.int64) for _ in range(2)]
        for name, path in taken.items():
            label = read_label_map(path, len(classes))
            for total, maps in zip(totals, (found, more), strict=True):
                if maps:
                    prediction = read_label_map(maps[name], len(classes))
                    _check_size(maps[name], prediction, label)
                    total += confusion(prediction, label, len(classes))
    metrics, per_class = score_both(totals[0], totals[1] if more else None, classes)
    problems = incomplete('val', classes, list(labels), len(taken))
    return Scored(metrics, per_class, len(taken), problems)


@contextmanager
def opened(path: Path) -> Iterator[Path | zipfile.Path]:
    """The folder of predictions at `path`, or in the archive there.

    Raises:
        UserError: if it is neither.
    """
    if path.is_dir():
        yield path
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        reason = 'it does not exist' if isinstance(error, FileNotFoundError) else error
        raise UserError(
            f'the predictions {path} cannot be read ({reason}): expected a folder of PNGs, or the '
            '.zip that an evaluation kept.'
        ) from error
    with archive:
        yield zipfile.Path(archive)


def check_names(where: Path, found: Mapping[str, object], wanted: Mapping[str, Path]) -> None:
    """Hold the names of predictions in `where` against those of the label maps.

    Raises:
        UserError: naming one that is missing or too many.
    """
    told = f'the predictions {where} do not fit the {len(wanted):,} label maps: '
    if missing := [f'{name}.png' for name in wanted if name not in found]:
        raise UserError(
            f'{told}{shortened(missing, 1)} {by_number(missing, "is", "are")} missing; expected '
            'one for each, or name the same part with --limit.'
        )
    if extra := [f'{name}.png' for name in found if name not in wanted]:
        raise UserError(
            f'{told}{shortened(extra, 1)} {by_number(extra, "is", "are")} predicted but not there; '
            'name the annotations, and the --limit, that they were predicted for.'
        )


def to_png(labels: np.ndarray) -> bytes:
    """The labels (H, W) in uint8 as a PNG."""
    content = io.BytesIO()
    Image.fromarray(labels).save(content, 'PNG', compress_level=3)
    return content.getvalue()


def to_zip(files: Mapping[str, bytes]) -> bytes:
    """An archive of `files`, by name; the same content, the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        for name, file in files.items():
            archive.writestr(zipfile.ZipInfo(name, _FIRST_DAY), file)
    return content.getvalue()


def _check_size(path: Path | zipfile.Path, prediction: np.ndarray, label: np.ndarray) -> None:
    if prediction.shape != label.shape:
        (height, width), (wanted_height, wanted_width) = prediction.shape, label.shape
        raise UserError(
            f'the prediction {path} has {width} x {height} pixels and its label map '
            f'{wanted_width} x {wanted_height}: expected the same; predict at the size of the '
            'original image.'
        )
