"""The bootstrap over images: data sets drawn from the images of one, with replacement.

B. Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7 (1979).
"""

import numpy as np

from reproduce.statistics import ResampledImages

RESAMPLES = 1000
CONFIDENCE = 0.95


def resampled(images: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return how often each image occurs in each resampled data set, (R, N) in int32.

    The same arguments give the same data sets, so that two systems meet the same ones.
    """
    drawn = np.random.default_rng(seed).integers(0, images, (resamples, images))
    offsets = np.arange(resamples)[:, None] * images
    counts = np.bincount((drawn + offsets).ravel(), minlength=resamples * images)
    return counts.reshape(resamples, images).astype(np.int32)


def percentile_interval(
    values: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Return the percentile interval of resampled values, or None where all are NaN."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    low, high = np.percentile(finite, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(low), float(high)


def basic_interval(
    value: float, resampled_values: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the basic interval of a percentage, from its values in resampled data sets.

    It mirrors the percentiles at the value. AP is biased upwards, the more the fewer images there
    are, and the resampled values are biased against the value as that is against the truth: the
    mirrored interval makes up for it, where that of the percentiles would be off twice.

    A. C. Davison and D. V. Hinkley, Bootstrap methods and their application (1997), section 5.2.
    """
    low, high = percentile_interval(resampled_values, confidence)
    return max(0.0, 2 * value - high), min(100.0, 2 * value - low)


def intervals(
    statistics: ResampledImages, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each metric by the bootstrap over images, in percent."""
    times = resampled(statistics.images, resamples, seed)
    # The data set itself stands before the resampled ones.
    found = statistics.metrics(np.concatenate([np.ones_like(times[:1]), times]))
    return {
        name: basic_interval(float(values[0]), values[1:])
        for name, values in found.items()
        if np.isfinite(values[0]) and np.isfinite(values[1:]).any()
    }
