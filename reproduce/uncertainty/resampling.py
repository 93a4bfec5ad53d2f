"""The bootstrap over images: data sets drawn from the images of one, with replacement.

B. Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7 (1979).
"""

from collections.abc import Mapping

import numpy as np

from reproduce.uncertainty import ResampledImages

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


def intervals(
    statistics: ResampledImages, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each metric by the bootstrap over images, in percent."""
    return of_resampled(statistics.metrics(resampled(statistics.images, resamples, seed)))


def of_resampled(values: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each metric from its values in resampled data sets."""
    found = {name: percentile_interval(of) for name, of in values.items()}
    return {name: interval for name, interval in found.items() if interval is not None}
