"""What networks really cost: the images/s and the peak memory that the benchmark measured."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveFloat

from reproduce.errors import UserError
from reproduce.files import read_csv

FILE = 'speed.csv'


class Speed(BaseModel):
    """A line of `results/speed.csv`: one network, as `make benchmark` measured it.

    Attributes:
        model: the timm model.
        images_per_s: at 224 x 224, the median of several rounds.
        peak_memory_mib: what the features of one 800 x 1280 image add to the memory in use.
        device: its name, and for a CPU the number of threads.
        precision, batch_size: of the images/s.
        torch: the version.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    model: str
    images_per_s: PositiveFloat
    peak_memory_mib: PositiveFloat
    device: str
    precision: str
    batch_size: int
    torch: str


def load_speeds(results: Path) -> dict[str, Speed]:
    """Return what the benchmark measured, by model; nothing where it was not run.

    Raises:
        UserError: if the file is malformed, or of several runs: speeds of two devices are no
            comparison.
    """
    path = results / FILE
    if not path.is_file():
        return {}
    speeds = [speed for _, speed in read_csv(path, Speed)]
    runs = {(s.device, s.precision, s.batch_size, s.torch) for s in speeds}
    if len(runs) > 1 or len({s.model for s in speeds}) < len(speeds):
        raise UserError(
            f'{path} holds several runs of the benchmark, which do not compare: write it again '
            'with `make benchmark`.'
        )
    return {speed.model: speed for speed in speeds}


def conditions(speed: Speed) -> str:
    """Return how a speed was measured, as a phrase."""
    return (
        f'images/s at 224 x 224 in {speed.precision}, batches of {speed.batch_size}, on '
        f'{speed.device}; peak memory of the features of one 800 x 1280 image'
    )
