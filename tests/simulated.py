"""How often a 95 % interval contains the true value, in data sets simulated from known populations.

Data sets are drawn from a population of images, each gets its intervals as a record gets them, and
those that contain the value of a very large data set are counted. Images differ in difficulty, so
that what is counted on one image is not independent.
"""

import numpy as np

from reproduce.statistics.classification_metrics import ImageHits
from reproduce.statistics.detection_metrics import IOUS, MatchedDetections, Matches
from reproduce.statistics.per_image import ResampledImages
from reproduce.statistics.segmentation_metrics import PixelCounts

# The images of the population, and the classes of those with boxes and pixels.
_POPULATION = 100_000
_CLASSES = 4


def _classified(rng: np.random.Generator, images: int) -> ImageHits:
    """Return images of which a network classifies about 80 % correctly."""
    difficulty = rng.beta(1, 4, images)
    best = rng.random(images) > difficulty
    among_five = best | (rng.random(images) > 0.3)
    return ImageHits(np.zeros(images, np.int64), np.stack([best, among_five], 1))


def _segmented(rng: np.random.Generator, images: int) -> PixelCounts:
    """Return images of 1,000 pixels whose classes occur in some of them only."""
    labelled = rng.multinomial(1000, rng.dirichlet(np.full(_CLASSES, 0.5), images))
    ease = rng.beta(6, 2, (images, 1)) * np.linspace(0.7, 1, _CLASSES)
    right = rng.binomial(labelled, ease)
    # A wrong pixel is predicted to be of the next class.
    predicted = right + np.roll(labelled - right, 1, 1)
    return PixelCounts(np.stack([right, labelled, predicted], 1)[None])


def _detected(rng: np.random.Generator, images: int) -> MatchedDetections:
    """Return images with objects, most of them detected, and with false detections."""
    ease = rng.beta(5, 2, images)
    objects, false = rng.poisson(0.8, (images, _CLASSES)), rng.poisson(0.6, (images, _CLASSES))
    pairs, wrong = np.nonzero(objects), np.nonzero(false)
    image_of, class_of = (np.repeat(index, objects[pairs]) for index in pairs)
    seen = rng.random(image_of.size) < ease[image_of]
    overlap = 0.5 + 0.5 * rng.beta(3, 2, seen.sum())
    places, classes = (
        np.concatenate([of[seen], np.repeat(index, false[wrong])])
        for of, index in zip((image_of, class_of), wrong, strict=True)
    )
    count = places.size
    scores = np.concatenate([rng.beta(4, 2, seen.sum()), rng.beta(2, 4, count - seen.sum())])
    order = np.lexsort((-scores, classes))
    # No object is small, medium or large.
    matched, ignored = np.zeros((count, 4), int), np.full((count, 4), 2**IOUS - 1)
    exceeded = overlap[:, None] >= np.arange(0.5, 1, 0.05)
    matched[: overlap.size, 0] = exceeded @ 2 ** np.arange(IOUS)
    ignored[:, 0] = 0
    counted = np.pad(objects[pairs][:, None], ((0, 0), (0, 3)))
    arrays = classes[order], places[order], np.zeros(count), matched[order], ignored[order]
    kinds = [np.int32, np.int32, np.int32, np.uint16, np.uint16]
    found = (array.astype(kind) for array, kind in zip(arrays, kinds, strict=True))
    truth = (array.astype(np.int32) for array in (*pairs[::-1], counted))
    errors = [np.zeros(0, np.int32)] * 4  # what they cost is not asked for
    return MatchedDetections({'box': Matches(*found, *truth, *errors)}, images, _CLASSES)


# By metric: the images of a data set, and how they are drawn.
SIMULATIONS = {
    'top1': (1000, _classified),
    'box_ap': (500, _detected),
    'miou': (500, _segmented),
}


def coverage(
    metric: str, sets: int, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the true value, the mean width of intervals, and how many contain it, in percent."""
    images, draw = SIMULATIONS[metric]
    rng = np.random.default_rng(seed)
    truth = draw(rng, _POPULATION).metrics()[metric]
    found = []
    for _ in range(sets):
        drawn = draw(rng, images)
        if isinstance(drawn, ResampledImages):
            intervals = drawn.intervals(resamples, int(rng.integers(2**32)))
        else:
            intervals = drawn.intervals()
        found.append(intervals[metric])
    low, high = np.array(found).T
    held = (low <= truth) & (truth <= high)
    return truth, float((high - low).mean()), 100 * float(held.mean())
