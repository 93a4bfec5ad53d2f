"""CSWin Transformer (Dong et al., 2022), whose cross-shaped attention MAFormer uses.

Blocks are pre-norm transformer blocks, with cross-shaped attention and LePE in stages 1 to 3, and
with attention over all tokens and LePE in stage 4. What the paper leaves open follows the released
code. `checkpoint_filter_fn` renames the parameters of the released weights.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn

from .attention import CrossShapedAttention, SelfAttention
from .checkpoint import renamed
from .pyramid import Pyramid, TransformerBlock, init_weights
from .registration import register

STRIPE_WIDTHS = (1, 2, 7)  # of stages 1 to 3, in tokens


class ConvDownsample(nn.Module):
    """Overlapping convolution and LayerNorm: the stem (7x7, stride 4) and the merging (3x3, 2).

    As in the released code, the stem turns s pixels into (s + 1) // 4 tokens.
    """

    def __init__(
        self, in_dim: int, dim: int, kernel_size: int = 3, stride: int = 2, padding: int = 1
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, kernel_size, stride, padding)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj(x.permute(0, 3, 1, 2))
        return self.norm(x.permute(0, 2, 3, 1))


class CSWin(Pyramid):
    """CSWin as a classifier and a feature pyramid; `Pyramid` has the arguments of all networks."""

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (1, 2, 21, 1),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        **kwargs: Any,
    ) -> None:
        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, heads = embed_dims[stage], num_heads[stage]
            if stage < 3:
                attention = CrossShapedAttention(dim, heads, STRIPE_WIDTHS[stage])
            else:
                attention = SelfAttention(dim, heads, lepe=True)
            return TransformerBlock(dim, attention, drop_path=drop_path)

        stem = partial(ConvDownsample, kernel_size=7, stride=4, padding=2)
        super().__init__(block, embed_dims, depths, stem, ConvDownsample, **kwargs)
        self.apply(init_weights)


# Regular expressions of the released parameter names, and their replacements.
_RELEASED_NAMES = (
    (r'^stage1_conv_embed\.0\.', 'stem.proj.'),
    (r'^stage1_conv_embed\.2\.', 'stem.norm.'),
    (r'^merge(\d)\.conv\.', r'stages.\1.downsample.proj.'),
    (r'^merge(\d)\.norm\.', r'stages.\1.downsample.norm.'),
    (r'^stage4\.(\d+)\.attns\.0\.get_v\.', r'stage4.\1.attention.lepe.'),
    (r'^(stage\d\.\d+)\.attns\.(\d)\.get_v\.', r'\1.attention.lepe.\2.'),
    (r'^(stage\d\.\d+)\.(qkv|proj)\.', r'\1.attention.\2.'),
    (r'^(stage\d\.\d+)\.norm1\.', r'\1.norm.'),
    (r'^(stage\d\.\d+)\.norm2\.', r'\1.mlp.norm.'),
    (r'^head\.(weight|bias)$', r'head.fc.\1'),
    (r'^stage(\d)\.', lambda match: f'stages.{int(match[1]) - 1}.blocks.'),
)

checkpoint_filter_fn = partial(renamed, names=_RELEASED_NAMES)

SMALL: dict[str, Any] = {'depths': (2, 4, 32, 2)}

VARIANTS: dict[str, dict[str, Any]] = {
    'cswin_tiny': {},
    'cswin_small': SMALL,
    'cswin_base': SMALL | {'embed_dims': (96, 192, 384, 768), 'num_heads': (4, 8, 16, 32)},
}

register(CSWin, VARIANTS, license='mit')
