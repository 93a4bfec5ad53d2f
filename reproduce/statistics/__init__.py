"""How far a metric may move by chance: intervals, tests, and the counts of each image behind them.

A data set is a sample of images, and another sample would have given another number. Proportions
(Top-1, Top-5) have closed forms. AP, AR and mIoU are not means over images; their distribution is
found by the bootstrap over images: B. Efron, Bootstrap methods: another look at the jackknife,
Annals of Statistics 7 (1979). Both work on counts of each image, `PerImage`, with one class for
each task. Nothing here needs torch, a model or the data set.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from reproduce.statistics.significance import wilson

RESAMPLES = 1000

# Of the counts of pixels: the order in which those of a class are kept, predicted correctly,
# labelled and predicted; and what the names of metrics begin with at one and at several scales.
RIGHT, LABELLED, PREDICTED = range(3)
PREFIXES = ('', 'ms_')


class PerImage(ABC):
    """The counts of N images and K classes that metrics are computed from."""

    KIND: ClassVar[str]  # the name under which the counts are kept in a file

    @property
    @abstractmethod
    def images(self) -> int:
        """The number of images, N."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Return each metric of the data set, in percent; undefined ones are left out."""

    @abstractmethod
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return the 95 % interval of each metric, in percent."""

    @abstractmethod
    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the content as arrays by name."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Return the counts of these arrays, or raise an error if they do not fit each other."""


@dataclass(frozen=True)
class ImageHits(PerImage):
    """Whether the class of each of N images was predicted.

    Attributes:
        labels: (N,) the class of each image.
        hits: (N, 2) in bool, whether it is the best of the predicted classes and among the best
            five; (N, 1) where only the best class is known.
    """

    KIND: ClassVar[str] = 'image hits'
    NAMES: ClassVar[tuple[str, ...]] = ('top1', 'top5')

    labels: np.ndarray
    hits: np.ndarray

    @property
    def images(self) -> int:
        return len(self.hits)

    def metrics(self) -> dict[str, float]:
        return {name: 100 * n / self.images for name, n in self._counts()}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return the 95 % Wilson interval of each metric, in percent."""
        return {name: wilson(n, self.images) for name, n in self._counts()}

    def _counts(self) -> list[tuple[str, int]]:
        return list(zip(self.NAMES, self.hits.sum(0).tolist(), strict=False))

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {'labels': self.labels.astype(np.int32), 'hits': self.hits}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        labels, hits = arrays['labels'], arrays['hits']
        if hits.shape not in ((len(labels), 1), (len(labels), 2)) or hits.dtype != bool:
            raise ValueError(f'{hits.shape} hits in {hits.dtype} for {len(labels)} labels')
        if not np.isin(labels, range(len(arrays['classes']))).all():
            raise ValueError('labels of no class')
        return cls(labels, hits)


class ResampledImages(PerImage):
    """Counts whose metrics are not means over the images, and have bootstrap intervals."""

    @abstractmethod
    def compute(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """Return the metrics of R data sets in which image i occurs `times[r, i]` times.

        Args:
            times: (R, N) in int32.

        Returns:
            metrics by name, (R,) in percent; NaN where a data set has nothing that one is about.
        """

    def metrics(self) -> dict[str, float]:
        found = self.compute(np.ones((1, self.images), np.int32))
        return {name: float(of[0]) for name, of in found.items() if np.isfinite(of[0])}

    def intervals(
        self, resamples: int = RESAMPLES, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Return the basic bootstrap interval of each metric, in percent.

        It mirrors the percentiles at the value. AP is biased upwards, the more the fewer images
        there are, and the resampled values are biased against the value as that is against the
        truth: the mirrored interval corrects this, and that of the percentiles would be off twice.

        A. C. Davison and D. V. Hinkley, Bootstrap methods and their application (1997), section
        5.2.
        """
        found = self.compute(bootstrap(self.images, resamples, seed))
        intervals = {}
        for name, values in found.items():
            value, resampled = float(values[0]), values[1:][np.isfinite(values[1:])]
            if np.isfinite(value) and resampled.size:
                low, high = np.percentile(resampled, [2.5, 97.5])
                intervals[name] = max(0.0, 2 * value - high), min(100.0, 2 * value - low)
        return intervals


@dataclass(frozen=True)
class PixelCounts(ResampledImages):
    """The pixels of N images by class, for P predictions of each.

    Attributes:
        counts: (P, N, 3, K) in int64, the pixels of each class that are predicted correctly, that
            are labelled, and that are predicted. Pixels without a label do not count.
    """

    KIND: ClassVar[str] = 'pixel counts'

    counts: np.ndarray

    @property
    def images(self) -> int:
        return self.counts.shape[1]

    def compute(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """See `ResampledImages.compute`; names begin with 'ms_' for the second prediction."""
        p, n, _, k = self.counts.shape
        # As a product of float64 matrices, which is fast, and exact up to 2^53 pixels.
        flat = self.counts.reshape(p, n, 3 * k).astype(np.float64)
        sums = (times.astype(np.float64) @ flat).reshape(p, len(times), 3, k)
        return {
            f'{prefix}{name}': of
            for prefix, summed in zip(PREFIXES, sums, strict=False)
            for name, of in means(summed).items()
        }

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {'counts': self.counts}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        counts = arrays['counts']
        if counts.shape[2:] != (3, len(arrays['classes'])) or len(counts) not in (1, 2):
            raise ValueError(f'counts of shape {counts.shape}')
        if np.any((counts < 0) | (counts[:, :, :1] > counts)):
            raise ValueError('more correct pixels than there are')
        return cls(counts)


def means(summed: np.ndarray) -> dict[str, np.ndarray]:
    """Return miou, macc and aacc of summed pixels, in percent.

    The means leave out what is 0 / 0, as mmseg's IoUMetric does: mIoU the classes that neither a
    label nor a prediction has, mAcc those that no label has.

    Args:
        summed: (..., 3, K), as in `PixelCounts`.

    Returns:
        (...) for each; NaN where no pixel has a label.
    """
    right, labelled, _ = np.moveaxis(summed, -2, 0)
    with np.errstate(invalid='ignore', divide='ignore'):
        return {
            'miou': mean_of_numbers(ious(summed)),
            'macc': mean_of_numbers(100 * right / labelled),
            'aacc': 100 * right.sum(-1) / labelled.sum(-1),
        }


def ious(summed: np.ndarray) -> np.ndarray:
    """Return the IoU of each class, (..., K) in percent; NaN for one that does not occur."""
    right, labelled, predicted = np.moveaxis(summed, -2, 0)
    with np.errstate(invalid='ignore', divide='ignore'):
        return 100 * right / (labelled + predicted - right)


def bootstrap(images: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return how often each image occurs in the data set and in resampled ones, (1 + R, N) int32.

    The first row is the data set itself: ones. The same arguments give the same rows, so that two
    systems are evaluated on the same resampled data sets.
    """
    drawn = np.random.default_rng(seed).integers(0, images, (resamples, images))
    times = np.ones((1 + resamples, images), np.int32)
    for row, of_set in zip(times[1:], drawn, strict=True):
        row[:] = np.bincount(of_set, minlength=images)
    return times


def mean_of_numbers(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not NaN; NaN where all is."""
    there = ~np.isnan(values)
    with np.errstate(invalid='ignore'):
        return np.where(there, values, 0).sum(-1) / there.sum(-1)
