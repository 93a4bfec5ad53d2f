"""How far a measured value may lie from its target and still match it, and why."""

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from reproduce.base.errors import UserError
from reproduce.base.files import read_toml
from reproduce.paper.metrics import METRICS
from reproduce.paper.printed import FOLDER, Printed
from reproduce.statistics.significance import resolvable

# Half the width of a 95 % interval, in standard deviations.
_NORMAL_95 = 1.96


class Sampling(BaseModel):
    """How far chance moves the difference of two networks on the images of a data set.

    Attributes:
        deviation: the standard deviation of what one image adds to the difference, in percent: that
            of the difference times the square root of the number of images.
        images: of the data set.
        source: where the deviation is from.
        estimate: whether it was measured on other networks than these tables'.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    deviation: PositiveFloat
    images: PositiveInt
    source: str
    estimate: bool

    @property
    def width(self) -> float:
        """Half the width of the 95 % interval of the difference, in percent."""
        return _NORMAL_95 * self.deviation / math.sqrt(self.images)


class Seeds(BaseModel):
    """How far two trainings by one protocol are apart in a metric.

    Attributes:
        width: half the width of the 95 % interval of their difference, in percent.
        pairs: the systems that it was measured on, whose public weights others have trained.
        source: where that is from.
        estimate: whether it was measured on other networks than these tables'.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    width: NonNegativeFloat
    pairs: tuple[str, ...] = ()
    source: str
    estimate: bool


class Tolerance(BaseModel):
    """The allowed distance from a target, the sum of its parts.

    They are absolute, relative * |target|, half a unit of the last printed digit, and sampling and
    seeds, which are taken together as independent.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    absolute: NonNegativeFloat = 0.0
    relative: NonNegativeFloat = 0.0
    half_unit: bool = False
    sampling: Sampling | None = None
    seeds: Seeds | None = None
    reason: str

    @property
    def resolvable(self) -> float | None:
        """The smallest true difference of two networks that a test on the data set finds in 80 %.

        In percent; None for complexity. See `statistics.significance.resolvable`.
        """
        return self.sampling and resolvable(self.sampling.deviation, self.sampling.images)

    def of_part(self, share: float) -> 'Tolerance':
        """Return the tolerance of a target of which only a share may deviate.

        Args:
            share: what the backbone has of a detector or segmenter, whose heads are the same for
                all backbones; from 0 to 1.
        """
        return self.model_copy(update={'relative': self.relative * share})

    def width(self, target: Printed) -> float:
        """Return the allowed distance from `target`, in its unit."""
        sampling = self.sampling.width if self.sampling else 0.0
        return self._fixed(target) + math.hypot(sampling, self._of_seeds)

    def width_of_seeds(self, target: Printed) -> float:
        """Return the same without sampling: for a value that was measured on the same images."""
        return self._fixed(target) + self._of_seeds

    def _fixed(self, target: Printed) -> float:
        rounding = target.half_unit if self.half_unit else 0.0
        return self.absolute + self.relative * abs(target.value) + rounding

    @property
    def _of_seeds(self) -> float:
        return self.seeds.width if self.seeds else 0.0


def load_tolerances(folder: Path = FOLDER) -> dict[str, Tolerance]:
    """Return the tolerance of every metric, by its name, and that of 'reference' values.

    Raises:
        UserError: if the file is missing, malformed, or lacks a metric.
    """
    path = folder / 'tolerances.toml'
    tolerances = read_toml(path, dict[str, Tolerance])
    if missing := sorted({*METRICS, 'reference'} - tolerances.keys()):
        raise UserError(f'{path} has no tolerance for {", ".join(missing)}: add an entry for each.')
    for name, metric in METRICS.items():
        if not metric.is_complexity and None in (tolerances[name].sampling, tolerances[name].seeds):
            raise UserError(f'{path} has no sampling or no seeds for {name}: add both.')
    return tolerances
