"""LV-ViT (Jiang et al., 2021), the network for which token labeling was proposed.

It is timm's ViT with a convolutional stem, scaled residual branches and an auxiliary head on its
tokens. What the paper leaves open follows the released code. `checkpoint_filter_fn` renames the
parameters of the released weights. MixToken belongs to the training and is not here.
"""

from functools import partial
from typing import Any

import torch
import torch.nn as nn
from timm.layers import PatchEmbed, trunc_normal_
from timm.models.vision_transformer import Block, VisionTransformer

from .auxiliary_head import TokenLabeling
from .checkpoint import renamed
from .pyramid import init_weights
from .registration import register


class ConvPatchEmbed(PatchEmbed):
    """Four convolutions instead of ViT's one: 7x7 of stride 2, two of 3x3, and the projection.

    The first three have `width` channels.
    """

    def __init__(
        self, patch_size: int, in_chans: int, embed_dim: int, width: int, **kwargs: Any
    ) -> None:
        super().__init__(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **kwargs)
        self.proj = nn.Sequential()
        for i, (dim, kernel_size, stride) in enumerate(
            [(in_chans, 7, 2), (width, 3, 1), (width, 3, 1)], start=1
        ):
            convolution = nn.Conv2d(dim, width, kernel_size, stride, kernel_size // 2, bias=False)
            self.proj.add_module(f'conv{i}', convolution)
            self.proj.add_module(f'bn{i}', nn.BatchNorm2d(width))
            self.proj.add_module(f'relu{i}', nn.ReLU(inplace=True))
        projection = nn.Conv2d(width, embed_dim, patch_size // 2, patch_size // 2)
        self.proj.add_module('proj', projection)


class ScaledBlock(Block):
    """timm's transformer block with both residual branches divided by `skip_lam`."""

    def __init__(self, *args: Any, skip_lam: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skip_lam = skip_lam

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x))) / self.skip_lam
        return x + self.drop_path2(self.mlp(self.norm2(x))) / self.skip_lam


class LVViT(TokenLabeling, VisionTransformer):
    """LV-ViT, which classifies by its class token.

    Args:
        stem_width: channels of the stem's convolutions.
        skip_lam: divisor of every residual branch.
        token_labeling: whether to add the auxiliary head that classifies every token. In training
            mode the output is then (logits (B, K), token logits (B, H, W, K)).
        add_token_max: see `TokenLabeling`.
        kwargs: further arguments of timm's VisionTransformer.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        embed_dim: int = 384,
        depth: int = 16,
        num_heads: int = 6,
        stem_width: int = 64,
        skip_lam: float = 2.0,
        token_labeling: bool = False,
        add_token_max: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            img_size=img_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=3.0,
            qkv_bias=False,
            norm_layer=nn.LayerNorm,
            embed_layer=partial(ConvPatchEmbed, width=stem_width),
            block_fn=partial(ScaledBlock, skip_lam=skip_lam),
            **kwargs,
        )
        trunc_normal_(self.cls_token, std=0.02)
        self.add_auxiliary_head(token_labeling, add_token_max)
        if self.aux_head is not None:
            init_weights(self.aux_head)

    def forward_head(
        self, x: torch.Tensor, pre_logits: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Map tokens (B, 1 + H*W, C) to logits (B, K), in training mode with token logits.

        With `pre_logits` pooled features (B, C) are returned.
        """
        pooled = self.head_drop(self.fc_norm(self.pool(x)))
        if pre_logits:
            return pooled
        tokens = x[:, self.num_prefix_tokens :].unflatten(1, self.patch_embed.grid_size)
        return self.combine(self.head(pooled), tokens)


# Regular expression of the released parameter names, and its replacement.
_RELEASED_NAMES = ((r'^patch_embed\.((?:conv|bn)\d|proj)\.(\w+)$', r'patch_embed.proj.\1.\2'),)
checkpoint_filter_fn = partial(renamed, names=_RELEASED_NAMES)

VARIANTS: dict[str, dict[str, Any]] = {
    'lvvit_small': {},
    'lvvit_medium': {'embed_dim': 512, 'depth': 20, 'num_heads': 8},
    'lvvit_large': {
        'embed_dim': 768,
        'depth': 24,
        'num_heads': 12,
        'stem_width': 128,
        'skip_lam': 3.0,
    },
}

register(
    LVViT,
    VARIANTS,
    out_indices=3,
    different={
        'lvvit_medium': {'crop_pct': 1.0},
        'lvvit_large': {'crop_pct': 1.0, 'input_size': (3, 288, 288)},
    },
    pool_size=None,
    fixed_input_size=True,
    first_conv='patch_embed.proj.conv1',
    classifier='head',
    license='apache-2.0',
)
