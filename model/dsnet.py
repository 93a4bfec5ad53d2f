"""DS-Net (Mao et al., 2021): convolution of a map in parallel with attention on a smaller one.

One half of the channels keeps the resolution of the stage and passes a depthwise convolution, the
other half is resized to a few tokens and passes self-attention. Co-attention lets each half query
the other. What the paper leaves open follows the two public implementations, which are the same
network: that of SteveTsui/DS-Net, and PaddleClas'. `checkpoint_filter_fn` renames the parameters of
either release.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath

from .attention import Attention
from .checkpoint import renamed
from .pyramid import Downsample, Pyramid, init_weights
from .registration import register

REDUCTIONS = (8, 4, 2, 2)  # of the four stages


class DualStreamBlock(Attention):
    """Convolution in parallel with self-attention, co-attention between them, and an MLP.

    Half of the channels `dim` are local and half global. The side of the global half is that of the
    map divided by `reduction`, rounded down; at least one token is left.
    """

    def __init__(self, dim: int, num_heads: int, reduction: int, drop_path: float) -> None:
        super().__init__(num_heads)
        half = dim // 2
        self.reduction = reduction
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        self.norm_conv1 = nn.BatchNorm2d(half)
        self.conv = nn.Conv2d(half, half, 3, padding=1, groups=half)
        self.norm_sa1 = nn.LayerNorm(half)
        self.channel_up = nn.Linear(half, 3 * half)
        self.norm_conv2 = nn.BatchNorm2d(half)
        self.cross_channel_up_conv = nn.Conv2d(half, 3 * half, 1)
        self.fuse_channel_conv = nn.Linear(half, half)
        self.norm_sa2 = nn.LayerNorm(half)
        self.cross_channel_up_sa = nn.Linear(half, 3 * half)
        self.fuse_channel_sa = nn.Linear(half, half)
        self.conv2 = nn.Conv2d(dim, dim, 1)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = nn.Sequential(nn.Conv2d(dim, 4 * dim, 1), nn.GELU(), nn.Conv2d(4 * dim, dim, 1))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, C) to the same shape. Inside, channels come first, as in batch norms."""
        x = x.permute(0, 3, 1, 2)
        x = x + self.pos_embed(x)
        x = x + self.drop_path(self.conv2(self._dual_stream(self.conv1(self.norm1(x)))))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x.permute(0, 2, 3, 1)

    def _dual_stream(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to the same shape; its global half comes first, and leaves last."""
        H, W = x.shape[2:]
        whole, local = x.chunk(2, dim=1)
        local = local + self.conv(self.norm_conv1(local))  # (B, c, H, W)

        h, w = max(H // self.reduction, 1), max(W // self.reduction, 1)
        whole = F.interpolate(whole, [h, w], mode='bilinear')
        tokens = whole.flatten(2).mT  # (B, n, c)
        q, k, v = self._qkv(self.channel_up(self.norm_sa1(tokens)))
        tokens = tokens + self.attend(q, k, v)

        local_qkv = self.cross_channel_up_conv(self.norm_conv2(local)).flatten(2).mT
        q_local, k_local, v_local = self._qkv(local_qkv)
        q, k, v = self._qkv(self.cross_channel_up_sa(self.norm_sa2(tokens)))
        to_local = self.fuse_channel_conv(self.attend(q_local, k, v))  # (B, H*W, c)
        local = local + to_local.mT.unflatten(2, (H, W))
        tokens = tokens + self.fuse_channel_sa(self.attend(q, k_local, v_local))

        whole = F.interpolate(tokens.mT.unflatten(2, (h, w)), [H, W], mode='bilinear')
        return torch.cat([local, whole], dim=1)

    def _qkv(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Split (B, N, 3*c) into q, k and v, (B, heads, N, d)."""
        q, k, v = x.chunk(3, dim=-1)
        return self.heads(q), self.heads(k), self.heads(v)


class _MapBatchNorm(nn.BatchNorm2d):
    """Batch norm of a channels-last map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DSNet(Pyramid):
    """DS-Net as a classifier and a feature pyramid; `Pyramid` has the arguments of all networks.

    Half of the channels are those of the attention heads. In training the released code differs in
    the stochastic depth, which begins at 0 in every stage, and drops out weights of the attention.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (2, 2, 4, 1),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        **kwargs: Any,
    ) -> None:
        def block(i: int, index: int, drop_path: float) -> nn.Module:
            return DualStreamBlock(embed_dims[i], num_heads[i], REDUCTIONS[i], drop_path)

        downsample = partial(Downsample, norm_layer=nn.Identity)
        stem = partial(Downsample, stride=4, norm_layer=nn.Identity)
        super().__init__(
            block, embed_dims, depths, stem, downsample, norm_layer=_MapBatchNorm, **kwargs
        )
        self.apply(init_weights)


# Regular expressions of the released parameter names, and their replacements.
_RELEASED_NAMES = (
    (r'^patch_embed1\.', 'stem.'),
    (r'^patch_embed(\d)\.', lambda match: f'stages.{int(match[1]) - 1}.downsample.'),
    (r'^blocks(\d)\.', lambda match: f'stages.{int(match[1]) - 1}.blocks.'),
    (r'\.mlp\.fc(\d)\.', lambda match: f'.mlp.{2 * int(match[1]) - 2}.'),
    (r'^head\.(weight|bias)$', r'head.fc.\1'),
)

checkpoint_filter_fn = partial(renamed, names=_RELEASED_NAMES)

VARIANTS: dict[str, dict[str, Any]] = {
    'dsnet_tiny': {},
    'dsnet_small': {'depths': (3, 4, 8, 3)},
    'dsnet_base': {'depths': (3, 4, 28, 3)},
}

register(DSNet, VARIANTS, license='apache-2.0')
