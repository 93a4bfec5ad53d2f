"""How far a measured value may lie from its target and still match it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeFloat

from reproduce.errors import UserError
from reproduce.files import read_toml
from reproduce.paper.metrics import METRICS
from reproduce.paper.printed import FOLDER, Printed


class Tolerance(BaseModel):
    """The allowed distance from a target: absolute + relative * |target| (+ half a unit)."""

    model_config = ConfigDict(extra='forbid')
    absolute: NonNegativeFloat = 0.0
    relative: NonNegativeFloat = 0.0
    half_unit: bool = False
    reason: str

    def width(self, target: Printed) -> float:
        """Return the allowed distance from `target`, in its unit."""
        rounding = target.half_unit if self.half_unit else 0.0
        return self.absolute + self.relative * abs(target.value) + rounding


def load_tolerances(folder: Path = FOLDER) -> dict[str, Tolerance]:
    """Return the tolerance of every metric, by its name, and that of 'reference' values.

    Raises:
        UserError: if the file is missing, malformed, or lacks a metric.
    """
    path = folder / 'tolerances.toml'
    tolerances = read_toml(path, dict[str, Tolerance])
    if missing := sorted({*METRICS, 'reference'} - tolerances.keys()):
        raise UserError(f'{path} has no tolerance for {", ".join(missing)}: add an entry for each.')
    return tolerances
