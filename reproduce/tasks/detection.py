"""Box and mask AP of a detector, such as a system of the tables, or any config of mmdet.

A batch has one image unless a job says otherwise: several are padded to the size of the largest,
which changes what a detector sees beyond their borders, and with it the AP.
"""

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from mmdet.structures.bbox import get_box_tensor
from mmengine.dataset import pseudo_collate
from mmengine.structures import BaseDataElement
from pycocotools import mask as run_lengths

from datasets.coco import COCO
from reproduce.base.errors import UserError
from reproduce.base.tensors import in_fp32, tensors_in
from reproduce.openmmlab import inference
from reproduce.openmmlab.archive_backend import location
from reproduce.openmmlab.data_paths import check_classes
from reproduce.openmmlab.transforms import with_whole_images
from reproduce.tasks import TASKS
from reproduce.tasks.detection_scores import check_masks, score, to_json
from reproduce.tasks.job import Job, Prepared, check_finite
from reproduce.tasks.pipelines import PipelineImages, describe, test_steps
from reproduce.tasks.scores import Scorer
from reproduce.weights import store

# The modules whose outputs the next ones take, or the predictions are made of.
_FEATURES = re.compile(r'(backbone|neck)$')
_LOGITS = re.compile(r'\w*head(\.\d+)?$')


def prepare(job: Job, device: torch.device) -> Prepared:
    """See `Task.prepare`."""
    system, name, config = inference.resolve(job.model, job.arguments, job.task)
    path = store.find(job.checkpoint, inference.checkpoint_name(system, name))
    data = TASKS[job.task].load_data(job.data, limit=job.limit)
    check_classes(config, data)
    steps = with_whole_images(test_steps(config))
    annotations = data.content.of(image_id for _, image_id in data.samples)
    category_ids = [category['id'] for category in annotations.categories]
    infos = [{'img_path': location(file), 'img_id': i} for file, i in data.samples]
    model = inference.build(config, path)
    if model.with_mask:
        check_masks(annotations)
    refuse_nan(model, job.amp)
    test_step = inference.tester(model, config, device)

    def predict(indices: Sequence[int], batch: Any) -> list[list[dict[str, Any]]]:
        found = [sample.pred_instances.cpu() for sample in test_step(batch)]
        samples = [data.samples[index] for index in indices]
        return [
            detections(instances, image_id, category_ids, file.name)
            for instances, (file, image_id) in zip(found, samples, strict=True)
        ]

    return Prepared(
        described=describe(job, system, name, config, steps),
        checkpoint=path,
        data=data,
        images=PipelineImages(infos, config, steps),
        collate=pseudo_collate,
        predict=predict,
        scorer=Scorer(
            '.json.gz',
            lambda found: score([*chain(*found)], annotations, model.with_mask),
            lambda found: to_json([*chain(*found)]),
        ),
    )


def point_dataset(dataset: Any, data: COCO) -> None:
    """See `Task.point_dataset`."""
    dataset.data_root = ''  # both paths are absolute, and one in an archive does not look so
    dataset.ann_file = location(data.annotations)
    dataset.data_prefix = {**dataset.get('data_prefix', {}), 'img': location(data.sources[0])}
    dataset.metainfo = {'classes': tuple(data.classes)}


def detections(
    found: BaseDataElement, image_id: int, category_ids: list[int], name: str
) -> list[dict[str, Any]]:
    """Return what a detector found on an image, in its order, as objects of COCO's result format.

    Args:
        found: on the CPU, bboxes (N, 4) as x1, y1, x2, y2 in pixels of the image, scores (N,),
            labels (N,) and, of some detectors, masks (N, H, W).
        name: of the image's file, for the error that a box or a score is not finite.
    """
    boxes = get_box_tensor(found.bboxes).cpu().double().numpy()
    scores, labels = found.scores.double().numpy(), found.labels.numpy()
    for values in (boxes, scores):
        check_finite(values, f'a box or a score on {name}')
    boxes[:, 2:] -= boxes[:, :2]
    results = [
        {'image_id': image_id, 'category_id': category_ids[label], 'bbox': box, 'score': score}
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
    ]
    if 'masks' in found:
        for result, mask in zip(results, found.masks, strict=True):
            encoded = run_lengths.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            result['segmentation'] = {**encoded, 'counts': encoded['counts'].decode()}
    return results


def refuse_nan(model: nn.Module, amp: str | None) -> None:
    """Make `model` raise `UserError` where a part of it gives NaN: mmdet drops such boxes silently.

    What the parts give becomes fp32, also under autocast: boxes are decoded from it, and in half
    precision their corners would be pixels off.
    """

    def hook(name: str, sound: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
        def check(module: nn.Module, inputs: Any, outputs: Any) -> Any:
            if not all(sound(tensor).all() for tensor in tensors_in(outputs)):
                overflow = f', or --amp {amp} overflows' if amp else ''
                raise UserError(
                    f'the model gives NaN or infinity in its {name}: its weights are not '
                    f'sound{overflow}.'
                )
            return in_fp32(outputs)

        return check

    for name, module in model.named_modules():
        if _FEATURES.match(name):
            module.register_forward_hook(hook(name, torch.isfinite))
        elif _LOGITS.fullmatch(name.removeprefix('roi_head.')):
            # Some heads mask logits with -infinity.
            module.register_forward_hook(hook(name, lambda tensor: tensor < torch.inf))
