"""Detections in COCO's result format: their AP and AR, and the file that keeps them."""

import contextlib
import gzip
import io
import json
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, NotRequired

import hotcoco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import BeforeValidator, FiniteFloat, TypeAdapter
from typing_extensions import TypedDict

from datasets.coco import COCO as CocoData
from datasets.coco_annotations import Annotations, Box, MaskSize, Whole, read_json
from datasets.coco_masks import sound_run_lengths
from reproduce.base.errors import UserError
from reproduce.statistics.matched_detections import METRICS, MatchedDetections, Matches
from reproduce.tasks.scores import Scorer, Scores

# What pycocotools calls the kind of a comparison, and the key under which a result has the object.
KINDS = {'box': ('bbox', 'bbox'), 'mask': ('segm', 'segmentation')}


class _Mask(TypedDict):
    size: MaskSize
    counts: str


# As in pycocotools, an empty list is no mask and no box.
_NoneIfEmpty = BeforeValidator(lambda value: None if value == [] else value)


class _Detection(TypedDict):
    image_id: Whole
    category_id: Whole
    bbox: NotRequired[Annotated[Box | None, _NoneIfEmpty]]
    score: FiniteFloat
    segmentation: NotRequired[Annotated[_Mask | None, _NoneIfEmpty]]


_DETECTIONS = TypeAdapter(list[_Detection])


class DetectionScorer(Scorer):
    """Average precision and recall; the detections of an image are a list of COCO's result objects.

    Args:
        annotations, masks: as `score` takes them.
    """

    suffix = '.json.gz'

    def __init__(self, annotations: Annotations, masks: bool) -> None:
        self.annotations, self.masks = annotations, masks
        self.collected: list[tuple[int, list[dict[str, Any]]]] = []

    def update(self, indices: Sequence[int], predictions: Sequence[list[dict[str, Any]]]) -> None:
        """Add the detections of each image of a batch."""
        self.collected += zip(indices, predictions, strict=True)

    @property
    def results(self) -> list[dict[str, Any]]:
        """All detections, in the order of the images."""
        return [r for _, found in sorted(self.collected, key=itemgetter(0)) for r in found]

    def compute(self) -> Scores:
        """See `score`."""
        return score(self.results, self.annotations, self.masks)

    def to_bytes(self) -> bytes:
        """Return a gzipped file of COCO's result format, in the order of the images."""
        return to_json(self.results)


def score(
    results: Sequence[dict[str, Any]],
    annotations: Annotations,
    masks: bool | None = None,
    fast: bool = False,
) -> Scores:
    """Return COCO's twelve numbers of boxes and of masks, and the AP and AP50 of each class.

    `box_ap` is the mean over IoU 0.50:0.95, `box_ap50` and `box_ap75` are those at one IoU,
    `box_ap_s`, `_m`, `_l` those of objects of up to 32², of 32² to 96², of 96² pixels and more.
    `box_ar1`, `_ar10` and `_ar100` are the average recall of at most so many detections an image,
    and `box_ar_s`, `_m`, `_l` that of 100 by size. `mask_ap` and so on likewise. Where nothing is
    detected they are 0; a size or a class without an object has no precision and no recall, and is
    left out. A detection has the size of its box where boxes are compared, and of its mask where
    masks are.

    Args:
        annotations: of all images that were looked at, those without a detection too. Results on
            other images do not count.
        masks: whether masks are scored where nothing at all was detected; None scores them if the
            annotations have some.
        fast: count by hotcoco instead of pycocotools, which is the metric of record, and leave the
            intervals out: hotcoco hands its matches over slowly.

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
        evaluation = evaluated(results, annotations, kind, fast)
        values = dict(zip(METRICS, evaluation.stats, strict=True))
        metrics |= {f'{kind}_{name}': 100 * float(v) for name, v in values.items() if v >= 0}
        # By IoU, recall, class, size and detections an image; -1 where there is no object.
        precision = evaluation.eval['precision'][:, :, :, 0, -1]
        for i, category in enumerate(categories):
            if (precision[:, :, i] >= 0).any():
                own = per_class.setdefault(category['name'], {})
                own[f'{kind}_ap'] = 100 * float(precision[:, :, i].mean())
                own[f'{kind}_ap50'] = 100 * float(precision[0, :, i].mean())
        if not fast:
            matches[kind] = Matches.of(evaluation)
    if fast:
        return Scores(metrics, per_class=per_class)
    statistics = MatchedDetections(matches, len(annotations.images), len(categories))
    return Scores(metrics, statistics.intervals(), per_class, statistics)


def to_json(results: Sequence[dict[str, Any]]) -> bytes:
    """Return the results as a gzipped file; the same results give the same bytes."""
    return gzip.compress(json.dumps(results, separators=(',', ':')).encode(), 6, mtime=0)


def read(path: Path) -> list[dict[str, Any]]:
    """Read the detections from a file of COCO's result format, gzipped or not.

    Each has image_id, category_id, score and bbox (x, y, width, height in pixels), or segmentation
    (compressed run lengths), or both. An empty one counts as none.

    Raises:
        UserError: if it is missing, or is not such a file.
    """
    try:
        results = read_json(path, _DETECTIONS)
    except ValueError as error:
        raise UserError(
            f"the results {path} cannot be read ({error}): expected COCO's result format, a list "
            'of objects with image_id, category_id, score and bbox or segmentation.'
        ) from error
    for result in results:
        for _, key in KINDS.values():
            if key in result and result[key] is None:
                del result[key]
    return results


def checked(
    results: Sequence[dict[str, Any]], annotations: Annotations, path: Path
) -> list[dict[str, Any]]:
    """Return the results of the file `path`, checked to be for the images of `annotations`.

    Masks are decoded; those in which runs are empty are encoded again, since pycocotools and
    hotcoco disagree about them.

    Raises:
        UserError: if one has an image or a category that `annotations` has not, or a mask that is
            none or has another size than its image; if some have boxes or masks and others have
            none.
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
    wrong = [r for r in results if r['segmentation']['size'] != sizes[r['image_id']]]
    refuse(wrong, 'a segmentation of another size than their image')
    sound = []
    for number, result in enumerate(results, 1):
        try:
            sound.append({**result, 'segmentation': sound_run_lengths(result['segmentation'])})
        except ValueError as error:
            raise UserError(
                f'the results {path}: the segmentation of the detection {number:,}, on the image '
                f'{result["image_id"]}, {error}; encode masks with pycocotools.mask.encode.'
            ) from error
    return sound


def score_file(path: Path, data: CocoData) -> Scores:
    """Score the detections in the file `path` for the images of `data`, by pycocotools.

    Raises:
        UserError: if it is no such file, or does not fit the images.
    """
    truth = data.content.of(image_id for _, image_id in data.samples)
    return score(checked(read(path), data.content, path), truth)


def check_masks(annotations: Annotations) -> None:
    """Check that masks can be scored.

    Raises:
        UserError: if an object has none.
    """
    without = [i['id'] for i in annotations.instances if not i.get('segmentation')]
    if without:
        raise UserError(
            f'{annotations.path} has no segmentation for {len(without):,} of its '
            f'{len(annotations.instances):,} objects, first {without[0]}, so masks cannot be '
            'scored: take annotations with masks, or score boxes alone.'
        )


def evaluated(
    results: Sequence[dict[str, Any]], annotations: Annotations, kind: str, fast: bool = False
) -> COCOeval:
    """Return pycocotools' `COCOeval` of 'box' or 'mask': its `stats`, `eval` and `evalImgs`.

    Images, categories and objects are numbered from 1 in their order: pycocotools takes the id 0
    for none, and hotcoco has no ids that are negative or above 2^64.

    Raises:
        UserError: if the annotations have no object, or no masks to score masks against.
    """
    if not any(not instance['iscrowd'] for instance in annotations.instances):
        raise UserError(
            f'{annotations.path} has no object in these {len(annotations.images):,} images: there '
            'is nothing to score against.'
        )
    if kind == 'mask':
        check_masks(annotations)
    iou_type, key = KINDS[kind]
    api, evaluator = (hotcoco.COCO, hotcoco.COCOeval) if fast else (COCO, COCOeval)
    images, categories = (
        {entry['id']: number for number, entry in enumerate(entries, 1)}
        for entries in (annotations.images, annotations.categories)
    )

    def renumbered(entry: dict[str, Any], **changes: Any) -> dict[str, Any]:
        image, category = images[entry['image_id']], categories[entry['category_id']]
        return {**entry, 'image_id': image, 'category_id': category, **changes}

    dataset = {
        'images': [{**image, 'id': images[image['id']]} for image in annotations.images],
        'categories': [{**c, 'id': categories[c['id']]} for c in annotations.categories],
        'annotations': [renumbered(i, id=n) for n, i in enumerate(annotations.instances, 1)],
    }
    keys = ('image_id', 'category_id', 'score', key)
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = api(), api()
        truth.dataset = dataset
        truth.createIndex()
        if results:
            alone = [{k: result[k] for k in keys} for result in results]
            found = truth.loadRes([renumbered(result) for result in alone])
        else:
            found.dataset = {**dataset, 'annotations': []}
            found.createIndex()
        evaluation = evaluator(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        # hotcoco's tables are pycocotools' to the bit, but its means of them only nearly.
        summary = COCOeval(iouType=iou_type)
        summary.eval = evaluation.eval
        if not fast:
            summary.evalImgs, summary.params = evaluation.evalImgs, evaluation.params
        summary.summarize()
    return summary


def _any_mask(entries: Sequence[dict[str, Any]]) -> bool:
    return any('segmentation' in entry for entry in entries)
