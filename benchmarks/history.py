"""Past runs of the speed benchmark, and what of the last one is slower than before."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, NonNegativeFloat, PositiveFloat

from reproduce.base.files import read_csv, write_csv

FILE = 'speed_history.csv'
KEPT = 20  # runs of one network under the same conditions

# What a machine's speed moves by between two runs, beyond what the noise within them shows.
DRIFT = 0.03


class PastRun(BaseModel):
    """What one run measured of one network.

    Attributes:
        date: when the run ended, as ISO 8601 has it.
        machine: the device and, of a CPU, the number of threads and the clock.
        model: a timm model or a system.
        work: 'inference' or 'training'.
        size: of the images, 'height x width'.
        precision: 'fp32', 'fp16' or 'bf16'.
        compiled: whether by `torch.compile`.
        noise: half of the 95 % interval of the median, over it.
        peak_share: multiply-adds a second over those of a product of matrices in the same run.
        peak_memory_mib: see `Speed`; None where it was not measured.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    date: str
    machine: str
    model: str
    work: str
    size: str
    batch_size: int
    precision: str
    compiled: bool
    torch: str
    images_per_s: PositiveFloat
    noise: NonNegativeFloat
    peak_share: PositiveFloat
    peak_memory_mib: Annotated[
        float | None, BeforeValidator(lambda value: None if value == '' else value)
    ] = None

    @property
    def conditions(self) -> tuple:
        """What has to be equal for two runs to compare."""
        return (
            *(self.machine, self.model, self.work, self.size),
            *(self.batch_size, self.precision, self.compiled),
        )


def load(folder: Path) -> list[PastRun]:
    """Return the past runs in `folder`, oldest first; none where there is no file.

    Raises:
        UserError: if the file is malformed.
    """
    path = folder / FILE
    return [run for _, run in read_csv(path, PastRun)] if path.is_file() else []


def slower(past: Sequence[PastRun], runs: Sequence[PastRun]) -> list[str]:
    """Return a sentence for each of `runs` that is slower than the last one of `past` like it.

    Compared are shares of the peak, which the machine's other load moves less than images/s; by
    more than both runs' noise and DRIFT together.
    """
    last = {run.conditions: run for run in past}
    sentences = []
    for run in runs:
        before = last.get(run.conditions)
        if before is None:
            continue
        change = run.peak_share / before.peak_share - 1
        noise = (run.noise**2 + before.noise**2) ** 0.5 + DRIFT
        if change < -noise:
            torch = '' if run.torch == before.torch else f', torch {before.torch} then'
            sentences.append(
                f'{run.model}: {run.images_per_s:.4g} images/s, {before.images_per_s:.4g} on '
                f'{before.date[:10]}{torch}: {-change:.0%} less of the peak, and the noise is '
                f'{noise:.0%}.'
            )
    return sentences


def add(folder: Path, runs: Sequence[PastRun]) -> Path:
    """Write `runs` behind the past ones of `folder`; return the file.

    Raises:
        UserError: if the file is malformed or cannot be written.
    """
    lines = [*load(folder), *runs]
    kept: list[PastRun] = []
    for i, line in enumerate(lines):
        later = sum(other.conditions == line.conditions for other in lines[i + 1 :])
        if later < KEPT:
            kept.append(line)
    path = folder / FILE
    write_csv(path, PastRun, [run.model_dump() for run in kept])
    return path
