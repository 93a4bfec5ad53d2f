"""What predictions score, one module for each kind; none of them needs torch or the model.

A module has a `Scorer` for the evaluation of a model, and a function that scores kept predictions.
A scorer gets the predictions batch by batch, and what the processes of an evaluation collected is
merged before the result is computed.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproduce.base.errors import UserError
from reproduce.base.wording import by_number, shortened
from reproduce.statistics import PerImage


@dataclass(frozen=True)
class Scores:
    """What the predictions for a data set score.

    Attributes:
        metrics: each metric, in percent.
        intervals: the 95 % interval of each metric, in percent.
        per_class: the metrics of single classes, by the name of the class, in percent.
        statistics: what the metrics are computed from, image by image.
        warnings: a sentence for each sign that the predictions follow another convention.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    statistics: PerImage | None = field(default=None, compare=False, repr=False)
    warnings: tuple[str, ...] = ()


class Scorer(ABC):
    """Collects the predictions for a data set, batch by batch; scores them, and keeps them.

    Attributes:
        suffix: of the name of a file with `to_bytes`.
        collected: what was collected so far, which `+=` adds up: a list or a counter. This alone
            travels between processes.
    """

    suffix = ''
    collected: Any

    @abstractmethod
    def update(self, indices: Sequence[int], predictions: Any) -> None:
        """Add a batch.

        Args:
            indices: the place of each image in the data set.
            predictions: those of the images, in the form of the task.
        """

    def merge(self, collected: Any) -> None:
        """Add what a scorer of the same kind collected from other images."""
        self.collected += collected

    @abstractmethod
    def compute(self) -> Scores:
        """Return the metrics of all predictions so far.

        Raises:
            UserError: if there is nothing to score them against.
        """

    def to_bytes(self) -> bytes:
        """Return the predictions as the content of a file: the same ones give the same bytes."""
        raise NotImplementedError


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
                f'{shortened(images, 1)} {by_number(images, "is", "are")} {problem}; expected one '
                'prediction for each; name the data and the --limit that they were predicted for.'
            )
