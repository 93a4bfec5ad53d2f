"""The comparison of two systems or more, as data."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from reproduce.compare.candidates import Candidate
from reproduce.statistics.paired import LEVEL, ClassDifference, Difference, Paired, holm, paired

# The metrics that say which of two systems is better, by task.
HEADLINES = {
    'imagenet': ('top1',),
    'coco': ('box_ap', 'mask_ap'),
    'ade20k': ('miou', 'ms_miou'),
}


@dataclass(frozen=True)
class ImageDifference:
    """How well two systems predict an image, in percent.

    Attributes:
        index, name: of the image.
    """

    index: int
    name: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """By how much the second is better."""
        return self.second - self.first


@dataclass(frozen=True)
class PairedComparison:
    """Two systems on the same images.

    Attributes:
        first, second: the two.
        paired: their differences.
        images: those on which they differ most, the largest difference first.
    """

    first: Candidate
    second: Candidate
    paired: Paired
    images: list[ImageDifference]

    @property
    def headlines(self) -> list[Difference]:
        """The differences that say which is better."""
        found = (self.paired.of(name) for name in HEADLINES[self.first.task])
        return [difference for difference in found if difference is not None]

    @property
    def worse(self) -> bool:
        """Whether the second is significantly worse in one of the headlines."""
        return any(d.significant and d.difference < 0 for d in self.headlines)

    def class_name(self, difference: ClassDifference) -> str:
        return self.first.images.classes[difference.index]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            'first': _named(self.first),
            'second': _named(self.second),
            'metrics': {
                d.metric: {
                    **{'first': d.first, 'second': d.second, 'difference': d.difference},
                    **{'interval': d.interval, 'p': d.p, 'significant': d.significant},
                }
                for d in self.paired.metrics
            },
            'classes': [
                {
                    **{'class': self.class_name(d), 'metric': d.metric},
                    **{'first': d.first, 'second': d.second, 'difference': d.difference, 'p': d.p},
                }
                for d in self.paired.classes
            ],
            'images': [
                {'image': d.name, 'first': d.first, 'second': d.second} for d in self.images
            ],
            'worse': self.worse,
        }


def _named(candidate: Candidate) -> dict[str, str]:
    return {
        'name': candidate.name,
        'predictions': str(candidate.predictions),
        'attestation': candidate.attestation,
    }


def compare(first: Candidate, second: Candidate, images: int = 5) -> PairedComparison:
    """Compare two systems on the same images.

    Args:
        images: as many of those on which they differ most are named.
    """
    found = paired(first.statistics, second.statistics)
    return PairedComparison(first, second, found, _most_different(first, second, images))


def _most_different(first: Candidate, second: Candidate, n: int) -> list[ImageDifference]:
    one, other = (np.nan_to_num(c.statistics.of_each_image()) for c in (first, second))
    order = np.argsort(-np.abs(other - one), kind='stable')[:n]
    return [
        ImageDifference(int(i), first.images.images[i], float(one[i]), float(other[i]))
        for i in order
        if one[i] != other[i]
    ]


@dataclass(frozen=True)
class Matrix:
    """Three systems or more, each compared with each other.

    Attributes:
        candidates: the systems.
        pairs: the comparison of each two, by their places.
        corrected: the p value of each pair and headline, corrected by Holm for their number.
    """

    candidates: list[Candidate]
    pairs: dict[tuple[int, int], PairedComparison]
    corrected: dict[tuple[int, int, str], float]

    @property
    def worse(self) -> bool:
        """Whether one is significantly worse than the first in one of the headlines."""
        return any(
            self.corrected[i, j, d.metric] < LEVEL and d.difference < 0
            for (i, j), comparison in self.pairs.items()
            for d in comparison.headlines
            if i == 0
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            'systems': [_named(c) for c in self.candidates],
            'pairs': [
                {
                    **comparison.as_dict(),
                    'corrected_p': {
                        d.metric: self.corrected[i, j, d.metric] for d in comparison.headlines
                    },
                }
                for (i, j), comparison in self.pairs.items()
            ],
            'worse': self.worse,
        }


def matrix(candidates: Sequence[Candidate]) -> Matrix:
    """Compare each of several systems with each other."""
    pairs = {
        (i, j): compare(candidates[i], candidates[j])
        for i, j in combinations(range(len(candidates)), 2)
    }
    tests = {
        (*place, d.metric): d.p for place, comparison in pairs.items() for d in comparison.headlines
    }
    corrected = dict(zip(tests, holm(list(tests.values())), strict=True))
    return Matrix(list(candidates), pairs, corrected)
