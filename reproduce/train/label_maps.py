"""The annotator: dense label maps for token labeling, from any timm model.

As for LV-ViT's published maps, the classifier is applied to every position of the annotator's last
feature map, on the whole image resized to a square, and the five largest logits are kept.
"""

import io
import json
import math
from pathlib import Path

import timm
import torch
import torch.nn as nn
from timm.data import create_transform, resolve_data_config
from torch.utils.data import Dataset
from tqdm import tqdm

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from datasets.imagenet import ImageNet, load, open_image
from reproduce import distributed
from reproduce.data_loader import ErrorPreservingLoader
from reproduce.distributed import Group
from reproduce.errors import UserError
from reproduce.files import write_atomically
from reproduce.train.token_labeling import label_map_path
from reproduce.weights import loading, store

TOP = 5


def make_labels(
    model: str,
    data: Path,
    output: Path,
    checkpoint: Path | None = None,
    img_size: int | None = None,
    batch_size: int = 32,
    workers: int = 2,
    device: str | None = None,
    processes: int = 1,
) -> None:
    """Write the label map of every training image to OUTPUT/WNID/NAME.pt.

    Maps that are there already are left alone, so an interrupted run can be repeated.

    Args:
        model: a timm model.
        checkpoint: its weights; None takes those that timm publishes.
        img_size: side of the square, in pixels, that the whole image is resized to; None takes
            the model's own.
        processes: how many to start on this machine.

    Raises:
        UserError: if the model is unknown, has fewer than five classes, more than half precision
            can number, or others than the data; or an image or the checkpoint cannot be read.
    """
    arguments = (model, data, output, checkpoint, img_size, batch_size, workers)
    distributed.run(_make, *arguments, processes=processes, device=device)


def _make(
    group: Group,
    name: str,
    data: Path,
    output: Path,
    checkpoint: Path | None,
    img_size: int | None,
    batch_size: int,
    workers: int,
) -> None:
    images = load(data, 'train')
    if not timm.is_model(name):
        raise UserError(f"timm has no model '{name}': see timm.list_models().")
    if not TOP <= len(images.classes) <= 2048:
        raise UserError(
            f'{data} has {len(images.classes)} classes: a label map numbers {TOP} to 2048.'
        )
    config = timm.get_pretrained_cfg(name)
    size = {'img_size': img_size} if img_size and config and config.fixed_input_size else {}
    annotator = timm.create_model(
        name, pretrained=checkpoint is None, num_classes=len(images.classes), **size
    )
    if checkpoint is not None:
        loading.load(annotator, checkpoint)
    annotator.eval().to(group.device)
    settings = resolve_data_config({}, model=annotator)
    side = img_size or settings['input_size'][-1]
    mine = _WholeImages(images, output, settings, side, group.rank, group.size)
    loader = ErrorPreservingLoader(mine, batch_size=batch_size, num_workers=workers)
    progress = tqdm(
        total=len(mine), desc='label maps', disable=True if group.rank else None, leave=False
    )
    for batch, indices in loader:
        if group.failed:
            break
        with torch.inference_mode():
            maps = label_maps(annotator, batch.to(group.device)).cpu()
        for label_map, index in zip(maps, indices.tolist(), strict=True):
            path = mine.path(index)
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            torch.save(label_map.clone(), buffer)
            write_atomically(path, buffer.getvalue())
        progress.update(len(batch))
    progress.close()
    group.agree()
    if group.rank == 0:
        record = {'annotator': name, 'img_size': side, 'images': len(images.samples)}
        record |= {'fingerprint': images.fingerprint}
        if checkpoint is not None:
            record['checkpoint_sha256'] = store.sha256(checkpoint)
        write_atomically(output / 'labels.json', json.dumps(record, indent=2) + '\n')


def label_maps(annotator: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The dense label maps of `images` (B, 3, S, S): (B, 2, 5, H, W) in half precision.

    The head sees one position at a time: whatever it pools over, it pools one vector.
    """
    features = annotator.forward_features(images)
    B = len(features)
    if features.ndim == 3:  # (B, N, C), class and register tokens first
        features = features[:, getattr(annotator, 'num_prefix_tokens', 0) :]
        H = W = math.isqrt(features.shape[1])
        if features.shape[1] != H * W:
            raise UserError(
                f'{features.shape[1]} tokens are no square map: take an annotator whose tokens are.'
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


class _WholeImages(Dataset):
    """(image, index) of one process's share of the training images that have no map yet."""

    def __init__(
        self, data: ImageNet, output: Path, settings: dict, side: int, rank: int, size: int
    ) -> None:
        self.data, self.output = data, output
        share = range(rank, len(data.samples), size)
        self.indices = [index for index in share if not self.path(index).exists()]
        self.transform = create_transform(
            (3, side, side),
            interpolation=settings['interpolation'],
            mean=settings['mean'],
            std=settings['std'],
            crop_mode='squash',
            crop_pct=1.0,
        )

    def path(self, index: int) -> Path:
        path, label = self.data.samples[index]
        return label_map_path(self.output, path, self.data.classes[label])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        index = self.indices[i]
        return self.transform(open_image(self.data.samples[index][0])), index
