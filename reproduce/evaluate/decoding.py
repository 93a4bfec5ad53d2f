"""How many images one core reads and prepares in a second, and how many workers a device needs."""

import io
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from datasets.imagenet import open_image
from datasets.stores import AnyPath
from datasets.survey import form_of, source
from reproduce.tasks import Task

if TYPE_CHECKING:
    from reproduce.tasks.job import DataSet

_SECONDS = 0.15  # of CPU time for each task
_IMAGES = 16


@dataclass(frozen=True)
class DecodingRate:
    """What one core of this machine reads of a task's images.

    Attributes:
        images_per_s: read, decoded and resized as the evaluation does it.
        basis: which images were read.
    """

    images_per_s: float
    basis: str

    def workers(self, computed_per_s: float) -> int:
        """Return how many processes have to read so that a device that computes so many is busy."""
        return max(1, math.ceil(computed_per_s / self.images_per_s))


def decoding_rate(task: Task, data: 'DataSet | None') -> DecodingRate:
    """Measure how fast one core reads images of `data`; without, of drawn ones of a usual size.

    It is CPU time: a disk that is slower than the core is not in it.

    Raises:
        UserError: if an image of `data` cannot be read.
    """
    if data is not None:
        step = max(1, len(data.samples) // _IMAGES)
        files = [sample[0] for sample in data.samples[::step][:_IMAGES]]
        sources = [partial(_itself, file) for file in files]
        basis = f'of {len(sources)} images from {source(form_of(files[0]))} in {data.root}'
    else:
        sources = [partial(io.BytesIO, _jpeg(task.image_size, seed)) for seed in range(2)]
        basis = 'of drawn JPEGs of {} x {}'.format(*task.image_size)
    _prepare(sources[0](), task.short_side)  # what Pillow loads at its first image is not measured
    done, begin = 0, time.thread_time()
    while (passed := time.thread_time() - begin) < _SECONDS or done == 0:
        _prepare(sources[done % len(sources)](), task.short_side)
        done += 1
    return DecodingRate(done / passed, basis)


def _itself(file: AnyPath) -> AnyPath:
    return file


def _prepare(source: AnyPath | io.BytesIO, short_side: int) -> np.ndarray:
    image = open_image(source)
    ratio = short_side / min(image.size)
    size = tuple(round(side * ratio) for side in image.size)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def _jpeg(size: tuple[int, int], seed: int) -> bytes:
    """Return a JPEG of smooth colours and some noise, as large as a photograph's of that size."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
    smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + rng.integers(-12, 13, smooth.shape)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, 'JPEG', quality=90)
    return buffer.getvalue()
