"""Which images were classified correctly, from which Top-1 and Top-5 are computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from reproduce.statistics import PerImage
from reproduce.statistics.significance import wilson

NAMES = ('top1', 'top5')


@dataclass(frozen=True)
class ImageHits(PerImage):
    """Whether the class of each of N images was predicted.

    Attributes:
        labels: (N,) the class of each image.
        hits: (N, 2) in bool, whether it is the best of the predicted classes and among the best
            five; (N, 1) where only the best class is known.
    """

    KIND: ClassVar[str] = 'image hits'

    labels: np.ndarray
    hits: np.ndarray

    @property
    def images(self) -> int:
        return len(self.hits)

    def metrics(self) -> dict[str, float]:
        counts = self.hits.sum(0).tolist()
        return {name: 100 * n / self.images for name, n in zip(NAMES, counts, strict=False)}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return the 95 % Wilson interval of each metric, in percent."""
        counts = self.hits.sum(0).tolist()
        return {name: wilson(n, self.images) for name, n in zip(NAMES, counts, strict=False)}

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {'labels': self.labels.astype(np.int32), 'hits': self.hits}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        labels, hits = arrays['labels'], arrays['hits']
        if hits.shape not in ((len(labels), 1), (len(labels), len(NAMES))) or hits.dtype != bool:
            raise ValueError(f'{hits.shape} hits in {hits.dtype} for {len(labels)} labels')
        known = labels.dtype == np.int32 and np.all(
            (labels >= 0) & (labels < len(arrays['classes']))
        )
        if not known or labels.ndim != 1 or np.any(hits[:, 0] & ~hits[:, -1]):
            raise ValueError('labels of no class, or hits of the best class and not of five')
        return cls(labels, hits)
