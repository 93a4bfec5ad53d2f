"""Detections in COCO's result format, and their average precision."""

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired

import hotcoco
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import Field, FiniteFloat, PositiveInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from datasets.coco import Annotations, Box, reason
from reproduce.errors import UserError
from reproduce.wording import by_number

# pycocotools calls what it compares 'bbox' or 'segm'; a result has it under the key beside it.
KINDS = {'box': ('bbox', 'bbox'), 'mask': ('segm', 'segmentation')}

# The first six of pycocotools' twelve numbers.
METRICS = ('ap', 'ap50', 'ap75', 'ap_s', 'ap_m', 'ap_l')


class _Mask(TypedDict):
    size: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
    counts: str


class _Detection(TypedDict):
    image_id: int
    category_id: int
    bbox: NotRequired[Box]
    score: FiniteFloat
    segmentation: NotRequired[_Mask]


_DETECTIONS = TypeAdapter(list[_Detection])


def to_json(results: Sequence[dict[str, Any]]) -> bytes:
    """COCO's result file, gzipped; the same content, the same bytes."""
    return gzip.compress(json.dumps(results, separators=(',', ':')).encode(), 6, mtime=0)


def read(path: Path) -> list[dict[str, Any]]:
    """The detections in a file of COCO's result format, gzipped or not.

    Each has image_id, category_id, score and bbox (x, y, width, height in pixels), or segmentation
    (compressed run lengths), or both.

    Raises:
        UserError: if it is missing, or no such file.
    """
    try:
        content = path.read_bytes()
        if path.suffix == '.gz':
            content = gzip.decompress(content)
        return _DETECTIONS.validate_json(content, strict=True)
    except (OSError, EOFError, zlib.error, ValidationError) as error:
        raise UserError(
            f"the results {path} cannot be read ({reason(error)}): expected COCO's result format, "
            'a list of objects with image_id, category_id, score and bbox or segmentation.'
        ) from error


def check(results: Sequence[dict[str, Any]], annotations: Annotations, path: Path) -> None:
    """Hold the results of the file `path` against the images that they should be of.

    Raises:
        UserError: if one has an image or a category that `annotations` has not, or a mask of
            another size than its image; if some have boxes or masks and others have none.
    """
    told = f'the results {path} do not fit {annotations.path}'
    for key, known in (('image_id', annotations.images), ('category_id', annotations.categories)):
        ids = {entry['id'] for entry in known}
        if unknown := [result[key] for result in results if result[key] not in ids]:
            raise UserError(
                f'{told}: {_detections(unknown)} the {key} {unknown[0]}, which is not there; name '
                'the annotations that they were made for.'
            )
    for _, key in KINDS.values():
        without = [result['image_id'] for result in results if key not in result]
        if 0 < len(without) < len(results) or (key == 'bbox' and without and not _masks(results)):
            raise UserError(
                f'the results {path} have no {key} in {len(without):,} of {len(results):,} '
                f'detections, first on the image {without[0]}: expected one in each or in none.'
            )
    if not _masks(results):
        return
    sizes = {image['id']: [image['height'], image['width']] for image in annotations.images}
    wrong = [r for r in results if r['segmentation']['size'] != sizes[r['image_id']]]
    if wrong:
        raise UserError(
            f'{told}: {_detections(wrong)} a segmentation of another size than its image, first '
            f'{wrong[0]["segmentation"]["size"]} on the image {wrong[0]["image_id"]}, which has '
            f'{sizes[wrong[0]["image_id"]]}; take the masks at the size of the images.'
        )
    for result in results:
        height, width = sizes[result['image_id']]
        if run_lengths.area(result['segmentation']) > height * width:
            raise UserError(
                f'the results {path} have a segmentation on the image {result["image_id"]} that is '
                'no compressed run lengths: encode masks with pycocotools.mask.encode.'
            )


def check_masks(annotations: Annotations) -> None:
    """See that masks can be scored.

    Raises:
        UserError: if an object has none.
    """
    without = sum(not instance.get('segmentation') for instance in annotations.instances)
    if without:
        raise UserError(
            f'{annotations.path} has no segmentation for {without:,} of its '
            f'{len(annotations.instances):,} objects, so masks cannot be scored: take annotations '
            'with masks, or score boxes alone.'
        )


def score(
    results: Sequence[dict[str, Any]],
    annotations: Annotations,
    fast: bool = False,
    masks: bool | None = None,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Average precision of boxes and of masks, in percent, and that of each class.

    `box_ap` is the mean over IoU 0.50:0.95, `box_ap50` and `box_ap75` are those at one IoU,
    `box_ap_s`, `_m`, `_l` those of objects of up to 32², of 32² to 96², of 96² pixels and more;
    `mask_ap` and so on likewise. Where nothing is detected they are 0; a size or a class without an
    object has no precision, and is left out. A detection has the size of its box where boxes are
    compared, and of its mask where masks are.

    Args:
        results: as `read` gives them, and `check` has passed.
        annotations: of all images that were looked at, those without a detection too.
        fast: count by hotcoco instead of pycocotools, which is the metric of record.
        masks: whether the results have masks; None looks, and takes the annotations' word where
            there is no result.

    Raises:
        UserError: if there is nothing to hold the results against.
    """
    kinds = [kind for kind, (_, key) in KINDS.items() if any(key in result for result in results)]
    if masks is not None or not results:
        masks = _masks(annotations.instances) if masks is None else masks
        kinds = ['box', 'mask'] if masks else ['box']
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {c['name']: {} for c in annotations.categories}
    for kind in kinds:
        evaluation = evaluated(results, annotations, kind, fast)
        values = dict(zip(METRICS, evaluation.stats, strict=False))
        metrics |= {f'{kind}_{name}': 100 * float(v) for name, v in values.items() if v >= 0}
        # By IoU, recall, class, size and detections an image; -1 where there is no object.
        precision = evaluation.eval['precision'][:, :, :, 0, -1]
        for i, category in enumerate(annotations.categories):
            if (precision[:, :, i] >= 0).any():
                per_class[category['name']][f'{kind}_ap'] = 100 * float(precision[:, :, i].mean())
                per_class[category['name']][f'{kind}_ap50'] = 100 * float(precision[0, :, i].mean())
    return metrics, {name: values for name, values in per_class.items() if values}


def evaluated(
    results: Sequence[dict[str, Any]], annotations: Annotations, kind: str, fast: bool = False
) -> COCOeval:
    """pycocotools' `COCOeval` of 'box' or 'mask', with its twelve `stats` and its tables in `eval`.

    Raises:
        UserError: if the annotations have no object, or no masks for masks.
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
    keys = ('image_id', 'category_id', 'score', key)
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = api(), api()
        truth.dataset = _dataset(annotations, annotations.instances)
        truth.createIndex()
        if results:
            found = truth.loadRes([{k: result[k] for k in keys} for result in results])
        else:
            found.dataset = _dataset(annotations, ())
            found.createIndex()
        evaluation = evaluator(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        # hotcoco's tables are pycocotools' to the bit, but its means of them only nearly.
        summary = COCOeval(iouType=iou_type)
        summary.eval = evaluation.eval
        summary.summarize()
    return summary


def _dataset(annotations: Annotations, instances: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {
        'images': list(annotations.images),
        'categories': list(annotations.categories),
        # pycocotools takes the id 0 for none.
        'annotations': [{**instance, 'id': i} for i, instance in enumerate(instances, 1)],
    }


def _masks(entries: Sequence[dict[str, Any]]) -> bool:
    return any('segmentation' in entry for entry in entries)


def _detections(found: Sequence[Any]) -> str:
    return f'{len(found):,} {by_number(found, "detection has", "detections have, first,")}'
