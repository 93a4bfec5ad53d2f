"""mIoU, mAcc and aAcc, from the pixels of each image by class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from reproduce.statistics.per_image import ResampledImages, mean_of_numbers

# The order in which the pixels of a class are kept, predicted correctly, labelled and predicted;
# and what the names of metrics begin with at one and at several scales.
RIGHT, LABELLED, PREDICTED = range(3)
PREFIXES = ('', 'ms_')


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
