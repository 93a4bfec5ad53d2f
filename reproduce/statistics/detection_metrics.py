"""Which detections matched an object on each image, from which AP and AR are computed.

pycocotools matches detections to objects image by image, and then accumulates over the images. The
matches are kept here, so that the second step is repeated for resampled images without the first.
The results are those of pycocotools on the resampled images, except where detections on different
images have equal scores: it takes these in the order of the images.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from reproduce.statistics.detection_errors import CLASS, ERRORS, MISSED, cells_of, find_errors
from reproduce.statistics.per_image import ResampledImages, mean_of_numbers

if TYPE_CHECKING:
    from pycocotools.cocoeval import COCOeval

# As in pycocotools' `Params`: ten IoUs, 101 recalls, objects of all sizes and then small, medium
# and large ones.
IOUS = 10
RECALLS = np.linspace(0.0, 1.0, 101)
_AREAS = 4

# pycocotools' twelve numbers, in its order: AP at IoU 0.50:0.95, at 0.50 and at 0.75, of objects of
# up to 32² pixels, of 32² to 96², and of more; AR of at most 1, 10 and 100 detections an image, and
# of 100 by size.
METRICS = (
    *('ap', 'ap50', 'ap75', 'ap_s', 'ap_m', 'ap_l'),
    *('ar1', 'ar10', 'ar100', 'ar_s', 'ar_m', 'ar_l'),
)
# The index of the area range and the most detections an image of each AR.
_RECALL_OF = ((0, 1), (0, 10), (0, 100), (1, 100), (2, 100), (3, 100))

KINDS = ('box', 'mask')  # what is compared
_EVERY_IOU = np.uint16(2**IOUS - 1)
ERROR_RESAMPLES = 600  # enough for Holm's correction of the p values of twelve kinds of error
# Detections of resampled data sets that are accumulated at once: they fit a processor's cache.
_AT_ONCE = 2**18


@dataclass(frozen=True)
class Matches:
    """The detections and objects of all classes, as boxes or as masks.

    Detections are ordered by class, and in a class by score, the highest first.

    Attributes:
        detection_class, detection_image: (M,) in int32, the indices of class and image.
        rank: (M,) in int32, how many detections of the class on the image have higher scores.
        matched, ignored: (M, 4) in uint16, for each size a bit for each IoU: whether the
            detection matches an object, and whether it does not count.
        object_class, object_image: (G,) in int32, the pairs of class and image with an object.
        objects: (G, 4) in int32, how many of them count in each size.
        error: (M,) in int32, the error of each false detection that counts, an index of `ERRORS`;
            -1 of others.
        corrected: (M,) in int32, the class of which it is a correct detection once its error is
            corrected, or -1; see `find_errors`.
        above: (M,) in int32, for a wrong class, how many detections of the class `corrected` have
            the same score or a higher one.
        missed: (G,) in int32, how many of the objects are missed.
    """

    detection_class: np.ndarray
    detection_image: np.ndarray
    rank: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    object_class: np.ndarray
    object_image: np.ndarray
    objects: np.ndarray
    error: np.ndarray
    corrected: np.ndarray
    above: np.ndarray
    missed: np.ndarray

    @classmethod
    def of(cls, evaluation: 'COCOeval') -> 'Matches':
        """Return the matches in the `evalImgs` of a COCOeval with pycocotools' own `Params`."""
        of_all = cells_of(evaluation)
        place = np.argwhere(of_all[:, 0].astype(bool)).astype(np.int32)
        entries = [of_all[k, :, i] for k, i in place]
        sizes = np.array([len(areas[0]['dtScores']) for areas in entries], int)
        scores = np.array([score for of in entries for score in of[0]['dtScores']], float)
        matched, ignored = (
            np.stack([_bits([of[a][key] for of in entries], sizes) for a in range(_AREAS)], 1)
            for key in ('dtMatches', 'dtIgnore')
        )
        of_detection = np.repeat(place, sizes, axis=0)
        rank = np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)
        # By class, score and image, and on an image in the order of the detector.
        order = np.lexsort((rank, of_detection[:, 1], -scores, of_detection[:, 0]))
        objects = np.array(
            [[len(e['gtIgnore']) - np.count_nonzero(e['gtIgnore']) for e in of] for of in entries],
            np.int32,
        ).reshape(-1, _AREAS)
        some = objects.any(1)
        detection_class, detection_image = np.ascontiguousarray(of_detection[order].T)
        object_class, object_image = np.ascontiguousarray(place[some].T)
        errors, missed = find_errors(evaluation)
        ids = [i for of in entries for i in of[0]['dtIds']]
        pairs = np.array([errors.get(i, (-1, -1)) for i in ids], np.int32).reshape(-1, 2)[order]
        error, corrected = np.ascontiguousarray(pairs.T)
        above, highest_first = np.zeros(len(ids), np.int32), -scores[order]
        for k in range(len(of_all)):
            moved = (error == CLASS) & (corrected == k)
            own = highest_first[detection_class == k]
            above[moved] = own.searchsorted(highest_first[moved], side='right')
        unfound = [sum(i in missed for i in of[0]['gtIds']) for of in entries]
        return cls(
            detection_class,
            detection_image,
            rank[order].astype(np.int32),
            matched[order],
            ignored[order],
            object_class,
            object_image,
            objects[some],
            error,
            corrected,
            above,
            np.array(unfound, np.int32)[some],
        )


def _bits(tables: Sequence[Any], sizes: np.ndarray) -> np.ndarray:
    """Return a bit for each IoU of what each of the (IOUS, D) `tables` says, (sum of D,)."""
    some = [table for table, n in zip(tables, sizes, strict=True) if n]
    there = np.concatenate([np.zeros((IOUS, 0)), *some], axis=1) != 0
    return (there.T @ (1 << np.arange(IOUS))).astype(np.uint16)


@dataclass(frozen=True)
class MatchedDetections(ResampledImages):
    """The matches of N images and K classes."""

    KIND: ClassVar[str] = 'matched detections'

    kinds: Mapping[str, Matches]  # of boxes as 'box', of masks as 'mask', or of one of them
    number: int  # N
    classes: int  # K

    @property
    def images(self) -> int:
        return self.number

    def compute(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """See `ResampledImages.compute`; names begin with 'box_' or 'mask_'."""
        metrics: dict[str, np.ndarray] = {}
        for kind, matches in self.kinds.items():
            precision, recall = accumulate(matches, times, self.classes)
            of_all = precision[:, :, 0]
            values = [of_all, of_all[..., 0], of_all[..., 5]]
            values += [*np.moveaxis(precision[:, :, 1:], 2, 0), *np.moveaxis(recall, 2, 0)]
            means = [100 * mean_of_numbers(value.reshape(len(times), -1)) for value in values]
            names = [f'{kind}_{name}' for name in METRICS]
            metrics |= dict(zip(names, means, strict=True))
        return metrics

    @property
    def errors(self) -> 'DetectionErrors':
        """What the errors cost."""
        return DetectionErrors(self.kinds, self.number, self.classes)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {
            **{
                f'{kind}_{field.name}': getattr(matches, field.name)
                for kind, matches in self.kinds.items()
                for field in fields(matches)
            },
            'number_of_images': np.array(self.number),
            'number_of_classes': np.array(self.classes),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        number, classes = int(arrays['number_of_images']), int(arrays['number_of_classes'])
        kinds = {
            kind: Matches(*(arrays[f'{kind}_{field.name}'] for field in fields(Matches)))
            for kind in KINDS
            if f'{kind}_rank' in arrays
        }
        if not kinds or classes != len(arrays['classes']):
            raise ValueError(f'matches of {list(kinds)} in {classes:,} classes')
        return cls(kinds, number, classes)


class DetectionErrors(MatchedDetections):
    """The same, of which is computed how much AP50 each kind of error costs, see `ERRORS`."""

    def compute(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """See `ResampledImages.compute`; names are 'box_' or 'mask_' and one of `ERRORS`."""
        costs: dict[str, np.ndarray] = {}
        for kind, matches in self.kinds.items():
            cost = np.moveaxis(cost_of_errors(matches, times, self.classes), 2, 0)
            names = [f'{kind}_{error}' for error in ERRORS]
            costs |= zip(names, 100 * mean_of_numbers(cost), strict=True)
        return costs


def accumulate(matches: Matches, times: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return AP and AR of K classes of R data sets in which image i occurs `times[r, i]` times.

    Returns:
        AP by size of the objects, (R, K, 4, IOUS), and AR, the mean over the IoUs, (R, K, 6): with
        1, 10 and 100 detections an image, then of small, medium and large objects. Both are in
        [0, 1]; NaN where a class has no object.
    """
    precision = np.full((len(times), classes, _AREAS, IOUS), np.nan)
    recall = np.full((len(times), classes, len(_RECALL_OF)), np.nan)
    for k, found, there, rows in _by_class(matches, len(times)):
        of_class = matches.matched[found], matches.ignored[found], matches.rank[found]
        positives = times[rows, matches.object_image[there]] @ matches.objects[there]
        values = _of_class(times[rows, matches.detection_image[found]], positives, *of_class)
        precision[rows, k], recall[rows, k] = values
    return precision, recall


def _by_class(matches: Matches, sets: int) -> Iterator[tuple[int, np.ndarray, np.ndarray, slice]]:
    """Yield each class with an object, its detections and pairs, and some of the data sets."""
    for k in np.unique(matches.object_class):
        found = np.flatnonzero(matches.detection_class == k)
        there = np.flatnonzero(matches.object_class == k)
        step = 1 + _AT_ONCE // (1 + found.size)
        for start in range(0, sets, step):
            yield k, found, there, slice(start, start + step)


def cost_of_errors(matches: Matches, times: np.ndarray, classes: int) -> np.ndarray:
    """Return how much AP50 the errors of each kind cost in R data sets, see `accumulate`.

    It is what AP at an IoU of 0.5, of objects of all sizes, would rise by if these errors were
    corrected.

    Returns:
        (R, K, 6), in [0, 1], in the order of `ERRORS`; NaN where a class has no object.
    """
    cost = np.full((len(times), classes, len(ERRORS)), np.nan)
    # A bit for each kind of error: what is correct, and what does not count, without these errors.
    # Detections are the same without missed objects, whose bit is also for AP50 as it is.
    every = np.uint16(2 ** len(ERRORS) - 1)
    for k, own, there, rows in _by_class(matches, len(times)):
        moved = np.flatnonzero((matches.error == CLASS) & (matches.corrected == k))
        found = np.insert(own, matches.above[moved], moved)
        error, corrected = matches.error[found], matches.corrected[found] == k
        bit = np.where(error < 0, 0, 1 << np.maximum(error, 0)).astype(np.uint16)
        crowd = matches.ignored[found, 0] & 1
        correct = matches.matched[found, 0] & ~crowd & 1
        right = np.where(corrected, bit, correct * every)
        out = np.where(corrected, 0, bit) | crowd * _EVERY_IOU
        out = np.where(matches.detection_class[found] == k, out, _EVERY_IOU & ~bit)
        weights = times[rows, matches.detection_image[found]]
        objects = np.stack([matches.objects[there, 0], matches.missed[there]], 1)
        positives, missed = (times[rows, matches.object_image[there]] @ objects).T
        values = _average_precision(weights, right, out, np.maximum(positives, 1))
        as_it_is = values[:, [MISSED]]
        right &= np.uint16(1 << MISSED)
        fewer = np.maximum(positives - missed, 1)
        values[:, MISSED] = _average_precision(weights, right, out, fewer)[:, MISSED]
        values = values[:, : len(ERRORS)] - as_it_is
        cost[rows, k] = np.where(positives[:, None] > 0, values, np.nan)
    return cost


def _of_class(
    weights: np.ndarray,
    positives: np.ndarray,
    matched: np.ndarray,
    ignored: np.ndarray,
    rank: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return AP and AR of one class of R data sets, (R, 4, IOUS) and (R, 6).

    Args:
        weights: (R, D), how often each detection occurs, in the order of scores.
        positives: (R, 4), the objects that count.
        matched, ignored, rank: (D, 4), (D, 4) and (D,), as in `Matches`.
    """
    right = matched & ~ignored
    precision = np.full((len(weights), _AREAS, IOUS), np.nan)
    for area, n in enumerate(positives.T):
        values = _average_precision(weights, right[:, area], ignored[:, area], np.maximum(n, 1))
        precision[n > 0, area] = values[n > 0]
    # Floats have a fast product of matrices, and are exact for these sums.
    some = right.any(1)
    hits = [np.bitwise_count(right[some, a]) * (rank[some] < most) for a, most in _RECALL_OF]
    found = weights[:, some].astype(np.float64) @ np.stack(hits, 1).astype(np.float64)
    positive = positives[:, [area for area, _ in _RECALL_OF]]
    recall = np.where(positive == 0, np.nan, found / (IOUS * np.maximum(positive, 1)))
    return precision, recall


def _average_precision(
    weights: np.ndarray, right: np.ndarray, ignored: np.ndarray, positives: np.ndarray
) -> np.ndarray:
    """Return AP at each IoU, (R, IOUS), as pycocotools interpolates it.

    Only correct detections are looked at: precision falls between them, and recall is reached at
    one of them.

    Args:
        weights: (R, D).
        right, ignored: (D,), a bit for each IoU.
        positives: (R,), 1 or more.
    """
    counting = ignored != _EVERY_IOU
    if not counting.all():
        weights, right, ignored = weights[:, counting], right[counting], ignored[counting]
    seen = weights.cumsum(1, dtype=np.int32)
    found = np.zeros((len(weights), IOUS))
    # How many of RECALLS are reached with a number of correct detections.
    sizes, row = np.unique(positives, return_inverse=True)
    shares = np.arange(sizes[-1] + 1) / sizes[:, None]
    reached = RECALLS.searchsorted(shares, side='right').astype(np.int16)
    for iou in range(IOUS):
        at = np.flatnonzero(right >> iou & 1)
        if not at.size:
            continue
        counted = seen[:, at]
        out = np.flatnonzero(ignored >> iou & 1)
        if out.size:
            left_out = np.zeros((len(weights), out.size + 1), np.int32)
            weights[:, out].cumsum(1, out=left_out[:, 1:])
            counted -= left_out[:, out.searchsorted(at)]
        hits = weights[:, at].cumsum(1, dtype=np.int32)
        precision = hits / (counted + np.spacing(1))
        highest = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        steps = np.diff(reached[row[:, None], hits], axis=1, prepend=0)
        found[:, iou] = np.einsum('rd,rd->r', steps, highest) / RECALLS.size
    return found
