"""Token labeling (Jiang et al., 2021, "All Tokens Matter"): a soft label for every token.

An annotator's predictions are dense label maps, one file CLASS/NAME.pt for each image: half
precision, [2, 5, H, W], the five largest logits at every cell of the whole image and their class
indices. In training a map is moved, cropped and mixed with its image (MixToken), and is the target
of the classifier and of the auxiliary head on every token.

The steps follow LV-ViT's released code: the image is flipped and goes through RandAugment before it
is cropped, and its map follows the operations that move pixels; classes beyond the five have
logit 0, and so have all classes in cells that were moved in from outside the image; logits are
cropped by RoI align, then softmax over the classes, then label smoothing; the classifier's target
is the map's crop to one cell. Two differences remain, both described in `docs/recipes.md`: the axes
of the crop are not exchanged, unless a recipe asks for it, and smoothed labels sum to one.
"""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.mixup import rand_bbox
from torchvision.ops import roi_align

from datasets.stores import AnyPath, open_archive
from model.checkpoint import failure
from reproduce.base.errors import UserError

# The file in a folder of label maps that says how they were made.
RECORD = 'labels.json'


def open_label_maps(path: Path) -> AnyPath:
    """Return the folder of CLASS/NAME.pt that `path` is, or that it is an archive of.

    LV-ViT's released archive has the classes in a folder of its own.

    Raises:
        UserError: if it is neither a folder nor an archive that can be read.
    """
    if path.is_dir():
        return path
    root = open_archive(path)
    while True:
        entries = list(islice(root.iterdir(), 2))
        below = entries[0].iterdir() if len(entries) == 1 else ()
        if not any(entry.is_dir() for entry in below):
            return root
        root = entries[0]


def label_map_path(root: AnyPath, image: AnyPath, class_name: str) -> AnyPath:
    """Return where the label map of the file `image` is under `root`: CLASS/NAME.pt."""
    return root / class_name / f'{image.stem}.pt'


def origin(folder: AnyPath, complete: bool = False) -> dict[str, Any] | None:
    """Return the record in `folder` of how its label maps were made; None if there is none.

    Raises:
        UserError: if `complete` and not all maps are there.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    record = json.loads(path.read_bytes())
    if not record.pop('complete', True) and complete:
        raise UserError(
            f'{folder} does not have all label maps, because they were interrupted: repeat the '
            "command 'labels' that makes them."
        )
    return record


def load_label_map(path: AnyPath, num_classes: int) -> torch.Tensor:
    """Return the map [2, k, H, W] at `path`, in half precision.

    Raises:
        UserError: if it is missing, broken or of another form, or its classes are not in range.
    """
    try:
        with path.open('rb') as file:
            label_map = torch.load(file, map_location='cpu', weights_only=True)
        classes = label_map[1]
        is_sound = label_map.ndim == 4 and len(label_map) == 2 and label_map.is_floating_point()
        is_sound &= bool(torch.isfinite(label_map).all() and (classes == classes.round()).all())
        is_sound &= bool((classes >= 0).all() and (classes < num_classes).all())
        problem = '' if is_sound else 'its content is of another form'
    except Exception as error:  # torch raises half a dozen types here
        problem = failure(error)
    if problem:
        raise UserError(
            f'cannot read the label map {path} ({problem}): expected a tensor [2, 5, H, W] of '
            f'finite logits and of class indices below {num_classes} for every training image; '
            "make it with 'python -m reproduce labels'."
        )
    return label_map.half()


def dense_labels(
    maps: torch.Tensor,
    boxes: torch.Tensor,
    num_classes: int,
    grid: tuple[int, int],
    smoothing: float = 0.0,
    crop: str = 'exact',
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the soft labels of cropped images.

    Args:
        maps: (B, 2, k, H, W), as loaded.
        boxes: (B, 4), left, top, right and bottom of the crops, in fractions of the image.
        num_classes: classes of the data, K.
        grid: rows and columns of tokens, h and w.
        smoothing: share of the labels that is spread over all classes.
        crop: 'exact', or 'lvvit' for what LV-ViT's released code does: it takes the top for the
            left and the left for the top, and a crop is at least one cell wide and high.

    Returns:
        The labels of the images (B, K) and of their tokens (B, h, w, K), summing to one over K.
    """
    B, _, _, H, W = maps.shape
    logits = maps.new_zeros(B, num_classes, H, W, dtype=torch.float32)
    logits.scatter_(1, maps[:, 1].long(), maps[:, 0].float())
    left, top, right, bottom = boxes.float().unbind(1)
    if crop == 'lvvit':
        corners = [top * W - 0.5, left * W - 0.5, bottom * W - 0.5, right * W - 0.5]
    else:
        corners = [left * W, top * H, right * W, bottom * H]
    rois = torch.stack([torch.arange(B, device=maps.device).float(), *corners], 1)
    image, tokens = (
        roi_align(logits, rois, size, aligned=crop == 'exact').softmax(1) for size in ((1, 1), grid)
    )
    image, tokens = (t * (1 - smoothing) + smoothing / num_classes for t in (image, tokens))
    return image.flatten(1), tokens.permute(0, 2, 3, 1)


def mix_tokens(
    images: torch.Tensor,
    labels: torch.Tensor,
    token_labels: torch.Tensor,
    stride: int,
    alpha: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Put a box of tokens of every image into the image opposite to it in the batch (MixToken).

    LV-ViT cuts the box from the tokens of its patch embedding. MAFormer's stem sees every 4 x 4
    patch by itself, so a box of whole tokens cut from the pixels is the same thing.

    Args:
        images: (B, 3, H, W).
        labels: (B, K).
        token_labels: (B, H / stride, W / stride, K).
        alpha: the share that stays is drawn from Beta(alpha, alpha).

    Returns:
        the images, their labels and the labels of their tokens, mixed.
    """
    h, w = token_labels.shape[1:3]
    top, bottom, left, right = rand_bbox((h, w), np.random.beta(alpha, alpha))
    tokens = slice(top, bottom), slice(left, right)
    pixels = slice(top * stride, bottom * stride), slice(left * stride, right * stride)
    images, token_labels = images.clone(), token_labels.clone()
    images[:, :, *pixels] = images.flip(0)[:, :, *pixels]
    token_labels[:, *tokens] = token_labels.flip(0)[:, *tokens]
    share = 1 - (bottom - top) * (right - left) / (h * w)
    return images, share * labels + (1 - share) * labels.flip(0), token_labels


def token_labeling_loss(
    output: tuple[torch.Tensor, torch.Tensor],
    labels: torch.Tensor,
    token_labels: torch.Tensor,
    token_weight: float = 0.5,
) -> torch.Tensor:
    """Return the cross-entropy of the images plus `token_weight` times the mean of their tokens'.

    Args:
        output: logits (B, K) and token logits (B, h, w, K).
        labels: (B, K).
        token_labels: (B, h, w, K).
    """
    logits, token_logits = output
    tokens = F.cross_entropy(token_logits.flatten(0, 2).float(), token_labels.flatten(0, 2))
    return F.cross_entropy(logits.float(), labels) + token_weight * tokens
