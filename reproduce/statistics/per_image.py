"""Metrics and intervals from counts of each image: what those of all tasks share.

A data set is a sample of images, and another sample would have given another number. Proportions
(Top-1, Top-5) have closed forms. AP, AR and mIoU are not means over images; their distribution is
found by the bootstrap over images: B. Efron, Bootstrap methods: another look at the jackknife,
Annals of Statistics 7 (1979). Nothing here needs torch, a model or the data set.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

RESAMPLES = 1000


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


def bootstrap(images: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return how often each image occurs in the data set and in resampled ones, (1 + R, N) int32.

    The first row is the data set itself: ones. The same arguments give the same rows, so that two
    systems are evaluated on the same resampled data sets.
    """
    rng, times = np.random.default_rng(seed), np.ones((1 + resamples, images), np.int32)
    for row in times[1:]:
        row[:] = np.bincount(rng.integers(0, images, images), minlength=images)
    return times


def mean_of_numbers(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not NaN; NaN where all is."""
    there = ~np.isnan(values)
    with np.errstate(invalid='ignore'):
        return np.where(there, values, 0).sum(-1) / there.sum(-1)
