"""Box and mask AP of a detector on COCO."""

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn as nn
from mmdet.registry import DATASETS
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from pycocotools import mask as run_lengths
from torch.utils.data import Subset

from datasets.coco import COCO, Annotations, load, read
from reproduce.distributed import Group
from reproduce.errors import UserError
from reproduce.evaluate import harness
from reproduce.evaluate.harness import Measured, Prepared
from reproduce.openmmlab import inference
from reproduce.openmmlab.data_paths import point_at
from reproduce.openmmlab.transforms import kind, with_whole_images
from reproduce.score.coco import check_masks, score, to_json
from reproduce.weights import store

# The modules whose outputs the next ones take, or the predictions are made of.
_FEATURES = re.compile(r'(backbone|neck)$')
_LOGITS = re.compile(r'\w*head(\.\d+)?$')


@dataclass(frozen=True)
class Job(harness.Job):
    """A detector: a system of Tables 5 and 6, or any config of mmdet's for COCO.

    A batch holds one image unless told otherwise: several are padded to the size of the largest,
    which changes what a detector sees beyond their borders, and with it the AP.
    """

    task: ClassVar[str] = 'coco'

    def prepare(self) -> Prepared:
        system, name, config = inference.resolve(self.model, self.arguments, self.task)
        path = store.find(self.checkpoint, inference.checkpoint_name(system, name))
        data = load(self.data, limit=self.limit)
        point_at(config, data, 'test')
        annotations = read(data.annotations).of(image_id for _, image_id in data.samples)
        images, category_ids = images_to_test(config, data)
        model = inference.build(config, path)
        if model.with_mask:
            check_masks(annotations)
        return Prepared(
            system=system,
            model=name,
            arguments=dict(self.arguments),
            checkpoint=path,
            data=data,
            preprocessing=inference.described(config, config.test_dataloader.dataset.pipeline),
            measure=partial(measure, model, images, category_ids, data, annotations, config, self),
            overridden=tuple(sorted(self.arguments)),
        )


def measure(
    model: nn.Module,
    images: Subset,
    category_ids: list[int],
    data: COCO,
    annotations: Annotations,
    config: Config,
    job: Job,
    group: Group,
) -> Measured | None:
    """The average precisions and the detections, in the first process of `group`.

    Args:
        images, category_ids: of `images_to_test`.
        annotations: of the same images.
    """

    def keep(index: int, prediction: BaseDataElement) -> tuple[bool, list[dict[str, Any]]]:
        path, image_id = data.samples[index]
        found = prediction.pred_instances
        return 'masks' in found, detections(found, image_id, category_ids, path.name)

    with _without_nan(model, job):
        kept = inference.predict(model, images, keep, config, group, job)
    if kept is None:
        return None
    results = [detection for _, found in kept for detection in found]
    metrics, per_class = score(results, annotations, masks=any(masks for masks, _ in kept))
    return Measured(metrics, to_json(results), '.json.gz', per_class=per_class)


def images_to_test(config: Config, data: COCO) -> tuple[Subset, list[int]]:
    """The images of `data` in its order, through the config's test pipeline.

    Changes the pipeline in `config`: images are read whole or not at all, annotations not at all.

    Returns:
        mmdet's items, and the category id of each of the model's labels.

    Raises:
        UserError: if the config's test data have no pipeline, or are not in COCO's form.
    """
    settings = config.test_dataloader.dataset
    if not settings.get('pipeline'):
        raise UserError(
            f'{config.filename} has no test_dataloader.dataset.pipeline: expected the steps from a '
            'file to the input of the model.'
        )
    settings.test_mode = True
    settings.pipeline = [
        step for step in with_whole_images(settings.pipeline) if kind(step) != 'LoadAnnotations'
    ]
    with (
        contextlib.redirect_stdout(io.StringIO()),  # mmdet prints where it imports, and pycocotools
        DefaultScope.overwrite_default_scope(config.default_scope),
    ):
        from mmdet.datasets import CocoDataset

        form = DATASETS.get(settings.type) if isinstance(settings.type, str) else settings.type
        if form is None or not issubclass(form, CocoDataset):
            raise UserError(
                f'{config.filename} tests on {settings.type}: expected a CocoDataset; set '
                'test_dataloader.dataset.type to one.'
            )
        dataset = DATASETS.build(settings)
    place = {dataset.get_data_info(i)['img_id']: i for i in range(len(dataset))}
    return Subset(dataset, [place[image_id] for _, image_id in data.samples]), dataset.cat_ids


def detections(
    found: BaseDataElement, image_id: int, category_ids: list[int], name: str
) -> list[dict[str, Any]]:
    """What a detector found on an image, in COCO's result format, in its order.

    Args:
        found: bboxes (N, 4) as x1, y1, x2, y2 in pixels of the image, scores (N,), labels (N,) and,
            of some, masks (N, H, W).
        name: the image's file, for the error.

    Raises:
        UserError: if a box or a score is no number.
    """
    boxes = get_box_tensor(found.bboxes).double().cpu().numpy()
    scores, labels = found.scores.double().cpu().numpy(), found.labels.cpu().numpy()
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise UserError(
            f'the model gives NaN or infinity for a box or a score on {name}: its weights are not '
            'sound, or --amp overflows.'
        )
    boxes[:, 2:] -= boxes[:, :2]
    results = [
        {'image_id': image_id, 'category_id': category_ids[label], 'bbox': box, 'score': score}
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
    ]
    if 'masks' in found:
        for result, mask in zip(results, found.masks, strict=True):
            result['segmentation'] = _run_lengths(mask)
    return results


def _run_lengths(mask: torch.Tensor | dict[str, Any]) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (H, W); some of mmdet's heads give them already."""
    if isinstance(mask, torch.Tensor):
        mask = run_lengths.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
    counts = mask['counts']
    return {
        'size': [int(side) for side in mask['size']],
        'counts': counts.decode() if isinstance(counts, bytes) else counts,
    }


@contextmanager
def _without_nan(model: nn.Module, job: Job) -> Iterator[None]:
    """Raise UserError where a part of `model` gives NaN: mmdet drops such boxes without a word.

    What the parts give is in fp32, also under autocast: boxes are decoded from it, and in half
    precision their corners would lie pixels off.
    """

    def hook(name: str, wrong: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
        def check(module: nn.Module, inputs: Any, outputs: Any) -> Any:
            if any(wrong(tensor).any() for tensor in _tensors(outputs)):
                overflow = f', or --amp {job.amp} overflows' if job.amp else ''
                raise UserError(
                    f'the model gives NaN or infinity in its {name}: its weights are not '
                    f'sound{overflow}.'
                )
            return _in_fp32(outputs)

        return check

    handles = []
    for name, module in model.named_modules():
        if _FEATURES.match(name):
            handles.append(module.register_forward_hook(hook(name, _not_finite)))
        elif _LOGITS.fullmatch(name.removeprefix('roi_head.')):
            handles.append(module.register_forward_hook(hook(name, _not_below_infinity)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _not_finite(tensor: torch.Tensor) -> torch.Tensor:
    return ~torch.isfinite(tensor)


def _not_below_infinity(tensor: torch.Tensor) -> torch.Tensor:
    return ~(tensor < torch.inf)  # some heads mask logits with -infinity


def _in_fp32(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(_in_fp32(item) for item in value)
    return value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
