"""Detections in COCO's result format: their AP and AR, and the file that keeps them."""

import contextlib
import gzip
import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import FiniteFloat, TypeAdapter
from scipy.optimize import linear_sum_assignment
from typing_extensions import TypedDict

from datasets.coco import COCO as CocoData
from datasets.coco_annotations import Annotations, Box, Id, MaskSize, check_mask, read_json
from reproduce.base.errors import UserError
from reproduce.statistics.detection_metrics import METRICS, MatchedDetections, Matches
from reproduce.tasks.scores import Scores

# What pycocotools calls the kind of a comparison, and the key under which a result has the object.
KINDS = {'box': ('bbox', 'bbox'), 'mask': ('segm', 'segmentation')}


class _Mask(TypedDict):
    size: MaskSize
    counts: str


class _Detection(TypedDict):
    image_id: Id
    category_id: Id
    bbox: NotRequired[Box]
    score: FiniteFloat
    segmentation: NotRequired[_Mask]


_DETECTIONS = TypeAdapter(list[_Detection])


def score(
    results: Sequence[dict[str, Any]], annotations: Annotations, masks: bool | None = None
) -> Scores:
    """Return COCO's twelve numbers of boxes and of masks, and the AP and AP50 of each class.

    Their names are `box_` or `mask_` and one of `METRICS`. Where nothing is detected they are 0; a
    size or a class without an object has no precision and no recall, and is left out.

    Args:
        annotations: of all images that were looked at, those without a detection too. Results on
            other images do not count.
        masks: whether masks are scored where nothing at all was detected; None scores them if the
            annotations have some.

    Raises:
        UserError: if the annotations have no object, or no masks to score masks against.
    """
    looked_at = {image['id'] for image in annotations.images}
    results = [result for result in results if result['image_id'] in looked_at]
    kinds = [k for k, (_, key) in KINDS.items() if any(key in result for result in results)]
    if not results:
        with_masks = _any_mask(annotations.instances) if masks is None else masks
        kinds = ['box', 'mask'] if with_masks else ['box']
    categories = annotations.categories
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    matches: dict[str, Matches] = {}
    for kind in kinds:
        evaluation = evaluated(results, annotations, kind)
        values = dict(zip(METRICS, evaluation.stats, strict=True))
        metrics |= {f'{kind}_{name}': 100 * float(v) for name, v in values.items() if v >= 0}
        # By IoU, recall, class, size and detections an image; -1 where there is no object.
        precision = evaluation.eval['precision'][:, :, :, 0, -1]
        for i, category in enumerate(categories):
            if (precision[:, :, i] >= 0).any():
                own = per_class.setdefault(category['name'], {})
                own[f'{kind}_ap'] = 100 * float(precision[:, :, i].mean())
                own[f'{kind}_ap50'] = 100 * float(precision[0, :, i].mean())
        matches[kind] = Matches.of(evaluation)
    statistics = MatchedDetections(matches, len(annotations.images), len(categories))
    return Scores(metrics, statistics.intervals(), per_class, statistics)


def to_json(results: Sequence[dict[str, Any]]) -> bytes:
    """Return the results as a gzipped file; the same results give the same bytes."""
    return gzip.compress(json.dumps(results, separators=(',', ':')).encode(), 6, mtime=0)


def read(path: Path) -> list[dict[str, Any]]:
    """Read the detections from a file of COCO's result format, gzipped or not.

    Each has image_id, category_id, score and bbox (x, y, width, height in pixels), or segmentation
    (compressed run lengths), or both.
    """
    return read_json(path, _DETECTIONS)


def checked(
    results: Sequence[dict[str, Any]], annotations: Annotations, path: Path
) -> list[dict[str, Any]]:
    """Return the results of the file `path`, checked to be for the images of `annotations`.

    Raises:
        UserError: if one has an image or a category that `annotations` has not, or a mask that is
            not sound or has another size than its image; if some have boxes or masks and others
            have none.
    """

    def refuse(wrong: Sequence[dict[str, Any]], problem: str) -> None:
        if wrong:
            raise UserError(
                f'the results {path} do not fit {annotations.path}: {len(wrong):,} of '
                f'{len(results):,} detections have {problem}, first one on the image '
                f'{wrong[0]["image_id"]}.'
            )

    for key, known in (('image_id', annotations.images), ('category_id', annotations.categories)):
        ids = {entry['id'] for entry in known}
        refuse([r for r in results if r[key] not in ids], f'an unknown {key}')
    has_masks = _any_mask(results)
    for _, key in KINDS.values():
        without = [result for result in results if key not in result]
        if len(without) < len(results) or (key == 'bbox' and not has_masks):
            refuse(without, f'no {key}')
    if not has_masks:
        return list(results)
    sizes = {image['id']: [image['height'], image['width']] for image in annotations.images}
    sound = [dict(result) for result in results]
    for number, result in enumerate(sound, 1):
        try:
            check_mask(result, sizes[result['image_id']])
        except ValueError as error:
            raise UserError(
                f'the results {path}: the segmentation of the detection {number:,}, on the image '
                f'{result["image_id"]}, {error}; encode masks with pycocotools.mask.encode.'
            ) from error
    return sound


def score_file(path: Path, data: CocoData) -> Scores:
    """See `Task.score_file`."""
    truth = data.content.of(image_id for _, image_id in data.samples)
    return score(checked(read(path), data.content, path), truth)


def differing(
    path: Path, data: CocoData, again: Mapping[int, Sequence[dict[str, Any]]]
) -> list[int]:
    """Return for which images a file has other detections than those predicted `again`."""
    kept: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in checked(read(path), data.content, path):
        kept[result['image_id']].append(result)
    return [i for i, found in again.items() if _differ(kept[data.samples[i][1]], found)]


def _differ(kept: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> bool:
    """Return whether more than a fiftieth of the detections on an image are not the same.

    Other threads, processes and kernels moved scores by up to 1e-5, and boxes and masks of the
    released detectors by up to 7e-5 pixels and an IoU of 0.998, on images 20 times smaller than
    COCO's. They may also decide which of two equal detections stays, hence the fiftieth.
    """
    if not (kept and found):
        return len(kept) != len(found)

    def apart(key: str) -> np.ndarray:
        one, other = (np.array([result[key] for result in some]) for some in (kept, found))
        return abs(one[:, None] - other)

    same = (apart('category_id') == 0) & (apart('score') <= 1e-4)
    if 'bbox' in kept[0]:
        same &= (apart('bbox') <= 0.1).all(-1)
    if 'segmentation' in kept[0] and 'segmentation' in found[0]:
        masks = ([result['segmentation'] for result in some] for some in (kept, found))
        same &= run_lengths.iou(*masks, [False] * len(found)) >= 0.95
    pairs = same[linear_sum_assignment(same, maximize=True)].sum()
    most = max(len(kept), len(found))
    return bool(most - pairs > most / 50)


def check_masks(annotations: Annotations) -> None:
    """Check that all objects have masks, so that masks can be scored."""
    without = [i['id'] for i in annotations.instances if not i.get('segmentation')]
    if without:
        raise UserError(
            f'{annotations.path} has no segmentation for {len(without):,} of its '
            f'{len(annotations.instances):,} objects, first {without[0]}, so masks cannot be '
            'scored: take annotations with masks, or score boxes alone.'
        )


def evaluated(results: Sequence[dict[str, Any]], annotations: Annotations, kind: str) -> COCOeval:
    """Return pycocotools' `COCOeval` of 'box' or 'mask', after its three steps."""
    if not any(not instance['iscrowd'] for instance in annotations.instances):
        raise UserError(
            f'{annotations.path} has no object in these {len(annotations.images):,} images: there '
            'is nothing to score against.'
        )
    if kind == 'mask':
        check_masks(annotations)
    iou_type, key = KINDS[kind]
    keys = ('image_id', 'category_id', 'score', key)
    # pycocotools takes an object with the id 0 for none, and adds to the entries.
    objects = [{**instance, 'id': n} for n, instance in enumerate(annotations.instances, 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = {
            'images': list(annotations.images),
            'categories': list(annotations.categories),
            'annotations': objects,
        }
        truth.createIndex()
        if results:
            found = truth.loadRes([{k: result[k] for k in keys} for result in results])
        else:
            found.dataset = {**truth.dataset, 'annotations': []}
            found.createIndex()
        evaluation = COCOeval(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _any_mask(entries: Sequence[dict[str, Any]]) -> bool:
    return any('segmentation' in entry for entry in entries)
