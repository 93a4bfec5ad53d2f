"""The annotator: dense label maps for token labeling, from any timm model.

As for LV-ViT's published maps, the classifier is applied to every position of the annotator's last
feature map, and the five largest logits are kept. An output folder holds

    CLASS/NAME.pt       the map of each training image
    labels.json         the annotator, and how images were brought to its size
"""

import io
import json
import math
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
from timm.data import create_transform, resolve_data_config
from torch.utils.data import Dataset
from tqdm import tqdm

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from datasets.imagenet import load
from datasets.reading import open_image
from reproduce.base.errors import UserError, first_line
from reproduce.base.files import sha256_of, write_atomically
from reproduce.base.gpus import check_precision
from reproduce.base.loading import Loader, default_workers
from reproduce.base.processes import join
from reproduce.base.versions import code_facts
from reproduce.systems import timm_names
from reproduce.tasks.job import inference
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
    resize: str = 'squash',
    amp: str = 'off',
) -> tuple[int, int] | None:
    """Write the label map of every training image to OUTPUT/CLASS/NAME.pt.

    Maps that are there already are left alone, so an interrupted run can be repeated.

    Args:
        model: a timm model.
        checkpoint: the model's weights; None takes those that timm publishes.
        img_size: side in pixels of the square that images are brought to; None takes the one in
            the file of the weights, or the model's.
        resize: 'squash' changes the aspect ratio, so that the map covers the whole image. 'crop' is
            what LV-ViT's released code does: the short side is resized and the centre is cut out,
            as for an evaluation. Training takes either for the whole image.
        amp: the precision to compute in: 'fp16', 'bf16', or 'off' for fp32.

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
        size = timm_names.size_argument(model, trained.get('img_size'))
        try:
            annotator = timm.create_model(
                model, pretrained=checkpoint is None, num_classes=len(images.classes), **size
            )
        except Exception as error:  # whatever timm, the hub's client or a constructor raises
            reason = first_line(error)
            raise UserError(
                f'the annotator {model} cannot be built ({reason}): name a file of its weights '
                "with --checkpoint, or check the network, where timm's are fetched from."
            ) from error
        if checkpoint is not None:
            parameters.load(annotator, checkpoint)
        annotator.eval().to(group.device)
        settings = resolve_data_config(trained, model=annotator)
        record = {
            'annotator': model,
            'img_size': settings['input_size'][-1],
            'resize': resize,
            'crop_pct': settings['crop_pct'] if resize == 'crop' else 1.0,
            'precision': amp.replace('off', 'fp32'),
            'images': len(images.samples),
            'fingerprint': images.fingerprint,
            'checkpoint_sha256': None if checkpoint is None else sha256_of(checkpoint),
        }
        _check_origin(output, record)
        group.check_same(lambda: {'command': 'labels', **code_facts(), **record})
        if group.rank == 0:
            _write_record(output, {**record, 'complete': False})
        paths = [
            (path, label_map_path(output, path, images.classes[label]))
            for path, label in images.samples[group.rank :: group.size]
        ]
        missing = [(image, target) for image, target in paths if not target.exists()]
        workers = default_workers() if workers is None else workers
        loader = Loader(
            _Images(missing, settings, record),
            batch_size=batch_size,
            num_workers=workers,
            pin_memory=group.device.type == 'cuda',
        )
        for batch, indices in tqdm(loader, 'label maps', disable=group.rank > 0 or None):
            with inference(group.device, amp):
                maps = label_maps(annotator, batch.to(group.device, non_blocking=True)).cpu()
            for label_map, index in zip(maps, indices.tolist(), strict=True):
                _write_map(missing[index][1], label_map)
        written = group.gather([len(missing)])
        if group.rank:
            return None
        _write_record(output, {**record, 'complete': True})
        return sum(written), len(images.samples) - sum(written)


def _write_map(path: Path, label_map: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(label_map.clone(), buffer)
    write_atomically(path, buffer.getvalue())


def _check_origin(output: Path, record: dict[str, Any]) -> None:
    """Check that the maps in the folder, if any, were made in the same way."""
    before = origin(output)
    if before is None:
        before = {'images': 'unknown'} if next(output.glob('*/*.pt'), None) else record
    for name, value in {'precision': 'fp32', **before}.items():  # earlier versions had fp32 alone
        if record.get(name) != value:
            raise UserError(
                f'{output} holds label maps of {name} = {value}, not {record.get(name)}: make the '
                'rest in the same way, or name another folder with --output.'
            )


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


class _Images(Dataset):
    """(image, index) of the images of `missing`, pairs of an image and the file of its map."""

    def __init__(
        self, missing: list[tuple[Any, Path]], settings: dict[str, Any], record: dict[str, Any]
    ) -> None:
        self.missing = missing
        self.transform = create_transform(
            (3, record['img_size'], record['img_size']),
            interpolation=settings['interpolation'],
            mean=settings['mean'],
            std=settings['std'],
            crop_mode='center' if record['resize'] == 'crop' else 'squash',
            crop_pct=record['crop_pct'],
        )

    def __len__(self) -> int:
        return len(self.missing)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(open_image(self.missing[index][0])), index
