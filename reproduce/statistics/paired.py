"""Two systems on the same images: how far apart they are, and whether that may be chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from reproduce.statistics import PerImage, ResampledImages
from reproduce.statistics.image_hits import NAMES, ImageHits
from reproduce.statistics.proportions import mcnemar, paired_interval
from reproduce.statistics.resampling import RESAMPLES, percentile_interval, resampled

# A difference with a smaller p value is called significant.
LEVEL = 0.05

# A class on fewer images is not tested: the bootstrap's standard error is too small there.
IMAGES_OF_A_CLASS = 20


@dataclass(frozen=True)
class Difference:
    """A metric of two systems, in percent.

    Attributes:
        metric: its name.
        first, second: of the two.
        interval: the 95 % interval of second - first.
        p: the probability of a difference at least as large between two equally good systems.
    """

    metric: str
    first: float
    second: float
    interval: tuple[float, float]
    p: float

    @property
    def difference(self) -> float:
        """By how much the second is better."""
        return self.second - self.first

    @property
    def significant(self) -> bool:
        return self.p < LEVEL


@dataclass(frozen=True)
class ClassDifference:
    """A metric of two systems on a single class, in percent.

    Attributes:
        index: of the class.
        metric, first, second: as in `Difference`.
        p: corrected by Holm for the number of classes that are tested; None where the class is on
            too few images to be tested.
    """

    index: int
    metric: str
    first: float
    second: float
    p: float | None

    @property
    def difference(self) -> float:
        """By how much the second is better."""
        return self.second - self.first


@dataclass(frozen=True)
class Paired:
    """The differences of two systems, in the metrics that both have."""

    metrics: list[Difference]
    classes: list[ClassDifference]

    def of(self, metric: str) -> Difference | None:
        """Return the difference in `metric`, if both have it."""
        return next((d for d in self.metrics if d.metric == metric), None)


def paired(first: PerImage, second: PerImage, resamples: int = RESAMPLES, seed: int = 0) -> Paired:
    """Compare two systems on the same images, in the same order.

    Top-1 and Top-5 are compared by McNemar's exact test. AP, AR and mIoU are compared by the paired
    bootstrap: both systems are evaluated on the same resampled images.

    Raises:
        ValueError: if the two are not of one kind, or not of the same number of images.
    """
    if type(first) is not type(second) or first.images != second.images:
        raise ValueError(f'{first.images} {first.KIND} and {second.images} {second.KIND}')
    if isinstance(first, ImageHits):
        return _of_hits(first, second)
    return _bootstrap(first, second, resampled(first.images, resamples, seed))


def _of_hits(first: ImageHits, second: ImageHits) -> Paired:
    metrics = []
    for name, one, other in zip(NAMES, first.hits.T, second.hits.T, strict=False):
        lost, won = int((one & ~other).sum()), int((other & ~one).sum())
        n = first.images
        interval = paired_interval(lost, won, n)
        values = (100 * int(of.sum()) / n for of in (one, other))
        metrics.append(Difference(name, *values, interval, mcnemar(lost, won)))
    one, other = first.hits[:, 0], second.hits[:, 0]
    k = int(first.labels.max()) + 1
    counts = np.bincount(first.labels, minlength=k)
    right, right_other, lost, won = (
        np.bincount(first.labels[of], minlength=k)
        for of in (one, other, one & ~other, other & ~one)
    )
    present = np.flatnonzero(counts)
    shares = 100 * np.stack([right, right_other]) / np.maximum(counts, 1)
    ps = [mcnemar(int(lost[i]), int(won[i])) for i in present]
    classes = [
        ClassDifference(int(i), 'top1', float(shares[0, i]), float(shares[1, i]), p)
        for i, p in zip(present, holm(ps), strict=True)
    ]
    return Paired(metrics, classes)


def _bootstrap(first: ResampledImages, second: ResampledImages, times: np.ndarray) -> Paired:
    # The data set itself stands before the resampled ones.
    all_times = np.concatenate([np.ones_like(times[:1]), times])
    (ones, of_classes), (others, other_classes) = (s.computed(all_times) for s in (first, second))
    metrics = [
        _resampled_difference(name, ones[name], others[name])
        for name in ones
        if name in others and np.isfinite([ones[name][0], others[name][0]]).all()
    ]
    occurs = first.images_of_classes()
    classes: list[ClassDifference] = []
    for name in of_classes:
        if name in other_classes:
            classes += _classes(name, of_classes[name], other_classes[name], occurs)
    return Paired(metrics, classes)


def _resampled_difference(name: str, first: np.ndarray, second: np.ndarray) -> Difference:
    differences = (second - first)[1:]
    finite = differences[np.isfinite(differences)]
    # Twice the share of resampled data sets on the other side of zero, the data set among them.
    sides = ((finite <= 0).sum(), (finite >= 0).sum())
    p = min(1.0, 2 * (int(min(sides)) + 1) / (finite.size + 1))
    interval = percentile_interval(finite)
    return Difference(name, float(first[0]), float(second[0]), interval, p)


def _classes(
    name: str, first: np.ndarray, second: np.ndarray, occurs: np.ndarray
) -> list[ClassDifference]:
    """Return the differences of the classes by the bootstrap's standard errors.

    Holm's correction needs smaller p values than a thousand resampled data sets can count.
    """
    differences = (second - first)[1:]
    there = np.flatnonzero(np.isfinite(first[0]) & np.isfinite(second[0]))
    tested = [int(i) for i in there if occurs[i] >= IMAGES_OF_A_CLASS]
    raw = []
    for i in tested:
        error = float(np.nanstd(differences[:, i]))
        z = abs(float(second[0, i] - first[0, i])) / error if error else 0.0
        raw.append(2 * NormalDist().cdf(-z))
    ps = dict(zip(tested, holm(raw), strict=True))
    return [
        ClassDifference(int(i), name, float(first[0, i]), float(second[0, i]), ps.get(int(i)))
        for i in there
    ]


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, in the same order.

    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6 (1979).
    """
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected
