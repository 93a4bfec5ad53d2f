"""What predictions score, one module for each kind; none of them needs torch or the model.

A module has functions that score predictions and write them as a file, from which the evaluation of
a model makes a `Scorer`, and a function that scores such a file.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproduce.base.errors import UserError
from reproduce.base.wording import by_number, shortened
from reproduce.statistics.per_image import PerImage


@dataclass(frozen=True)
class Scores:
    """What the predictions for a data set score, in percent."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]  # the 95 % interval of each metric
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)  # by the class's name
    # What the metrics are computed from, image by image.
    statistics: PerImage | None = field(default=None, compare=False, repr=False)
    warnings: tuple[str, ...] = ()  # signs that the predictions follow another convention


@dataclass(frozen=True)
class Scorer:
    """Scores the predictions for all images of a data set, in its order, and writes them.

    Attributes:
        suffix: of the name of a file of predictions.
        score: computes their scores.
        write: returns them as the content of a file: the same predictions give the same bytes.
    """

    suffix: str
    score: Callable[[list[Any]], Scores]
    write: Callable[[list[Any]], bytes]


def check_images(path: Path, predicted: Iterable[str], wanted: Iterable[str]) -> None:
    """Check that the file or folder `path` has one prediction for each image.

    Raises:
        UserError: if an image has none or two, or is not wanted; it is named.
    """
    count, names = Counter(iter(predicted)), dict.fromkeys(wanted)
    for images, problem in (
        ([name for name in count if count[name] > 1], 'predicted more than once'),
        ([name for name in names if name not in count], 'not predicted'),
        (sorted(count.keys() - names.keys()), 'predicted but not there'),
    ):
        if images:
            raise UserError(
                f'the predictions {path} do not fit the {len(names):,} images: '
                f'{shortened(images, 1)} {by_number(images, "is", "are")} {problem}; name the data '
                'and the --limit that they were predicted for.'
            )
