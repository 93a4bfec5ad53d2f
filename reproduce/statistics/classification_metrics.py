"""Top-1, Top-5 and calibration, from whether the class of each image was predicted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from reproduce.statistics.per_image import RESAMPLES, ResampledImages, bootstrap
from reproduce.statistics.significance import wilson

BINS = 15  # of the calibration error


@dataclass(frozen=True)
class ImageHits(ResampledImages):
    """Whether the class of each of N images was predicted.

    Attributes:
        labels: (N,) the class of each image.
        hits: (N, 2) in bool, whether it is the best of the predicted classes and among the best
            five; (N, 1) where only the best class is known.
        confidence: (N,) in [0, 1], the probability of the best class; None in files of earlier
            versions, and where predictions have no probabilities.
    """

    KIND: ClassVar[str] = 'image hits'
    NAMES: ClassVar[tuple[str, ...]] = ('top1', 'top5')

    labels: np.ndarray
    hits: np.ndarray
    confidence: np.ndarray | None = None

    @property
    def images(self) -> int:
        return len(self.hits)

    def metrics(self) -> dict[str, float]:
        return {name: 100 * n / self.images for name, n in self._counts()} | super().metrics()

    def intervals(
        self, resamples: int = RESAMPLES, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Return Wilson's intervals of Top-1 and Top-5, and one of ECE by the bootstrap.

        Resampling adds to an error, which the basic interval takes off again. It begins at 0 where
        chance explains the error: in more than 5 % of the resampled data sets it moves the bins as
        far. It ends no lower than the percentile interval, as an error near 0 may be one by chance.
        """
        intervals = {name: wilson(n, self.images) for name, n in self._counts()}
        if self.confidence is not None:
            gaps = self._gaps(bootstrap(self.images, resamples, seed))
            value, *resampled = _error(gaps).tolist()
            low, high = np.percentile(resampled, [2.5, 97.5]).tolist()
            by_chance = np.percentile(abs(gaps[1:] - gaps[0]).sum(1), 95)
            begin = max(0.0, 2 * value - high) if value > by_chance else 0.0
            intervals['ece'] = begin, min(100.0, max(2 * value - low, high))
        return intervals

    def compute(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """See `ResampledImages.compute`; 'ece' is the expected calibration error.

        It is the mean over the images of the distance between accuracy and confidence in each of 15
        bins of equal width: C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, On calibration of
        modern neural networks, ICML 2017.
        """
        return {} if self.confidence is None else {'ece': _error(self._gaps(times))}

    def _gaps(self, times: np.ndarray) -> np.ndarray:
        """Return accuracy less confidence in each bin, by its share of the images, (R, BINS)."""
        bins = np.maximum(np.ceil(BINS * self.confidence), 1).astype(int) - 1
        gaps = 100 * (self.hits[:, 0] - self.confidence) / self.images
        return np.stack([np.bincount(bins, of_set * gaps, BINS) for of_set in times])

    def _counts(self) -> list[tuple[str, int]]:
        return list(zip(self.NAMES, self.hits.sum(0).tolist(), strict=False))

    def to_arrays(self) -> dict[str, np.ndarray]:
        arrays = {'labels': self.labels.astype(np.int32), 'hits': self.hits}
        return arrays if self.confidence is None else arrays | {'confidence': self.confidence}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        labels, hits = arrays['labels'], arrays['hits']
        if hits.shape not in ((len(labels), 1), (len(labels), 2)) or hits.dtype != bool:
            raise ValueError(f'{hits.shape} hits in {hits.dtype} for {len(labels)} labels')
        if not np.isin(labels, range(len(arrays['classes']))).all():
            raise ValueError('labels of no class')
        return cls(labels, hits, arrays.get('confidence'))


def _error(gaps: np.ndarray) -> np.ndarray:
    return abs(gaps).sum(1).clip(max=100)  # a sum of rounded shares may be a little more
