"""Shuffle Transformer (Huang et al., 2021): windows of neighbours and windows of distant tokens.

A block is window attention, a depthwise convolution as wide as a window, and an MLP, each after a
batch norm. In every second block the windows are shuffled: a window is every n-th token of a row
and of a column. What the paper leaves open follows the released code. `checkpoint_filter_fn`
renames the parameters of the released weights.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_

from .attention import RelativePositionBias
from .checkpoint import renamed
from .pyramid import BatchNormDownsample, Pyramid
from .registration import register


def deal(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Put every `rows`-th row of a map (B, H, W, C) and every `columns`-th column together."""
    x = x.unflatten(1, (-1, rows)).transpose(1, 2).flatten(1, 2)
    return x.unflatten(2, (-1, columns)).transpose(2, 3).flatten(2, 3)


class ShuffledWindowAttention(RelativePositionBias):
    """Attention in windows of `window_size` x `window_size` tokens, (B, C, H, W) to the same shape.

    A window is a square of neighbours or, with `shuffle`, takes every n-th row and column, n being
    the number of windows along them. Maps are padded at the bottom and right to whole windows with
    zero q, k and v: the released code only runs on maps of whole windows.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, shuffle: bool) -> None:
        super().__init__(num_heads)
        self.shuffle = shuffle
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.proj = nn.Conv2d(dim, dim, 1)
        self.add_bias_table(window_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, _, H, W = x.shape
        w = self.window_size
        qkv = F.pad(self.to_qkv(x), (0, -W % w, 0, -H % w)).permute(0, 2, 3, 1)
        _, Hp, Wp, _ = qkv.shape
        if self.shuffle:
            qkv = deal(qkv, Hp // w, Wp // w)
        x = self.attend_in_windows(*qkv.chunk(3, dim=-1))
        if self.shuffle:
            x = deal(x, w, w)
        return self.proj(x[:, :H, :W].permute(0, 3, 1, 2))


class ShuffleBlock(nn.Module):
    """Window attention, depthwise convolution and MLP, each a residual branch after a batch norm.

    The attention and the MLP have stochastic depth; the convolution has none, as in the released
    code.
    """

    def __init__(
        self, dim: int, num_heads: int, window_size: int, shuffle: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = ShuffledWindowAttention(dim, num_heads, window_size, shuffle)
        self.norm2 = nn.BatchNorm2d(dim)
        self.local = nn.Conv2d(dim, dim, window_size, padding=window_size // 2, groups=dim)
        self.norm3 = nn.BatchNorm2d(dim)
        self.mlp = nn.Sequential(
            nn.Conv2d(dim, 4 * dim, 1), nn.ReLU6(inplace=True), nn.Conv2d(4 * dim, dim, 1)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, C) to the same shape. Inside, channels come first, as in batch norms."""
        x = x.permute(0, 3, 1, 2)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.local(self.norm2(x))
        x = x + self.drop_path(self.mlp(self.norm3(x)))
        return x.permute(0, 2, 3, 1)


class ShuffleStem(nn.Module):
    """Two 3x3 convolutions of stride 2, each with batch norm and ReLU6, and a 1x1 convolution."""

    def __init__(self, in_chans: int, dim: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU6(inplace=True)
        )
        self.conv2 = nn.Sequential(
            nn.Conv2d(width, dim, 3, 2, 1), nn.BatchNorm2d(dim), nn.ReLU6(inplace=True)
        )
        self.conv3 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, in_chans) to (B, ceil(H / 4), ceil(W / 4), dim)."""
        x = self.conv3(self.conv2(self.conv1(x.permute(0, 3, 1, 2))))
        return x.permute(0, 2, 3, 1)


class Shuffle(Pyramid):
    """Shuffle Transformer as a classifier and a feature pyramid; `Pyramid` has further arguments.

    In training the released code differs in the stochastic depth: it is that of a whole stage.

    Args:
        stem_width: channels between the stem's convolutions.
        window_size: side of the windows of the attention, in tokens, and of the kernels of the
            depthwise convolutions.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        stem_width: int = 32,
        window_size: int = 7,
        **kwargs: Any,
    ) -> None:
        def block(i: int, index: int, drop_path: float) -> nn.Module:
            shuffle = index % 2 == 1
            return ShuffleBlock(embed_dims[i], num_heads[i], window_size, shuffle, drop_path)

        stem = partial(ShuffleStem, width=stem_width)
        downsample = partial(BatchNormDownsample, bias=False)
        super().__init__(
            block, embed_dims, depths, stem, downsample, norm_layer=nn.Identity, **kwargs
        )
        self.apply(_init_weights)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# Regular expressions of the released parameter names, and their replacements.
_RELEASED_NAMES = (
    (r'^to_token\.', 'stem.'),
    (r'^head\.(weight|bias)$', r'head.fc.\1'),
    (r'\.patch_partition\.', '.downsample.'),
    (r'\.mlp\.fc(\d)\.', lambda match: f'.mlp.{2 * int(match[1]) - 2}.'),
    (r'\.layers\.(\d+)\.(\d)\.', lambda match: f'.blocks.{2 * int(match[1]) + int(match[2])}.'),
    (r'^stage(\d)\.', lambda match: f'stages.{int(match[1]) - 1}.'),
)
_RELEASED_BUFFERS = r'\.relative_position_index$'
checkpoint_filter_fn = partial(renamed, names=_RELEASED_NAMES, without=_RELEASED_BUFFERS)

SMALL: dict[str, Any] = {'depths': (2, 2, 18, 2)}

VARIANTS: dict[str, dict[str, Any]] = {
    'shuffle_tiny': {},
    'shuffle_small': SMALL,
    'shuffle_base': SMALL | {'embed_dims': (128, 256, 512, 1024), 'num_heads': (4, 8, 16, 32)},
}

register(Shuffle, VARIANTS, first_conv='stem.conv1.0', crop_pct=0.875)
