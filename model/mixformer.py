"""MixFormer (Chen et al., 2022): window attention and depthwise convolution side by side.

Each branch weights the other: the mean of the convolution weights the channels of the values, and
the output of the attention weights the tokens of the convolution. What the paper leaves open
follows the released code, which is written for PaddlePaddle.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import ClassifierHead

from .attention import RelativePositionBias
from .pyramid import BatchNormDownsample, Pyramid, TransformerBlock, init_weights
from .registration import register


class MixingAttention(RelativePositionBias):
    """Window attention for one half of the channels, depthwise convolution for the other.

    It maps (B, H, W, C) to the same shape. Maps are padded at the bottom and right to whole windows
    with zeros, which both branches see.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__(num_heads)
        half = dim // 2
        self.attention_in = nn.Sequential(nn.Linear(dim, half), nn.LayerNorm(half))
        self.convolution_in = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.convolution = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.BatchNorm2d(dim), nn.GELU()
        )
        self.channel_interaction = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(dim, dim // 8, 1),
            nn.BatchNorm2d(dim // 8),
            nn.GELU(),
            nn.Conv2d(dim // 8, half, 1),
            nn.Sigmoid(),
        )
        self.convolution_out = nn.Conv2d(dim, half, 1)
        self.convolution_norm = nn.BatchNorm2d(half)
        self.qkv = nn.Linear(half, 3 * half)
        self.add_bias_table(window_size)
        self.spatial_interaction = nn.Sequential(
            nn.Conv2d(half, dim // 16, 1),
            nn.BatchNorm2d(dim // 16),
            nn.GELU(),
            nn.Conv2d(dim // 16, 1, 1),
            nn.Sigmoid(),
        )
        self.attention_norm = nn.LayerNorm(half)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, H, W, _ = x.shape
        w = self.window_size
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % w))

        conv = self.convolution(self.convolution_in(x).permute(0, 3, 1, 2))
        channel_weights = self.channel_interaction(conv)  # (B, C/2, 1, 1)
        q, k, v = self.qkv(self.attention_in(x)).chunk(3, dim=-1)
        attended = self.attend_in_windows(q, k, v * channel_weights.permute(0, 2, 3, 1))
        token_weights = self.spatial_interaction(attended.permute(0, 3, 1, 2))  # (B, 1, H, W)
        conv = self.convolution_norm(token_weights * self.convolution_out(conv))

        x = torch.cat([self.attention_norm(attended), conv.permute(0, 2, 3, 1)], dim=-1)
        return self.proj(x[:, :H, :W])


class MixFormerStem(nn.Module):
    """Three 3x3 convolutions with batch norm and GELU, a 2x2 projection and LayerNorm: stride 4.

    A side that 4 does not divide is padded with zeros at its end.
    """

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        half = dim // 2
        layers: list[nn.Module] = []
        for inputs, stride in ((in_chans, 2), (half, 1), (half, 1)):
            layers += [nn.Conv2d(inputs, half, 3, stride, 1), nn.BatchNorm2d(half), nn.GELU()]
        self.convs = nn.Sequential(*layers)
        self.proj = nn.Conv2d(half, dim, 2, 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, in_chans) to (B, ceil(H / 4), ceil(W / 4), dim)."""
        _, H, W, _ = x.shape
        x = F.pad(x, (0, 0, 0, -W % 4, 0, -H % 4)).permute(0, 3, 1, 2)
        return self.norm(self.proj(self.convs(x)).permute(0, 2, 3, 1))


class MixFormer(Pyramid):
    """MixFormer as a classifier and a feature pyramid; `Pyramid` has the arguments of all networks.

    Args:
        window_size: side of the windows of the attention, in tokens.
        head_width: width of the layer between the last stage and the classifier.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 8, 8),
        num_heads: Sequence[int] = (4, 8, 16, 32),
        window_size: int = 7,
        head_width: int = 1280,
        drop_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, heads = embed_dims[stage], num_heads[stage]
            attention = MixingAttention(dim, heads, window_size)
            return TransformerBlock(dim, attention, drop_path=drop_path)

        modules: dict[str, Any] = {'stem': MixFormerStem, 'downsample': BatchNormDownsample}
        super().__init__(block, embed_dims, depths, num_classes=num_classes, **modules, **kwargs)
        self.head_hidden_size = head_width
        self.last_proj = nn.Linear(self.num_features, head_width)
        self.head = ClassifierHead(
            head_width, num_classes, global_pool, drop_rate, input_fmt='NHWC'
        )
        self.apply(init_weights)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head:
            self.last_proj = nn.Identity()
        return take

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map features (B, H, W, C) to logits (B, K), or to pooled features (B, head_width)."""
        return self.head(F.gelu(self.last_proj(x)), pre_logits=pre_logits)


VARIANTS: dict[str, dict[str, Any]] = {'mixformer_b4': {}}

register(MixFormer, VARIANTS, first_conv='stem.convs.0', license='apache-2.0')
