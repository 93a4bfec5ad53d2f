"""The error of each false detection, and the objects that are missed.

D. Bolya, S. Foley, J. Hays and J. Hoffman, TIDE: a general toolbox for identifying object detection
errors, ECCV 2020. hotcoco and tidecv compute what the errors in a whole data set cost. Here each
detection gets its error, from which `detection_metrics` computes the same for resampled images.
"""

from typing import TYPE_CHECKING

import numpy as np
from hotcoco import mask as overlaps

if TYPE_CHECKING:
    from pycocotools.cocoeval import COCOeval

# A false detection overlaps an object of its class too little (its place is wrong), one of another
# class (its class is wrong), one of another class too little (both), one that a better detection
# found (a duplicate), or none (background). The first of place, class, duplicate, background and
# both that applies is its error.
ERRORS = ('class', 'place', 'both', 'duplicate', 'background', 'missed')
CLASS, PLACE, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(ERRORS))

# The smallest IoU of a correct detection, and the largest of one on the background.
_CORRECT, _NO_OVERLAP = 0.5, 0.1


def cells_of(evaluation: 'COCOeval') -> np.ndarray:
    """Return the `evalImgs` of a COCOeval by class, size and image."""
    params = evaluation.params
    cells = np.empty(len(evaluation.evalImgs), object)
    cells[:] = evaluation.evalImgs
    return cells.reshape(len(params.catIds), -1, len(params.imgIds))


def find_errors(evaluation: 'COCOeval') -> tuple[dict[int, tuple[int, int]], set[int]]:
    """Return the errors in what a COCOeval with pycocotools' own `Params` has evaluated.

    Correcting wrong classes or places makes correct the best detection of each object that was not
    found. All other false detections are removed when their error is corrected.

    Returns:
        for the id of each false detection that counts, its error, an index of `ERRORS`, and the
        index of the class of the object that it finds when corrected, or -1 if it is removed; and
        the ids of the missed objects, which no corrected detection finds.
    """
    key = {'bbox': 'bbox', 'segm': 'segmentation'}[evaluation.params.iouType]
    errors: dict[int, tuple[int, int]] = {}
    missed: set[int] = set()
    for of_image in cells_of(evaluation)[:, 0].T:  # of objects of all sizes
        false, objects = [], []  # id and class, and whether an object is found, at an IoU of 0.5
        for k, cell in enumerate(of_image):
            if cell is not None:
                outcome = zip(cell['dtIds'], cell['dtMatches'][0], cell['dtIgnore'][0], strict=True)
                false += [(i, k) for i, right, ignored in outcome if not (right or ignored)]
                outcome = zip(cell['gtIds'], cell['gtMatches'][0], cell['gtIgnore'], strict=True)
                objects += [(i, k, found > 0) for i, found, ignored in outcome if not ignored]
        if not objects:
            errors |= {i: (BACKGROUND, -1) for i, _ in false}
            continue
        unfound = {i for i, _, found in objects if not found}
        if false:
            detections = evaluation.cocoDt.loadAnns([i for i, _ in false])
            wanted = evaluation.cocoGt.loadAnns([i for i, *_ in objects])
            boxes, truth = ([one[key] for one in some] for some in (detections, wanted))
            iou = overlaps.iou(boxes, truth, [False] * len(truth))
            kinds, targets = _kinds(iou, [k for _, k in false], [k for _, k, _ in objects])
            for place in np.argsort([-one['score'] for one in detections], kind='stable'):
                target, k, _ = objects[targets[place]]
                correct = kinds[place] in (CLASS, PLACE) and target in unfound
                unfound -= {target} if correct else set()
                errors[false[place][0]] = int(kinds[place]), k if correct else -1
        missed |= unfound
    return errors, missed


def _kinds(
    iou: np.ndarray, classes: list[int], object_classes: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of D false detections, and which of G objects each is nearest to.

    Args:
        iou: (D, G).

    Returns:
        (D,), an index of `ERRORS`; and (D,), of the objects of its class if its place is wrong,
        else of those of others.
    """
    same = np.where(np.equal.outer(classes, object_classes), iou, 0)
    other = iou - same
    of_same, of_other = same.max(1), other.max(1)
    wrong_place = (of_same >= _NO_OVERLAP) & (of_same <= _CORRECT)
    kinds = np.select(
        [wrong_place, of_other >= _CORRECT, of_same > _CORRECT, of_other <= _NO_OVERLAP],
        [PLACE, CLASS, DUPLICATE, BACKGROUND],
        BOTH,
    )
    return kinds, np.where(wrong_place, same.argmax(1), other.argmax(1))
