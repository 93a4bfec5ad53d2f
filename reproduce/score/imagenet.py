"""Predicted classes, kept beside a result, and what they score."""

import gzip
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype, is_numeric_dtype

from datasets.imagenet import ImageNet
from reproduce.errors import UserError
from reproduce.wording import by_number, shortened

TOP = 5
_FIXED = ['file', 'label']


@dataclass(frozen=True)
class Predictions:
    """The best classes of N images, the best first; K is 5, or all classes where there are fewer.

    Attributes:
        files: N names, as `names` gives them.
        labels: (N,) the right class of each.
        classes: (N, K) class indices.
        scores: (N, K) their probabilities.
    """

    files: tuple[str, ...]
    labels: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def to_csv(self) -> bytes:
        """A gzipped CSV: file, label, class1 ..., score1 ...; the same content, the same bytes."""
        ranks = range(1, self.classes.shape[1] + 1)
        frame = pd.DataFrame({'file': self.files, 'label': self.labels})
        frame[[f'class{i}' for i in ranks]] = self.classes
        frame[[f'score{i}' for i in ranks]] = self.scores
        return gzip.compress(frame.to_csv(index=False, float_format='%.6f').encode(), mtime=0)


def read(path: Path) -> Predictions:
    """The predictions in a CSV, gzipped or not.

    Raises:
        UserError: if it is missing, or no such file.
    """
    try:
        frame = pd.read_csv(path, dtype={'file': str}, keep_default_na=False)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(
            f'the predictions {path} cannot be read ({error}): expected a CSV, or a gzipped one, '
            'that an evaluation wrote.'
        ) from error
    k = sum(name.startswith('class') for name in frame.columns)
    columns = [f'{kind}{i}' for kind in ('class', 'score') for i in range(1, k + 1)]
    if k == 0 or list(frame.columns) != [*_FIXED, *columns]:
        raise UserError(
            f'the predictions {path} have the columns {",".join(frame.columns)}: expected '
            f'{",".join(_FIXED)},class1,...,score1,...'
        )
    classes, scores = frame[columns[:k]], frame[columns[k:]]
    whole = [is_integer_dtype(dtype) for dtype in [*classes.dtypes, frame.label.dtype]]
    if not all([*whole, *map(is_numeric_dtype, scores.dtypes)]):
        raise UserError(
            f'the predictions {path} have a class or a score that is no number: restore the file, '
            'or evaluate again.'
        )
    return Predictions(
        tuple(frame.file), frame.label.to_numpy(), classes.to_numpy(), scores.to_numpy()
    )


def names(data: ImageNet) -> tuple[str, ...]:
    """The name of each image: that of its file, or with its class where file names repeat."""
    files = tuple(path.name for path, _ in data.samples)
    if len(set(files)) == len(files):
        return files
    return tuple(f'{data.classes[label]}/{path.name}' for path, label in data.samples)


def matched(predictions: Predictions, data: ImageNet, path: Path) -> Predictions:
    """`predictions` in the order of the images of `data`, with the labels of `data`.

    Raises:
        UserError: naming an image without a prediction, with two, or that `data` does not have.
    """
    wanted, count = names(data), Counter(predictions.files)
    told = f'the predictions {path} do not fit the {len(wanted):,} images of {data.root}: '
    if doubled := [name for name in count if count[name] > 1]:
        raise UserError(
            f'{told}{shortened(doubled, 1)} {by_number(doubled, "is", "are")} predicted more than '
            'once; expected one prediction for each.'
        )
    if missing := [name for name in wanted if name not in count]:
        raise UserError(
            f'{told}{shortened(missing, 1)} {by_number(missing, "is", "are")} not predicted; '
            'evaluate again, or name the same part with --limit.'
        )
    if unknown := sorted(count.keys() - set(wanted)):
        raise UserError(
            f'{told}{shortened(unknown, 1)} {by_number(unknown, "is", "are")} predicted but not '
            'there; name the folder, and the --limit, that they were predicted on.'
        )
    place = {name: i for i, name in enumerate(predictions.files)}
    order = [place[name] for name in wanted]
    labels = np.array([label for _, label in data.samples])
    return Predictions(wanted, labels, predictions.classes[order], predictions.scores[order])


def score(
    labels: np.ndarray, classes: np.ndarray
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Top-1 and Top-5 in percent, and the 95 % Wilson interval of each.

    Args:
        labels: (N,) the right classes.
        classes: (N, K) the predicted ones, the best first.
    """
    hits = classes == labels[:, None]
    counts = {'top1': int(hits[:, 0].sum()), 'top5': int(hits[:, :TOP].any(1).sum())}
    return (
        {name: 100 * count / len(labels) for name, count in counts.items()},
        {name: wilson(count, len(labels)) for name, count in counts.items()},
    )


def wilson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of `count` successes out of `n`, in percent."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = count / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)
