"""Why an accuracy has no evaluation on the complete data, as data: a sentence only when printed."""

from dataclasses import dataclass

from reproduce.evaluate.records import Evaluation
from reproduce.weights.store import expected


@dataclass(frozen=True)
class NotRun:
    """An accuracy that was not measured, because something is missing.

    Two systems that lack the same things have equal values, so that they can be listed together.

    Attributes:
        weights_folder: where the checkpoint is expected; '' if it is there.
        data: the data that are missing, and where they are expected; '' if they are there.
        part: the measured value, the number of images and the record's stem of an evaluation on a
            part of the data, where there is one.
    """

    weights_folder: str = ''
    data: str = ''
    part: tuple[float, int, str] | None = None

    def sentence(self, system: str) -> str:
        """Return what is missing for `system`."""
        missing = [self.data] if self.data else []
        if self.weights_folder:
            missing.insert(0, expected(self.weights_folder, system))
        found = 'no evaluation on record'
        if self.part is not None:
            value, images, _ = self.part
            found = (
                f'only a part was evaluated, {value:.2f} on {images:,} images, which is not held '
                'against the paper'
            )
        return f'{found}; it takes {" and ".join(missing)}'


@dataclass(frozen=True)
class Failed:
    """An evaluation that should have run, and failed."""

    message: str


Accuracy = Evaluation | NotRun | Failed
