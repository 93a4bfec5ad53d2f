"""How often a 95 % interval holds the truth: simulated data sets of a population that is known.

A population of images is made by chance, so that its metrics are known from very many of them. Data
sets are drawn from it, each gets its interval as a record gets one, and those that hold the truth
are counted. Images differ in difficulty, so what is counted on one image is no independent draw.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import typer
from tabulate import tabulate

from reproduce.statistics import PerImage
from reproduce.statistics.image_hits import ImageHits
from reproduce.statistics.matched_detections import IOUS, MatchedDetections, Matches
from reproduce.statistics.pixel_counts import PixelCounts
from reproduce.statistics.resampling import intervals

# Images from which the true values are computed, and the classes of those with boxes and pixels.
_POPULATION = 100_000
_CLASSES = 4


def classified(rng: np.random.Generator, images: int) -> ImageHits:
    """Return images of which a network has about 80 % right."""
    difficulty = rng.beta(1, 4, images)
    best = rng.random(images) > difficulty
    among_five = best | (rng.random(images) > 0.3)
    return ImageHits(np.zeros(images, np.int64), np.stack([best, among_five], 1))


def segmented(rng: np.random.Generator, images: int) -> PixelCounts:
    """Return images of 1,000 pixels whose classes occur in some of them only."""
    mix = rng.dirichlet(np.full(_CLASSES, 0.5), images)
    labelled = rng.multinomial(1000, mix)
    ease = rng.beta(6, 2, (images, 1)) * np.linspace(0.7, 1, _CLASSES)
    right = rng.binomial(labelled, ease)
    # What is not right is taken for the next class.
    predicted = right + np.roll(labelled - right, 1, 1)
    return PixelCounts(np.stack([right, labelled, predicted], 1)[None])


def detected(rng: np.random.Generator, images: int) -> MatchedDetections:
    """Return images with objects, most of them detected, and with detections of nothing."""
    ease = rng.beta(5, 2, images)
    objects = rng.poisson(0.8, (images, _CLASSES))
    image, of_class = np.nonzero(objects)
    image_of, class_of = (np.repeat(a, objects[image, of_class]) for a in (image, of_class))
    seen = rng.random(image_of.size) < ease[image_of]
    overlap = np.clip(0.5 + 0.5 * rng.beta(3, 2, image_of.size), 0, 1) * seen
    reached = (overlap[:, None] >= np.arange(0.5, 1, 0.05)[:IOUS]) @ (1 << np.arange(IOUS))
    wrong = rng.poisson(0.6, (images, _CLASSES))
    wrong_image, wrong_class = (np.repeat(a, wrong[np.nonzero(wrong)]) for a in np.nonzero(wrong))
    classes = np.concatenate([class_of[seen], wrong_class])
    places = np.concatenate([image_of[seen], wrong_image])
    bits = np.concatenate([reached[seen], np.zeros(wrong_image.size, np.int64)])
    scores = np.concatenate([rng.beta(4, 2, seen.sum()), rng.beta(2, 4, wrong_image.size)])
    order = np.lexsort((-scores, classes))
    matched = np.zeros((order.size, 4), np.uint16)
    matched[:, 0] = bits[order]
    ignored = np.full_like(matched, 2**IOUS - 1)  # no object has another size
    ignored[:, 0] = 0
    counted = np.zeros((image.size, 4), np.int32)
    counted[:, 0] = objects[image, of_class]
    matches = Matches(
        classes[order].astype(np.int32),
        places[order].astype(np.int32),
        np.zeros(order.size, np.int32),
        matched,
        ignored,
        of_class.astype(np.int32),
        image.astype(np.int32),
        counted,
    )
    return MatchedDetections({'box': matches}, images, _CLASSES)


@dataclass(frozen=True)
class HeldIntervals:
    """How many of the intervals of simulated data sets hold the true value.

    Attributes:
        metric: what was measured.
        truth: its value in the population, in percent.
        images: of each data set.
        sets: how many data sets.
        held: of so many the interval holds the truth.
        width: the mean width of an interval, in percent.
    """

    metric: str
    truth: float
    images: int
    sets: int
    held: int
    width: float

    @property
    def share(self) -> float:
        """The share of intervals that hold the truth, in percent."""
        return 100 * self.held / self.sets


@dataclass(frozen=True)
class _Simulation:
    metric: str
    images: int
    draw: Callable[[np.random.Generator, int], PerImage]


SIMULATIONS = (
    _Simulation('top1', 1000, classified),
    _Simulation('box_ap', 500, detected),
    _Simulation('miou', 500, segmented),
)


def coverage(metric: str, sets: int, resamples: int = 1000, seed: int = 0) -> HeldIntervals:
    """Return how many intervals of `metric` hold its true value.

    Args:
        metric: 'top1', 'box_ap' or 'miou'.
        sets: so many data sets are simulated.
        resamples: of the bootstrap, for each of them.
    """
    simulation = next(s for s in SIMULATIONS if s.metric == metric)
    rng = np.random.default_rng(seed)
    truth = simulation.draw(rng, _POPULATION).of_all_images()[metric]
    found = []
    for _ in range(sets):
        drawn = simulation.draw(rng, simulation.images)
        found.append(
            drawn.intervals()[metric]
            if isinstance(drawn, ImageHits)
            else intervals(drawn, resamples, int(rng.integers(2**32)))[metric]
        )
    low, high = np.array(found).T
    held = int(((low <= truth) & (truth <= high)).sum())
    return HeldIntervals(metric, truth, simulation.images, sets, held, float((high - low).mean()))


def main(
    sets: Annotated[int, typer.Option(help='Simulated data sets for each metric.')] = 1000,
    resamples: Annotated[int, typer.Option(help='Of the bootstrap, for each data set.')] = 1000,
    seed: Annotated[int, typer.Option(help='Of everything.')] = 0,
) -> None:
    """Count how often the 95 % intervals of Top-1, AP and mIoU hold the true value."""
    rows = []
    for simulation in SIMULATIONS:
        start = time.perf_counter()
        found = coverage(simulation.metric, sets, resamples, seed)
        seconds = time.perf_counter() - start
        rows.append([found.metric, found.images, found.truth, found.width, found.share, seconds])
    heads = ['metric', 'images', 'truth, %', 'mean width', 'held, %', 's']
    print(f'{sets:,} data sets, {resamples:,} resamples')
    print(tabulate(rows, heads, 'simple', floatfmt=('', '', '.2f', '.2f', '.1f', '.1f')))


if __name__ == '__main__':
    typer.run(main)
