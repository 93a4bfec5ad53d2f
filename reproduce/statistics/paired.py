"""Two systems on the same images: how far apart they are, and whether that may be chance."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from reproduce.statistics.classification_metrics import ImageHits
from reproduce.statistics.per_image import RESAMPLES, PerImage, ResampledImages, bootstrap
from reproduce.statistics.significance import LEVEL, POWER, mcnemar, paired_interval


@dataclass(frozen=True)
class Difference:
    """A metric of two systems, in percent.

    Attributes:
        p: the p value of the hypothesis that both are equally good.
        interval: the 95 % interval of `second - first`.
    """

    metric: str
    first: float
    second: float
    p: float
    interval: tuple[float, float]

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
        return self.p < LEVEL


def paired(
    first: PerImage, second: PerImage, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """Return the differences of two systems on the same images, by metrics that both have.

    Top-1 and Top-5 are compared by McNemar's exact test; the calibration, AP, AR and mIoU by the
    paired bootstrap: both systems are evaluated on the same resampled images.

    Raises:
        ValueError: if the two are not of one kind, or not of the same number of images.
    """
    if type(first) is not type(second) or first.images != second.images:
        raise ValueError(f'{first.images} {first.KIND} and {second.images} {second.KIND}')
    if isinstance(first, ResampledImages) and isinstance(second, ResampledImages):
        found = _of_resampled(first, second, bootstrap(first.images, resamples, seed))
        if isinstance(first, ImageHits) and isinstance(second, ImageHits):
            found = _of_hits(first, second) | found
        return found
    raise TypeError(f'{first.KIND} cannot be compared')


def _of_resampled(
    first: ResampledImages, second: ResampledImages, times: np.ndarray
) -> dict[str, Difference]:
    ones, others = first.compute(times), second.compute(times)
    return {
        name: _bootstrapped(name, ones[name], others[name])
        for name in ones
        if name in others and np.isfinite([ones[name][0], others[name][0]]).all()
    }


def _of_hits(first: ImageHits, second: ImageHits) -> dict[str, Difference]:
    metrics, n = {}, first.images
    for name, one, other in zip(first.NAMES, first.hits.T, second.hits.T, strict=False):
        lost, won = int((one & ~other).sum()), int((other & ~one).sum())
        before, after = (100 * int(of.sum()) / n for of in (one, other))
        interval = paired_interval(lost, won, n)
        metrics[name] = Difference(name, before, after, mcnemar(lost, won), interval)
    return metrics


def _bootstrapped(name: str, first: np.ndarray, second: np.ndarray) -> Difference:
    """Return a difference from its values in the data set and in resampled ones, (1 + R,)."""
    differences = (second - first)[1:]
    finite = differences[np.isfinite(differences)]
    # Twice the share of resampled data sets on the other side of zero, the data set among them.
    sides = ((finite <= 0).sum(), (finite >= 0).sum())
    p = min(1.0, 2 * (int(min(sides)) + 1) / (finite.size + 1))
    low, high = np.percentile(finite, [2.5, 97.5]).tolist()
    return Difference(name, float(first[0]), float(second[0]), p, (low, high))
