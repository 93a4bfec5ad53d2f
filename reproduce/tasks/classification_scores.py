"""Predicted classes of images: what they score, and the file that keeps them."""

import gzip
import io
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.errors import ParserWarning
from scipy.optimize import linear_sum_assignment

from datasets.subset import Split
from reproduce.base.errors import UserError
from reproduce.base.files import reason, unzipped
from reproduce.statistics.classification_metrics import ImageHits
from reproduce.tasks.scores import Scores, check_images

TOP = 5

_DIGITS = 6  # of the scores in a file
_NO_PROBABILITIES = 'the scores are no probabilities: there is no calibration error.'

# Of the classes whose order is checked: the assignment takes the square of their number in memory.
_MOST_CLASSES = 3000


@dataclass(frozen=True)
class Predictions:
    """The best classes (N, K) of N images with their probabilities, the best first."""

    files: tuple[str, ...]  # the names of the images
    labels: np.ndarray  # (N,) their right classes
    classes: np.ndarray
    scores: np.ndarray

    def to_csv(self) -> bytes:
        """Return a gzipped CSV with the columns file, label, class1, ..., score1, ..."""
        ranks = range(1, self.classes.shape[1] + 1)
        frame = pd.DataFrame({'file': self.files, 'label': self.labels})
        frame[[f'class{i}' for i in ranks]] = self.classes
        frame[[f'score{i}' for i in ranks]] = self.scores
        return gzip.compress(
            frame.to_csv(index=False, float_format=f'%.{_DIGITS}f').encode(), mtime=0
        )


def score(predictions: Predictions, classes: Sequence[str], top5: bool = True) -> Scores:
    """Return Top-1, Top-5 and the calibration error with their 95 % intervals.

    There is a warning if the classes look numbered in another order, and if the scores are no
    probabilities, which have no calibration error.

    Args:
        classes: their names; each with an image gets its Top-1.
        top5: whether five classes are predicted for an image, or all where there are fewer;
            otherwise there is no Top-5.
    """
    labels, best, scores = predictions.labels, predictions.classes[:, 0], predictions.scores
    right = predictions.classes[:, :TOP] == labels[:, None]
    hits = np.stack([right[:, 0], right.any(1)], 1)[:, : 1 + top5]
    probable = bool(((scores >= 0) & (scores <= 1)).all())
    # As many digits as the file has, from which the same is computed.
    confidence = scores[:, 0].astype(float).round(_DIGITS) if probable else None
    statistics = ImageHits(labels, hits, confidence)
    of_class = {name: right[labels == k, 0] for k, name in enumerate(classes)}
    return Scores(
        statistics.metrics(),
        statistics.intervals(),
        {name: {'top1': 100 * float(of.mean())} for name, of in of_class.items() if of.size},
        statistics,
        order_warnings(best, labels) + (() if probable else (_NO_PROBABILITIES,)),
    )


def read(path: Path) -> Predictions:
    """Read the predictions from a CSV, gzipped or not."""
    try:
        with warnings.catch_warnings(action='error', category=ParserWarning):
            frame = pd.read_csv(
                io.BytesIO(unzipped(path.read_bytes())),
                dtype=defaultdict[str, type](lambda: float, file=str),
                keep_default_na=False,
                index_col=False,
            )
    except (OSError, EOFError, ValueError, ParserWarning, zlib.error) as error:
        raise UserError(f'the predictions {path} cannot be read: {reason(error)}.') from error
    k = sum(name.startswith('class') for name in frame.columns)
    columns = [f'{kind}{i}' for kind in ('class', 'score') for i in range(1, k + 1)]
    if k == 0 or list(frame.columns) != ['file', 'label', *columns]:
        raise UserError(
            f'the predictions {path} have the columns {",".join(frame.columns)}: expected '
            'file,label,class1,...,score1,...'
        )
    labels, numbers = frame.label.to_numpy(), frame[columns].to_numpy(float)
    classes, scores = numbers[:, :k], numbers[:, k:]
    ordered = np.sort(classes, 1)
    sound = (
        np.isfinite(numbers).all(1)
        & (classes % 1 == 0).all(1)
        & (ordered[:, 1:] > ordered[:, :-1]).all(1)
        & (scores[:, 1:] <= scores[:, :-1]).all(1)
    )
    if not sound.all():
        raise UserError(
            f'the predictions {path} are damaged at {frame.file[sound.argmin()]}: expected '
            'different classes for each image, the best first, with finite scores.'
        )
    return Predictions(tuple(frame.file), labels.astype(int), classes.astype(int), scores)


def order_warnings(predicted: np.ndarray, labels: np.ndarray) -> tuple[str, ...]:
    """Return a warning if the classes seem to be numbered in another order than the labels.

    Classes are assigned one to one to the labels on half of the images. The order is in doubt where
    that makes more than twice as many of the other half right, beyond four standard deviations.

    Args:
        predicted: (N,) the best class of each image, counted from 0.
        labels: (N,) its right class.
    """
    n = int(max(predicted.max(initial=0), labels.max(initial=0))) + 1
    if n > _MOST_CLASSES:
        return ()
    # Images lie in the order of their classes: each half has about as many of every class.
    counts = np.zeros((n, n), np.int64)
    np.add.at(counts, (labels[::2], predicted[::2]), 1)
    assigned = linear_sum_assignment(counts, maximize=True)[1]
    now = (predicted[1::2] == labels[1::2]).sum()
    otherwise = (predicted[1::2] == assigned[labels[1::2]]).sum()
    if otherwise <= 2 * now or otherwise - now <= 4 * np.sqrt(otherwise + now):
        return ()
    return (
        'the classes seem to be numbered in another order than those of the data: with the best '
        f'order Top-1 would be {100 * otherwise / len(labels[1::2]):.2f} %; number them as the '
        'sorted class folders.',
    )


def matched(predictions: Predictions, data: Split, path: Path) -> Predictions:
    """Return the predictions of a file in the order of the images of `data`, with its labels."""
    wanted, n = data.names, len(data.classes)
    check_images(path, predictions.files, wanted)
    outside = (predictions.classes < 0) | (predictions.classes >= n)
    if outside.any():
        row, column = np.unravel_index(outside.argmax(), outside.shape)
        raise UserError(
            f'the predictions {path} have the class {predictions.classes[row, column]} for '
            f'{predictions.files[row]}; expected one of the {n:,} classes, 0 to {n - 1}.'
        )
    place = {name: i for i, name in enumerate(predictions.files)}
    order = [place[name] for name in wanted]
    labels = np.array([label for _, label in data.samples])
    return Predictions(wanted, labels, predictions.classes[order], predictions.scores[order])


def score_file(path: Path, data: Split) -> Scores:
    """See `Task.score_file`.

    There is a Top-5 if the file has five classes for each image, or all where there are fewer.
    """
    predictions = matched(read(path), data, path)
    top5 = predictions.classes.shape[1] >= min(TOP, len(data.classes))
    return score(predictions, data.classes, top5)


def most_confused(path: Path, data: Split, pairs: int = 20) -> list[tuple[str, str, int]]:
    """Return the class, the wrong class and the number of images of what a file confuses most."""
    found = matched(read(path), data, path)
    wrong = found.classes[:, 0] != found.labels
    counts = Counter(zip(found.labels[wrong], found.classes[wrong, 0], strict=True))
    return [(data.classes[k], data.classes[j], n) for (k, j), n in counts.most_common(pairs)]


def differing(path: Path, data: Split, again: Mapping[int, tuple[np.ndarray, ...]]) -> list[int]:
    """Return for which images a file has other classes than `again`, ties in any order."""
    kept, differ = matched(read(path), data, path).classes[:, :TOP], []
    for index, (classes, scores) in again.items():
        found = dict(zip(classes.tolist(), scores.tolist(), strict=True))
        of_kept = [found.get(label, 0) for label in kept[index].tolist()]
        if not np.allclose(of_kept, scores[: len(of_kept)], rtol=1e-3, atol=0):
            differ.append(index)
    return differ
