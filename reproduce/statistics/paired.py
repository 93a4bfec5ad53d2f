"""Two systems on the same images: how far apart they are, and whether that may be chance."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from reproduce.statistics import RESAMPLES, ImageHits, PerImage, ResampledImages, bootstrap
from reproduce.statistics.significance import LEVEL, POWER, holm, mcnemar, paired_interval

# A class on fewer images is not tested: the bootstrap's standard error is too small there.
_IMAGES_OF_A_CLASS = 20


@dataclass(frozen=True)
class Difference:
    """A metric of two systems, in percent, on all classes or on one.

    Attributes:
        p: the p value of the hypothesis that both are equally good, of a class corrected by Holm
            for the number of classes that are tested; None where it is not tested.
        interval: the 95 % interval of `second - first`; None for a class.
        class_index: the index of the class; None for all.
    """

    metric: str
    first: float
    second: float
    p: float | None
    interval: tuple[float, float] | None = None
    class_index: int | None = None

    @property
    def difference(self) -> float:
        """By how much the second is better."""
        return self.second - self.first

    @property
    def resolvable(self) -> float:
        """The smallest true difference that these images show with a probability of `POWER`."""
        low, high = self.interval
        upper, power = (NormalDist().inv_cdf(p) for p in (1 - LEVEL / 2, POWER))
        return (high - low) / 2 * (1 + power / upper)

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < LEVEL


@dataclass(frozen=True)
class Paired:
    """The differences of two systems in the metrics that both have, by name, and of classes."""

    metrics: dict[str, Difference]
    classes: list[Difference]


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
    return _of_resampled(first, second, bootstrap(first.images, resamples, seed))


def _of_hits(first: ImageHits, second: ImageHits) -> Paired:
    metrics, n = {}, first.images
    for name, one, other in zip(ImageHits.NAMES, first.hits.T, second.hits.T, strict=False):
        lost, won = int((one & ~other).sum()), int((other & ~one).sum())
        values = (100 * int(of.sum()) / n for of in (one, other))
        interval = paired_interval(lost, won, n)
        metrics[name] = Difference(name, *values, mcnemar(lost, won), interval)
    one, other = first.hits[:, 0], second.hits[:, 0]
    total, right, right_other, lost, won = (
        np.bincount(first.labels, weights=of).tolist()
        for of in (np.ones(n), one, other, one & ~other, other & ~one)
    )
    present = [i for i, images in enumerate(total) if images]
    ps = holm([mcnemar(int(lost[i]), int(won[i])) for i in present])
    shares = [(100 * right[i] / total[i], 100 * right_other[i] / total[i]) for i in present]
    return Paired(
        metrics,
        [
            Difference('top1', *of_class, p, class_index=i)
            for i, of_class, p in zip(present, shares, ps, strict=True)
        ],
    )


def _of_resampled(first: ResampledImages, second: ResampledImages, times: np.ndarray) -> Paired:
    (ones, of_classes), (others, other_classes) = (s.compute(times) for s in (first, second))
    metrics = {
        name: _bootstrapped(name, ones[name], others[name])
        for name in ones
        if name in others and np.isfinite([ones[name][0], others[name][0]]).all()
    }
    occurs, classes = first.images_of_classes(), []
    for name in (name for name in of_classes if name in other_classes):
        classes += _classes(name, of_classes[name], other_classes[name], occurs)
    return Paired(metrics, classes)


def _bootstrapped(name: str, first: np.ndarray, second: np.ndarray) -> Difference:
    """Return a difference from its values in the data set and in resampled ones, (1 + R,)."""
    differences = (second - first)[1:]
    finite = differences[np.isfinite(differences)]
    # Twice the share of resampled data sets on the other side of zero, the data set among them.
    sides = ((finite <= 0).sum(), (finite >= 0).sum())
    p = min(1.0, 2 * (int(min(sides)) + 1) / (finite.size + 1))
    low, high = np.percentile(finite, [2.5, 97.5]).tolist()
    return Difference(name, float(first[0]), float(second[0]), p, (low, high))


def _classes(
    name: str, first: np.ndarray, second: np.ndarray, occurs: np.ndarray
) -> list[Difference]:
    """Return the differences of the classes, tested by the bootstrap's standard errors.

    Holm's correction needs smaller p values than a thousand resampled data sets can count.
    """
    from scipy.special import ndtr  # imported here, as in `significance`

    differences = second - first
    there = np.isfinite(differences[0])
    tested = np.flatnonzero(there & (occurs >= _IMAGES_OF_A_CLASS))
    errors = np.nanstd(differences[1:, tested], axis=0)
    z = np.abs(differences[0, tested]) / np.where(errors > 0, errors, np.inf)
    ps = dict(zip(tested.tolist(), holm(2 * ndtr(-z)), strict=True))
    return [
        Difference(name, float(first[0, i]), float(second[0, i]), ps.get(i), class_index=i)
        for i in np.flatnonzero(there).tolist()
    ]
