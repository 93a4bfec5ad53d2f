"""MAFormer: a vision transformer with multi-scale attention fusion.

Stages 1 and 2 are MAF blocks (eqs. 1-4 of the paper), stages 3 and 4 plain pre-norm transformer
blocks. Maps are channels-last, (B, H, W, C), from the stem to the head.

The paper has no public code. What it leaves open (the size of GLD's layer, the heads, the second
MLP) was chosen so that its printed parameters and FLOPs are met, and is an argument where the
printed figures do not decide.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from timm.layers import DropPath

from .attention import Attention, CrossShapedAttention, SelfAttention, ShiftedWindowAttention
from .auxiliary_head import TokenLabeling
from .global_branch import GLOBAL_BRANCHES
from .pyramid import Downsample, Mlp, Pyramid, TransformerBlock, init_weights
from .registration import register

STRIPE_WIDTHS = (1, 2)  # of the cross-shaped attention in stages 1 and 2, in tokens


class FusionAttention(Attention):
    """softmax(Q_L K_G^T / sqrt(d)) V_G (eqs. 3 and 4), multi-head, without output projection.

    It maps the local tokens x_l (B, H, W, C) and the global ones x_g (B, h, w, C) to (B, H, W, C).
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(num_heads)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)

    def forward(self, x_l: torch.Tensor, x_g: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.flatten(1, 2) for t in (self.q(x_l), self.k(x_g), self.v(x_g)))
        return self.attend(self.heads(q), self.heads(k), self.heads(v)).view(x_l.shape)


class MAFBlock(nn.Module):
    """Local attention and a global branch, fused by attention (Fig. 2).

    Multi-scale fusion (Fig. 2c) feeds the normalised input to both branches; local-enhanced fusion
    (Fig. 2b) derives the global tokens from the local branch's output. Without a global branch the
    block consists of the local attention and its MLP.

    Args:
        num_heads: heads of the fusion.
        local_attention: maps (B, H, W, C) to the same shape.
        global_branch: maps (B, H, W, C) to (B, h, w, C), or None.
        mlp_ratio: hidden width of both MLPs divided by `dim`.
        drop_path: stochastic depth of every residual branch.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        local_attention: nn.Module,
        global_branch: nn.Module | None,
        local_enhanced: bool,
        mlp_ratio: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.local_enhanced = local_enhanced
        self.norm = nn.LayerNorm(dim)
        self.local_attention = local_attention
        self.drop_path = DropPath(drop_path)
        self.local_mlp = Mlp(dim, mlp_ratio, drop_path)
        self.global_branch = global_branch
        if global_branch is not None:
            self.norm_l = nn.LayerNorm(dim)
            self.norm_g = nn.LayerNorm(dim)
            self.fusion = FusionAttention(dim, num_heads)
            self.mlp = Mlp(dim, mlp_ratio, drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x_l = self.local_mlp(x + self.drop_path(self.local_attention(y)))  # eq. 1
        if self.global_branch is None:
            return x_l
        x_g = self.global_branch(x_l if self.local_enhanced else y)  # eq. 2
        x = x_l + self.drop_path(self.fusion(self.norm_l(x_l), self.norm_g(x_g)))  # eqs. 3, 4
        return self.mlp(x)


class MAFormer(TokenLabeling, Pyramid):
    """MAFormer as a classifier and a feature pyramid; `Pyramid` has the arguments of all networks.

    Args:
        patch_size: side of the stem's patches in pixels; less than 4 suits small images.
        mlp_ratio: hidden width of every MLP divided by the width of its input.
        local_attention: 'cross_shaped' (default) or 'shifted_window' (Table 2).
        window_size: side of the windows of the shifted-window attention, in tokens.
        global_branch: 'gld' (default), 'conv' (Table 2) or 'none'; for comparison also GLD's parts
            'pos' and 'fc' alone, and 'pooling'.
        grid_size: side of GLD's grid, in tokens.
        gld_ratio: N of Section 3.2, taken per side; or the ratios of height and width, such as
            (1, 0.5) for half of the tokens.
        fusion: 'multi_scale' (Fig. 2c, default) or 'local_enhanced' (Fig. 2b, Table 3).
        late_window_size: side in tokens of the windows that stages 3 and 4 attend in; None for the
            whole map. 14 computes the same for images of 224 pixels, and less for larger ones.
        token_labeling: whether to add the auxiliary head that classifies every token. In training
            mode the output is then (logits (B, K), token logits (B, H, W, K)).
        add_token_max: see `TokenLabeling`.

    Raises:
        ValueError: if `local_attention`, `global_branch` or `fusion` is none of the above.
    """

    def __init__(
        self,
        patch_size: int = 4,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 5, 8, 3),
        num_heads: Sequence[int] = (2, 4, 10, 16),
        mlp_ratio: float = 4.0,
        local_attention: str = 'cross_shaped',
        window_size: int = 7,
        global_branch: str = 'gld',
        grid_size: int = 14,
        gld_ratio: float | Sequence[float] = 0.5,
        fusion: str = 'multi_scale',
        late_window_size: int | None = None,
        token_labeling: bool = False,
        add_token_max: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, value, choices in (
            ('local_attention', local_attention, ('cross_shaped', 'shifted_window')),
            ('global_branch', global_branch, tuple(GLOBAL_BRANCHES)),
            ('fusion', fusion, ('multi_scale', 'local_enhanced')),
        ):
            if value not in choices:
                raise ValueError(f'{name} must be one of {choices}, got {value!r}')

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, heads = embed_dims[stage], num_heads[stage]
            if stage >= 2:
                attention = SelfAttention(dim, heads, window_size=late_window_size)
                return TransformerBlock(dim, attention, mlp_ratio, drop_path)
            if local_attention == 'cross_shaped':
                local = CrossShapedAttention(dim, heads, STRIPE_WIDTHS[stage])
            else:
                shift_size = window_size // 2 if index % 2 else 0
                local = ShiftedWindowAttention(dim, heads, window_size, shift_size)
            branch = GLOBAL_BRANCHES[global_branch]
            branch = branch and branch(dim, grid_size, gld_ratio)
            local_enhanced = fusion == 'local_enhanced'
            return MAFBlock(dim, heads, local, branch, local_enhanced, mlp_ratio, drop_path)

        stem = partial(Downsample, stride=patch_size)
        super().__init__(block, embed_dims, depths, stem, stem_stride=patch_size, **kwargs)
        self.add_auxiliary_head(token_labeling, add_token_max)
        self.apply(init_weights)

    def forward_head(
        self, x: torch.Tensor, pre_logits: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Map features (B, H, W, C) to logits (B, K), in training mode with token logits.

        With `pre_logits` pooled features (B, C) are returned.
        """
        logits = self.head(x, pre_logits=pre_logits)
        return logits if pre_logits else self.combine(logits, x)


SMALL = {'embed_dims': (64, 128, 320, 512), 'depths': (3, 5, 8, 3), 'num_heads': (2, 4, 10, 16)}
SMALL_3383 = {**SMALL, 'depths': (3, 3, 8, 3)}
SHIFTED_WINDOW = {'local_attention': 'shifted_window'}
CONV_GLOBAL = {'global_branch': 'conv'}
LOCAL_ENHANCED = {'fusion': 'local_enhanced'}

VARIANTS: dict[str, dict[str, Any]] = {
    'maformer_micro': {
        'embed_dims': (32, 64, 96, 128),
        'depths': (1, 1, 2, 1),
        'num_heads': (2, 4, 6, 8),
    },
    # As printed in Table 1. Its FLOPs differ from those of Tables 1, 4, 5 and 7. Two MAF blocks
    # fewer fit all tables; maformer_small_3383 is one of the three ways to have two fewer.
    'maformer_small': SMALL,
    'maformer_small_shifted_window': SMALL | SHIFTED_WINDOW,  # Table 2
    'maformer_small_conv_global': SMALL | CONV_GLOBAL,  # Table 2
    'maformer_small_local_enhanced': SMALL | LOCAL_ENHANCED,  # Table 3
    'maformer_small_3383': SMALL_3383,
    'maformer_small_3383_shifted_window': SMALL_3383 | SHIFTED_WINDOW,
    'maformer_small_3383_conv_global': SMALL_3383 | CONV_GLOBAL,
    'maformer_small_3383_local_enhanced': SMALL_3383 | LOCAL_ENHANCED,
    'maformer_base': {**SMALL, 'depths': (3, 8, 20, 7)},
    'maformer_large': {
        'embed_dims': (128, 192, 448, 640),
        'depths': (3, 8, 24, 7),
        'num_heads': (4, 6, 14, 20),
    },
}

register(MAFormer, VARIANTS, license='apache-2.0')
