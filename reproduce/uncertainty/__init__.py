"""How far a metric may move by chance: intervals, tests, and what is kept of each image for them.

A data set is a sample of images, and another sample would have given another number. Proportions
(Top-1, Top-5) have closed forms, in `proportions`. AP, AR and mIoU are no means over images; their
distribution is found by resampling the images, in `resampling`, from what was counted on each of
them: `PerImage`, with one kind for each task. Nothing here needs torch, a model or the data set.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np


class PerImage(ABC):
    """What the metrics of N images are computed from, image by image.

    Attributes:
        KIND: the name under which it is kept in a file.
    """

    KIND: ClassVar[str]

    @property
    @abstractmethod
    def images(self) -> int:
        """The number of images, N."""

    @abstractmethod
    def metrics(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """Return each metric of R data sets in which image i occurs `times[r, i]` times.

        Args:
            times: (R, N) in int32.

        Returns:
            (R,) in percent, by the name of the metric; NaN where a data set has nothing that the
            metric is about.
        """
