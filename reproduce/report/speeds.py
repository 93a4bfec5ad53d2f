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
        peak_memory_mib: the memory that a forward pass adds: of a classifier, that of the features
            of one 800 x 1280 image; of others, that of one image of `size`.
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
        UserError: if the file is malformed, or holds speeds that cannot be compared.
    """
    path = results / FILE
    speeds = [speed for _, speed in read_csv(path, Speed)] if path.is_file() else []
    batches = {(speed.size, speed.batch_size) for speed in speeds}
    if len({s.run for s in speeds}) > 1 or len(batches) > len({s.size for s in speeds}):
        raise UserError(
            f'{path} holds several runs of the benchmark, which cannot be compared: write it again '
            'with `make benchmark`.'
        )
    return {speed.model: speed for speed in speeds}


def keep_speeds(results: Path, measured: Collection[Speed]) -> Path:
    """Write what one run measured; return the file.

    Earlier lines are kept if they can be compared: those of images of another size, measured in the
    same way on the same device.
    """
    try:
        earlier = load_speeds(results)
    except UserError:  # of another version, or of several runs
        earlier = {}
    sizes, runs = {speed.size for speed in measured}, {speed.run for speed in measured}
    kept = {n: s for n, s in earlier.items() if s.run in runs and s.size not in sizes}
    kept |= {speed.model: speed for speed in measured}
    path = results / FILE
    write_csv(path, Speed, [speed.model_dump() for speed in kept.values()])
    return path


def conditions(speeds: Collection[Speed]) -> str:
    """Return how speeds were measured, as a phrase."""
    first = next(iter(speeds))
    sizes = {speed.size: speed.batch_size for speed in speeds}
    at = ' and '.join(f'{size} in batches of {batch}' for size, batch in sizes.items())
    memory = 'features of one 800 x 1280 image' if '224 x 224' in sizes else 'pass of one image'
    compiled = ', compiled' if first.compiled else ''
    how = f'{first.precision}{compiled}, on {first.device}'
    return f'images/s at {at}, {how}; peak memory of the {memory}'
