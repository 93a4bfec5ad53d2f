"""The annotator: dense label maps for token labeling, from any timm model.

As for LV-ViT's published maps, the classifier is applied to every position of the annotator's last
feature map, and the five largest logits are kept. An output folder holds

    CLASS/NAME.pt       the map of each training image
    labels.json         the annotator, and what it labeled

An image is resized to the annotator's square as a whole, so that the map covers all of it. LV-ViT's
released code cuts out the centre instead; training takes either for the whole image.
"""

import io
import json
import math
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
from timm.data import resolve_data_config

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from datasets.imagenet import load
from reproduce.base.errors import UserError, first_line
from reproduce.base.files import sha256_of, write_atomically
from reproduce.base.gpus import check_precision
from reproduce.base.loading import Loader, default_workers
from reproduce.base.processes import join
from reproduce.base.progress import Progress
from reproduce.base.versions import code_facts
from reproduce.systems import timm_names
from reproduce.tasks.job import inference
from reproduce.train.images import ValidationImages
from reproduce.train.output_folder import claimed
from reproduce.train.token_labeling import RECORD, label_map_path, origin
from reproduce.weights import parameters

TOP = 5


def make_labels(
    model: str,
    data: Path,
    output: Path,
    checkpoint: Path | None = None,
    img_size: int | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    device: str | None = None,
    amp: str = 'off',
) -> tuple[int, int] | None:
    """Write the label map of every training image to OUTPUT/CLASS/NAME.pt.

    Maps that are there already are left alone, so an interrupted run can be repeated.

    Args:
        model: a timm model.
        checkpoint: the model's weights; None takes those that timm publishes.
        img_size: side in pixels of the square that images are brought to; None takes the one in
            the file of the weights, or the model's.

    Returns:
        how many maps were written, and how many were there already; in the first process only.

    Raises:
        UserError: if the model is unknown, has fewer than five classes, more than half precision
            can number, or others than the data; an image or the checkpoint cannot be read; or the
            folder holds maps that were made in another way.
    """
    timm_names.check(model)
    with join(device) as group, claimed(output, group):
        check_precision(group.device, amp)
        images = load(data, 'train')
        if not TOP <= len(images.classes) <= 2048:
            raise UserError(
                f'{data} has {len(images.classes)} classes: a label map numbers {TOP} to 2048.'
            )
        trained = {} if checkpoint is None else parameters.trained_preprocessing(checkpoint)
        if img_size is not None:
            trained['img_size'] = img_size
        annotator = _annotator(model, checkpoint, len(images.classes), trained.get('img_size'))
        annotator.to(group.device)
        settings = resolve_data_config(trained, model=annotator)
        record = {
            'annotator': model,
            'img_size': settings['input_size'][-1],
            'resize': 'squash',
            'precision': amp.replace('off', 'fp32'),
            'images': len(images.samples),
            'fingerprint': images.fingerprint,
            'checkpoint_sha256': None if checkpoint is None else sha256_of(checkpoint),
        }
        before = origin(output)
        if before is None:
            before = {} if next(output.glob('*/*.pt'), None) else record
        for name, value in record.items():
            if before.get(name) != value:
                raise UserError(
                    f'{output} holds label maps of {name} = {before.get(name)}, not {value}: make '
                    'the rest in the same way, or name another folder with --output.'
                )
        group.check_same(lambda: {**code_facts(), **record})
        if group.rank == 0:
            _write_record(output, {**record, 'complete': False})
        paths = [
            (path, label_map_path(output, path, images.classes[label]))
            for path, label in images.samples[group.rank :: group.size]
        ]
        missing = [(image, target) for image, target in paths if not target.is_file()]
        numbered = [(image, number) for number, (image, _) in enumerate(missing)]
        loader = Loader(
            ValidationImages(numbered, {**settings, 'crop_mode': 'squash', 'crop_pct': 1.0}),
            batch_size=batch_size,
            num_workers=default_workers() if workers is None else workers,
            pin_memory=group.device.type == 'cuda',
        )
        for batch, numbers in Progress(loader, 'label maps', disable=group.rank > 0):
            with inference(group.device, amp):
                maps = label_maps(annotator, batch.to(group.device, non_blocking=True)).cpu()
            for label_map, number in zip(maps, numbers.tolist(), strict=True):
                target, buffer = missing[number][1], io.BytesIO()
                torch.save(label_map.clone(), buffer)
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target, buffer.getvalue())
        written = group.gather([len(missing)])
        if group.rank:
            return None
        _write_record(output, {**record, 'complete': True})
        return sum(written), len(images.samples) - sum(written)


def _annotator(
    model: str, checkpoint: Path | None, num_classes: int, img_size: int | None
) -> nn.Module:
    size = timm_names.size_argument(model, img_size)
    published = timm.get_pretrained_cfg(model)
    if checkpoint is None and published and published.num_classes != num_classes:
        raise UserError(
            f"timm's weights of {model} are for {published.num_classes} classes, and the data have "
            f'{num_classes}: name a file of weights with --checkpoint.'
        )
    try:
        annotator = timm.create_model(
            model, pretrained=checkpoint is None, num_classes=num_classes, **size
        )
    except Exception as error:  # whatever timm, the hub's client or a constructor raises
        raise UserError(
            f'the annotator {model} cannot be built ({first_line(error)}): name a file of its '
            "weights with --checkpoint, or check the network, where timm's are fetched from."
        ) from error
    if checkpoint is not None:
        parameters.load(annotator, checkpoint)
    return annotator.eval()


def _write_record(output: Path, record: dict[str, Any]) -> None:
    write_atomically(output / RECORD, json.dumps(record, indent=2) + '\n')


def label_maps(annotator: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the dense label maps of `images` (B, 3, S, S): (B, 2, 5, H, W) in half precision.

    The head sees one position at a time: whatever it pools over, it pools one vector.

    Raises:
        UserError: if the annotator's tokens are not a square map.
    """
    features = annotator.forward_features(images)
    B = len(features)
    if features.ndim == 3:  # (B, N, C), class and register tokens first
        features = features[:, getattr(annotator, 'num_prefix_tokens', 0) :]
        H = W = math.isqrt(features.shape[1])
        if features.shape[1] != H * W:
            raise UserError(
                f'the {features.shape[1]} tokens of the annotator are not a square map: choose '
                'another one.'
            )
        positions = features.flatten(0, 1)[:, None]
    elif features.shape[1] == annotator.num_features:  # (B, C, H, W)
        H, W = features.shape[2:]
        positions = features.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
    else:  # (B, H, W, C)
        H, W = features.shape[1:3]
        positions = features.flatten(0, 2)[:, None, None]
    logits = annotator.forward_head(positions).float().view(B, H, W, -1)
    values, classes = logits.topk(TOP, -1)
    return torch.stack([values.half(), classes.half()], 1).permute(0, 1, 4, 2, 3)
