"""What networks really cost: the images/s and the peak memory that the benchmark measured."""

from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveFloat

from reproduce.base.errors import UserError
from reproduce.base.files import read_csv, write_csv

FILE = 'speed.csv'


class Speed(BaseModel):
    """A line of `results/speed.csv`: one network, as `make benchmark` measured it.

    Attributes:
        model: a timm model, or a system of the tables.
        images_per_s: the median of several rounds.
        peak_memory_mib: what a pass adds to the memory in use: of a classifier the one that gives
            the features of one 800 x 1280 image, of others that of one image of `size`.
        device: its name, and for a CPU the number of threads.
        precision, batch_size: of the images/s.
        torch: the version.
        size: of the images, 'height x width' in pixels.
        compiled: whether by `torch.compile`.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    model: str
    images_per_s: PositiveFloat
    peak_memory_mib: PositiveFloat
    device: str
    precision: str
    batch_size: int
    torch: str
    size: str = '224 x 224'
    compiled: bool = False

    @property
    def run(self) -> tuple:
        """What is the same for all networks that were measured together."""
        return self.device, self.precision, self.torch, self.compiled


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
    of_size = {(s.size, s.batch_size) for s in speeds}
    runs = {s.run for s in speeds}
    if (
        len(runs) > 1
        or len(of_size) > len({size for size, _ in of_size})
        or len({s.model for s in speeds}) < len(speeds)
    ):
        raise UserError(
            f'{path} holds several runs of the benchmark, which do not compare: write it again '
            'with `make benchmark`.'
        )
    return {speed.model: speed for speed in speeds}


def keep_speeds(results: Path, measured: Collection[Speed]) -> Path:
    """Write what one run measured; return the file.

    Earlier lines stay where they compare: those of images of another size, measured in the same
    way on the same device.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        earlier = load_speeds(results).values()
    except UserError:  # of another version, or of several runs: it is made anew
        earlier = ()
    new = {speed.model for speed in measured}
    runs, sizes = {s.run for s in measured}, {s.size for s in measured}
    kept = [s for s in earlier if s.run in runs and s.size not in sizes and s.model not in new]
    path = results / FILE
    write_csv(path, Speed, [speed.model_dump() for speed in (*kept, *measured)])
    return path


def conditions(speeds: Collection[Speed]) -> str:
    """Return how the speeds were measured that a table shows, as a phrase."""
    first = next(iter(speeds))
    sizes = {s.size: s.batch_size for s in speeds}
    memory = 'the features of one 800 x 1280 image'
    if '224 x 224' not in sizes:
        memory = 'the forward pass of one image'
    at = ' and '.join(f'{size} in batches of {batch}' for size, batch in sizes.items())
    compiled = ', compiled' if first.compiled else ''
    return (
        f'images/s at {at}, {first.precision}{compiled}, on {first.device}; peak memory of {memory}'
    )
