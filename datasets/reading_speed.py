"""How fast the images of a data set are read and decoded, in the form in which they lie there."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from datasets.image_files import unreadable
from datasets.imagenet import open_image
from datasets.stores import AnyPath
from datasets.survey import form_of, source


@dataclass(frozen=True)
class ReadingSpeed:
    """What one core reached that read and decoded images one after the other.

    Attributes:
        form: of the data, such as 'folder', 'zip' or 'parquet shards'.
        images: how many were read.
        bytes: of these images.
        reading: seconds that reading took.
        decoding: seconds that decoding took; nothing was resized.
    """

    form: str
    images: int
    bytes: int
    reading: float
    decoding: float

    @property
    def images_per_s(self) -> float:
        """Images that one core reads and decodes in a second."""
        return self.images / (self.reading + self.decoding)

    def __str__(self) -> str:
        return (
            f'{self.images} of them decoded, {self.images / self.decoding:.0f} a second on one '
            f'core; read from {source(self.form)} at {self.bytes / self.reading / 2**20:.0f} MiB/s'
        )


def measure_reading(paths: Sequence[AnyPath], most_seconds: float = float('inf')) -> ReadingSpeed:
    """Read and decode images, one after the other.

    Args:
        paths: of the images, at least one.
        most_seconds: after so many, no further image is read.

    Raises:
        UserError: if one cannot be read or decoded.
    """
    size, count, reading, begin = 0, 0, 0.0, time.perf_counter()
    for path in paths:
        started = time.perf_counter()
        try:
            size += len(path.read_bytes())
        except OSError as error:
            raise unreadable('image', path, error) from error
        reading += time.perf_counter() - started
        open_image(path)
        count += 1
        if time.perf_counter() - begin > most_seconds:
            break
    decoding = time.perf_counter() - begin - reading
    return ReadingSpeed(form_of(paths[0]), count, size, reading, decoding)
