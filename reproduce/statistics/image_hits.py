"""Which images were classified right, which Top-1 and Top-5 are computed from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from reproduce.statistics import PerImage
from reproduce.statistics.proportions import wilson

NAMES = ('top1', 'top5')


@dataclass(frozen=True)
class ImageHits(PerImage):
    """Whether each of N images was right, at once and within five classes.

    Attributes:
        labels: (N,) the right class of each.
        hits: (N, 2) in bool, or (N, 1) where only the best class is known.
    """

    KIND: ClassVar[str] = 'image hits'

    labels: np.ndarray
    hits: np.ndarray

    @property
    def images(self) -> int:
        return len(self.hits)

    def of_all_images(self) -> dict[str, float]:
        """See `PerImage.of_all_images`."""
        return {
            name: 100 * count / self.images
            for name, count in zip(NAMES, self.hits.sum(0).tolist(), strict=False)
        }

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return the 95 % Wilson interval of each metric, in percent."""
        counts = self.hits.sum(0).tolist()
        return {name: wilson(n, self.images) for name, n in zip(NAMES, counts, strict=False)}

    def of_each_image(self) -> np.ndarray:
        """See `PerImage.of_each_image`: 100 if right at once, 50 if within five."""
        return 100.0 * self.hits.mean(1)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """See `PerImage.to_arrays`."""
        return {'labels': self.labels.astype(np.int32), 'hits': self.hits}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """See `PerImage.from_arrays`."""
        labels, hits = arrays['labels'], arrays['hits']
        if hits.shape not in ((len(labels), 1), (len(labels), len(NAMES))):
            raise ValueError(f'{hits.shape} hits for {len(labels)} labels')
        return cls(labels, hits)
