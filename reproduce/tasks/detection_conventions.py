"""Signs that detections are written in another convention than COCO's results."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as run_lengths

from datasets.coco import Annotations
from datasets.subset import evenly_spaced
from reproduce.tasks.evidence import far_more

# So many images with objects and detections say enough.
_MOST_IMAGES = 500

# Another convention is believed where it finds so much of the objects, at this IoU.
_SHARE, _IOU = 0.2, 0.5

# Boxes of two objects rarely overlap by chance once sides and corners are mixed up.
_DEVIATIONS = 2

# What the four numbers of a box may be instead of x, y, width, height.
_READINGS = {
    'x1, y1, x2, y2': lambda box, _: np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], 1),
    'centre x, centre y, width, height': lambda box, _: np.concatenate(
        [box[:, :2] - box[:, 2:] / 2, box[:, 2:]], 1
    ),
    'y, x, height, width': lambda box, _: box[:, [1, 0, 3, 2]],
    'fractions of the width and height of the image': lambda box, size: box * np.tile(size, 2),
}


def convention_warnings(
    results: Sequence[Mapping[str, Any]], annotations: Annotations
) -> tuple[str, ...]:
    """Return a sentence for each sign that boxes or categories are not those of COCO's results.

    The signs are objects of the annotations that the detections find only if they are read
    otherwise: the boxes as corners, say, or the categories as the next ones.

    Args:
        results: of the images of `annotations`.
    """
    images = _sampled(results, annotations)
    objects = sum(len(truth) for _, truth, _ in images)
    if not objects:
        return ()
    found = [_overlaps(_boxes(detections), truth) for detections, truth, _ in images]
    now = sum(int((overlap >= _IOU).any(0).sum()) for overlap in found)
    if 'bbox' in images[0][0][0]:
        for name, read in _READINGS.items():
            otherwise = 0
            for detections, truth, size in images:
                boxes = np.maximum(read(_boxes(detections), size), [-np.inf, -np.inf, 0, 0])
                otherwise += int((_overlaps(boxes, truth) >= _IOU).any(0).sum())
            if _believed(otherwise, now, objects):
                return (
                    f'the boxes look like {name} and not like x, y, width, height: of '
                    f'{objects:,} objects they find {otherwise:,} if they are read so, and '
                    f'{now:,} as they are; convert them.',
                )
    place = {category['id']: i for i, category in enumerate(annotations.categories)}
    shifts = np.array(
        [
            place[detections[best]['category_id']] - place[truth[i]['category_id']]
            for (detections, truth, _), overlap in zip(images, found, strict=True)
            for i, best in enumerate((overlap >= _IOU).argmax(0))  # the first has the best score
            if overlap[best, i] >= _IOU
        ],
        int,
    )
    right = int((shifts == 0).sum())
    for shift, name in ((-1, 'before'), (1, 'after')):
        otherwise = int((shifts == shift).sum())
        if _believed(otherwise, right, len(shifts)):
            return (
                f'the categories look shifted by one: of {len(shifts):,} objects under a box '
                f'{otherwise:,} have the category {name} theirs there, and {right:,} their own; '
                "take the annotations' ids of the categories.",
            )
    return ()


def _believed(otherwise: int, now: int, objects: int) -> bool:
    return otherwise >= _SHARE * objects and far_more(otherwise, now, _DEVIATIONS)


def _sampled(
    results: Sequence[Mapping[str, Any]], annotations: Annotations
) -> list[tuple[list[Mapping[str, Any]], list[Mapping[str, Any]], tuple[int, int]]]:
    """Return detections by descending score, objects, width and height of some images."""
    by_image: dict[int, tuple[list[Any], list[Any]]] = {
        image['id']: ([], []) for image in annotations.images
    }
    for result in results:
        by_image[result['image_id']][0].append(result)
    for instance in annotations.instances:
        if not instance['iscrowd']:
            by_image[instance['image_id']][1].append(instance)
    both = [image for image in annotations.images if all(by_image[image['id']])]
    return [
        (
            sorted(by_image[image['id']][0], key=lambda result: -result['score']),
            by_image[image['id']][1],
            (image['width'], image['height']),
        )
        for image in evenly_spaced(both, _MOST_IMAGES)
    ]


def _boxes(detections: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return x, y, width, height of the boxes or else of the masks, (N, 4)."""
    if 'bbox' in detections[0]:
        return np.array([detection['bbox'] for detection in detections], float)
    return run_lengths.toBbox([detection['segmentation'] for detection in detections])


def _overlaps(boxes: np.ndarray, truth: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the IoU of N boxes with M objects, (N, M)."""
    objects = np.array([instance['bbox'] for instance in truth], float)
    # pycocotools takes the numbers as they lie in memory.
    overlap = run_lengths.iou(np.ascontiguousarray(boxes), objects, [0] * len(truth))
    return np.asarray(overlap).reshape(len(boxes), len(truth))
