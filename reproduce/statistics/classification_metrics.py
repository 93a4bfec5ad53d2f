"""Top-1 and Top-5, from whether the class of each image was predicted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from reproduce.statistics.per_image import PerImage
from reproduce.statistics.significance import wilson


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
