"""What predictions score, one module for each kind; none of them needs torch or the model.

A module has functions that score predictions and write them as a file, from which the evaluation of
a model makes a `Scorer`, and a function that scores such a file.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
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


@dataclass
class Scorer:
    """Collects the predictions for a data set, batch by batch; scores them, and keeps them.

    Attributes:
        suffix: of the name of a file of predictions.
        score: computes the scores of the predictions of all images, in the order of the data set.
        write: returns them as the content of a file: the same predictions give the same bytes.
        collected: the predictions so far, each with the place of its image in the data set. These
            alone travel between processes.
    """

    suffix: str
    score: Callable[[list[Any]], Scores]
    write: Callable[[list[Any]], bytes]
    collected: list[tuple[int, Any]] = field(default_factory=list)

    def update(self, indices: Sequence[int], predictions: Sequence[Any]) -> None:
        """Add the predictions for the images of a batch, given their places in the data set."""
        self.collected += zip(indices, predictions, strict=True)

    def compute(self) -> Scores:
        """Return the scores of all predictions."""
        return self.score(self._in_order())

    def to_bytes(self) -> bytes:
        """Return the predictions as the content of a file."""
        return self.write(self._in_order())

    def _in_order(self) -> list[Any]:
        return [prediction for _, prediction in sorted(self.collected, key=itemgetter(0))]


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
