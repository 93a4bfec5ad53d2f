"""How far a metric may move by chance: intervals, tests, and what is kept of each image for them.

A data set is a sample of images, and another sample would have given another number. Proportions
(Top-1, Top-5) have closed forms, in `proportions`. AP, AR and mIoU are no means over images; their
distribution is found by resampling the images, in `resampling`, from what was counted on each of
them: `PerImage`, with one kind for each task. Nothing here needs torch, a model or the data set.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np


class PerImage(ABC):
    """What the metrics of N images and K classes are computed from, image by image.

    Attributes:
        KIND: the name under which it is kept in a file.
    """

    KIND: ClassVar[str]

    @property
    @abstractmethod
    def images(self) -> int:
        """The number of images, N."""

    @abstractmethod
    def of_all_images(self) -> dict[str, float]:
        """Return each metric of the data set, in percent, by its name."""

    @abstractmethod
    def of_each_image(self) -> np.ndarray:
        """Return how well each image was predicted, (N,) in percent; NaN where nothing is on it."""

    @abstractmethod
    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the content as arrays by name."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Return what `to_arrays` took apart.

        Raises:
            KeyError, ValueError: if an array is missing or does not fit the others.
        """


class ResampledImages(PerImage):
    """What is no mean over the images: its metrics are computed again for every resampled set."""

    def of_all_images(self) -> dict[str, float]:
        """See `PerImage.of_all_images`; what the data set has nothing of is left out."""
        found = self.metrics(np.ones((1, self.images), np.int32))
        return {name: float(of[0]) for name, of in found.items() if np.isfinite(of[0])}

    def metrics(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """Return each metric of R data sets in which image i occurs `times[r, i]` times.

        Args:
            times: (R, N) in int32.

        Returns:
            (R,) in percent, by the name of the metric; NaN where a data set has nothing that the
            metric is about.
        """
        return self.computed(times)[0]

    @abstractmethod
    def computed(self, times: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return what `metrics` does, and the metrics of the K single classes.

        Returns:
            the latter (R, K) in percent, by the name of the metric; NaN where a class does not
            occur.
        """

    @abstractmethod
    def images_of_classes(self) -> np.ndarray:
        """Return on how many images each class has something to find, (K,)."""


def mean_of_numbers(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not NaN; NaN where all is."""
    there = ~np.isnan(values)
    with np.errstate(invalid='ignore'):
        return np.where(there, values, 0).sum(-1) / there.sum(-1)
