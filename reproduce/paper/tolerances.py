"""How far a measured value may lie from its target and still match it, and why."""

import math
from functools import cache

from pydantic import BaseModel, NonNegativeFloat, PositiveFloat, PositiveInt

from reproduce.base.files import read_toml
from reproduce.base.folders import PAPERS
from reproduce.paper.printed import FOLDER, Printed
from reproduce.statistics.significance import resolvable


class Sampling(BaseModel, extra='forbid', frozen=True):
    """How far chance moves the difference of two networks on the images of a data set.

    Attributes:
        deviation: the standard deviation of what one image adds to the difference, in percent: that
            of the difference times the square root of the number of images.
        estimate: whether it was measured on other networks than these tables'.
    """

    deviation: PositiveFloat
    images: PositiveInt
    source: str
    estimate: bool


class Seeds(BaseModel, extra='forbid', frozen=True):
    """How far two trainings by one protocol are apart in a metric.

    Attributes:
        width: half the width of the 95 % interval of their difference, in percent.
        pairs: the systems that it was measured on, whose public weights others have trained.
        estimate: whether it was measured on other networks than these tables'.
    """

    width: NonNegativeFloat
    pairs: tuple[str, ...] = ()
    source: str
    estimate: bool


class Tolerance(BaseModel, extra='forbid', frozen=True):
    """The allowed distance from a target, the sum of its parts.

    They are absolute, relative * |target|, half a unit of the last printed digit, and sampling and
    seeds, which are taken together as independent.
    """

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
        sampling = self.sampling
        return resolvable(sampling.deviation, sampling.images) if sampling else None

    def of_part(self, share: float) -> 'Tolerance':
        """Return the tolerance of a target of which only a share, from 0 to 1, may deviate.

        It is what the backbone has of a detector or segmenter, whose heads all backbones share.
        """
        return self.model_copy(update={'relative': self.relative * share})

    def width(self, target: Printed) -> float:
        """Return the allowed distance from `target`, in its unit."""
        seeds = self.seeds.width if self.seeds else 0.0
        sampling = 0.0
        if self.sampling:  # half the width of a 95 % interval
            sampling = 1.96 * self.sampling.deviation / math.sqrt(self.sampling.images)
        return self._fixed(target) + math.hypot(sampling, seeds)

    def width_of_seeds(self, target: Printed) -> float:
        """Return the same without sampling: for a value that was measured on the same images."""
        return self._fixed(target) + (self.seeds.width if self.seeds else 0.0)

    def _fixed(self, target: Printed) -> float:
        rounding = target.half_unit if self.half_unit else 0.0
        return self.absolute + self.relative * abs(target.value) + rounding


@cache
def load_tolerances() -> dict[str, Tolerance]:
    """Return the tolerance of every metric, by its name, and that of 'reference' values.

    Those of a paper's own `tolerances.toml` replace the shared ones.
    """
    own = FOLDER / 'tolerances.toml'
    return {
        name: tolerance
        for path in (PAPERS / own.name, own)
        if path.is_file()
        for name, tolerance in read_toml(path, dict[str, Tolerance]).items()
    }
