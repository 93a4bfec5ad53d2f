"""Token labeling (Jiang et al., 2021, "All Tokens Matter"): a soft label for every token.

An annotator's predictions lie beside the data as dense label maps, one `.pt` an image at
`WNID/NAME.pt`: half precision, [2, 5, H, W], the five largest logits of every cell of the whole
image and their class indices. In training they are cropped and flipped with the image, mixed with
it (MixToken), and are the target of the classifier and of the auxiliary head on every token.

The steps follow LV-ViT's released code: classes beyond the five have logit 0; logits are cropped
by RoI align, then softmax over the classes, then label smoothing; the classifier's target is the
map's crop to one cell. RandAugment's geometry moves the image and not its labels, there and here.
"""

import pickle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.mixup import rand_bbox
from torchvision.ops import roi_align

from reproduce.errors import UserError


def label_map_path(root: Path, image: Path, wnid: str) -> Path:
    """Where the label map of `image` lies: WNID/NAME.pt."""
    return root / wnid / f'{image.stem}.pt'


def load_label_map(path: Path) -> torch.Tensor:
    """The map [2, k, H, W] at `path`, in half precision.

    Raises:
        UserError: if it is missing, broken or of another form.
    """
    try:
        label_map = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError as error:
        raise UserError(
            f'there is no label map {path}: expected one for every training image; '
            "make them with 'python -m reproduce labels'."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition('\n')[0]
        raise UserError(f'cannot read the label map {path}: {reason}; make it again.') from error
    if not isinstance(label_map, torch.Tensor) or label_map.ndim != 4 or label_map.shape[0] != 2:
        shape = list(getattr(label_map, 'shape', [])) or type(label_map).__name__
        raise UserError(
            f'{path} holds {shape}: expected a tensor [2, 5, H, W] of logits and class indices; '
            'make it again.'
        )
    return label_map.half()


def dense_labels(
    maps: torch.Tensor,
    boxes: torch.Tensor,
    flips: torch.Tensor,
    num_classes: int,
    grid: tuple[int, int],
    smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The soft labels of cropped and flipped images.

    Args:
        maps: (B, 2, k, H, W), as loaded.
        boxes: (B, 4), left, top, right and bottom of the crops, in fractions of the image.
        flips: (B,) in bool, whether the crop was flipped left to right.
        grid: rows and columns of tokens.
        smoothing: share of the labels that is spread over all classes.

    Returns:
        The labels of the images (B, K) and of their tokens (B, h, w, K), summing to one over K.
    """
    B, _, _, H, W = maps.shape
    logits = maps.new_zeros(B, num_classes, H, W, dtype=torch.float32)
    logits.scatter_(1, maps[:, 1].long(), maps[:, 0].float())
    cells = boxes.float() * boxes.new_tensor([W, H, W, H], dtype=torch.float32)
    rois = torch.cat([torch.arange(B, device=maps.device).float()[:, None], cells], 1)
    image, tokens = (
        roi_align(logits, rois, size, aligned=True).softmax(1) for size in ((1, 1), grid)
    )
    tokens = torch.where(flips[:, None, None, None], tokens.flip(3), tokens)
    image, tokens = (t * (1 - smoothing) + smoothing / num_classes for t in (image, tokens))
    return image.flatten(1), tokens.permute(0, 2, 3, 1)


def mix_tokens(
    images: torch.Tensor,
    labels: torch.Tensor,
    token_labels: torch.Tensor,
    stride: int,
    alpha: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """MixToken: put a box of tokens of every image into the batch's image opposite to it.

    LV-ViT cuts the box from the tokens of its patch embedding. MAFormer's stem sees every 4 x 4
    patch by itself, so a box of whole tokens cut from the pixels is the same thing.

    Args:
        images: (B, 3, H, W).
        labels: (B, K).
        token_labels: (B, H / stride, W / stride, K).
        alpha: the share that stays is drawn from Beta(alpha, alpha).
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
    """Cross-entropy of the image plus `token_weight` times the mean one of its tokens.

    Args:
        output: logits (B, K) and token logits (B, h, w, K).
        labels: (B, K).
        token_labels: (B, h, w, K).
    """
    logits, token_logits = output
    tokens = F.cross_entropy(token_logits.flatten(0, 2).float(), token_labels.flatten(0, 2))
    return F.cross_entropy(logits.float(), labels) + token_weight * tokens


def token_grid(images: torch.Tensor, stride: int) -> tuple[int, int]:
    """Rows and columns of tokens of `images` (B, 3, H, W).

    Raises:
        UserError: if the stride does not divide the image: a token would be part padding.
    """
    height, width = images.shape[-2:]
    if height % stride or width % stride:
        raise UserError(
            f'images of {height} x {width} are no whole number of tokens of {stride} pixels: '
            f'choose an img_size that {stride} divides.'
        )
    return height // stride, width // stride
