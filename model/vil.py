"""Vision Longformer, ViL (Zhang et al., 2021): sliding windows and a global token.

A token attends to the tokens of its chunk and of the eight chunks around it, and to the global
token of its stage, which attends to all tokens. What the paper leaves open follows the released
code with relative positions. Classifiers have attention over all tokens in stages 3 and 4,
detectors sliding windows in every stage. `checkpoint_filter_fn` renames the parameters of the
released weights.
"""

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import gen_relative_position_index, to_2tuple
from timm.models import checkpoint_seq

from .attention import Attention, from_windows, small_random, to_windows
from .checkpoint import renamed
from .pyramid import Pyramid, Stage, TransformerBlock, init_weights
from .registration import register

NUM_GLOBAL = (1, 1, 1, 0)  # global tokens of the four stages


class _GlobalTokenAttention(Attention):
    """Base of attentions over the tokens of a map (H, W) behind `num_global` global tokens.

    The bias of a query and a key of the map is the entry of a table for the difference between
    their positions, that of any other pair a number for each head. The table has `entries`.
    """

    def __init__(self, dim: int, num_heads: int, num_global: int, entries: int) -> None:
        super().__init__(num_heads)
        self.num_global = num_global
        self.proj = nn.Linear(dim, dim)
        self.local_relative_position_bias_table = small_random(entries, num_heads)
        if num_global:
            self.g2l_relative_position_bias = small_random(2, num_heads, num_global)
            self.g2g_relative_position_bias = small_random(num_heads, num_global, num_global)

    def _bias(self) -> torch.Tensor:
        """Return the bias of queries of the map to global tokens and theirs, (heads, n, g + m)."""
        bias = self.local_relative_position_bias_table[self.index].permute(2, 0, 1)
        if not self.num_global:
            return bias
        to_global = self.g2l_relative_position_bias[1][:, None].expand(-1, bias.shape[1], -1)
        return torch.cat([to_global, bias], dim=2)

    def _bias_of_global(self, keys: int) -> torch.Tensor:
        """Return the bias of the global tokens and all, `keys` of the map: (heads, g, g + keys)."""
        to_local = self.g2l_relative_position_bias[0][:, :, None].expand(-1, -1, keys)
        return torch.cat([self.g2g_relative_position_bias, to_local], dim=2)


class GlobalTokenFullAttention(_GlobalTokenAttention):
    """Attention of every token to all tokens, (B, g + H*W, C) to the same shape.

    Maps have the size `grid`.
    """

    def __init__(self, dim: int, num_heads: int, num_global: int, grid: tuple[int, int]) -> None:
        entries = math.prod(2 * side - 1 for side in grid)
        super().__init__(dim, num_heads, num_global, entries)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.register_buffer('index', gen_relative_position_index(grid), persistent=False)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        bias = self._bias()
        if self.num_global:
            bias = torch.cat([self._bias_of_global(bias.shape[1]), bias], dim=1)
        return self.proj(self.attend(self.heads(q), self.heads(k), self.heads(v), bias))


class SlidingChunkAttention(_GlobalTokenAttention):
    """Attention to the chunks around and to the global tokens, (B, g + H*W, C) to the same shape.

    The map is cut into chunks of `window_size` x `window_size` tokens, padded at the bottom and
    right. A token sees its chunk, the eight around it and the global tokens; keys beyond the map
    are masked. The global tokens see all tokens, with the same projections.
    """

    def __init__(self, dim: int, num_heads: int, num_global: int, window_size: int) -> None:
        super().__init__(dim, num_heads, num_global, (4 * window_size - 1) ** 2)
        self.window_size = w = window_size
        self.query = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        q, k = torch.arange(w) + w, torch.arange(3 * w)
        difference = q[:, None] - k[None, :] + 2 * w - 1  # (w, 3*w)
        index = difference[:, None, :, None] * (4 * w - 1) + difference[None, :, None, :]
        self.register_buffer('index', index.reshape(w * w, 9 * w * w), persistent=False)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        g = self.num_global
        q, kv = self.query(x), self.kv(x)
        out = self._slide(q[:, g:], kv, size)
        if g:
            # The same again, as the released code computes it, for the count of its FLOPs.
            k, v = self.kv(x).chunk(2, dim=-1)
            bias = self._bias_of_global(size[0] * size[1])
            first = self.attend(self.heads(q[:, :g]), self.heads(k), self.heads(v), bias)
            out = torch.cat([first, out], dim=1)
        return self.proj(out)

    def _slide(self, q: torch.Tensor, kv: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Attend with the queries of the map (B, H*W, C) to keys and values (B, g + H*W, 2*C)."""
        B, _, C = q.shape
        H, W = size
        g, w = self.num_global, self.window_size
        bottom, right = -H % w, -W % w
        rows, columns = (H + bottom) // w, (W + right) // w
        q = to_windows(F.pad(q.view(B, H, W, C), (0, 0, 0, right, 0, bottom)), w)
        seen = self._around(kv[:, g:].view(B, H, W, 2 * C)).expand(B, -1, -1, -1)
        inside = self._around(q.new_ones(1, H, W, 1, dtype=torch.bool))[0, :, :, 0]
        if g:
            first = kv[:, None, :g].expand(-1, rows * columns, -1, -1)
            seen = torch.cat([first, seen], dim=2)
            inside = F.pad(inside, (g, 0), value=True)
        k, v = seen.chunk(2, dim=-1)
        # (chunks, heads, w*w, g + 9*w*w)
        bias = self._bias().masked_fill(~inside[:, None, None], -math.inf)
        out = self.attend(self.heads(q), self.heads(k), self.heads(v), bias)
        out = from_windows(out, w, rows * w, columns * w)
        return out[:, :H, :W].reshape(B, H * W, C)

    def _around(self, x: torch.Tensor) -> torch.Tensor:
        """Return the nine chunks around every chunk of (B, H, W, c): (B, chunks, 9*w*w, c).

        They are the rows of a square of 3*w x 3*w tokens, one after the other; zero beyond the map.
        """
        w = self.window_size
        H, W = x.shape[1:3]
        x = F.pad(x, (0, 0, w, w + -W % w, w, w + -H % w))
        x = x.unfold(1, 3 * w, w).unfold(2, 3 * w, w)  # (B, rows, columns, c, 3*w, 3*w)
        return x.flatten(4).flatten(1, 2).mT


class GlobalTokenBlock(TransformerBlock):
    """Pre-norm transformer block over the global tokens and those of the map."""

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        """Map (B, g + H*W, C) to the same shape, `size` being H and W."""
        return self.mlp(x + self.drop_path(self.attention(self.norm(x), size)))


class GlobalTokenStage(Stage):
    """A stage whose blocks see `num_global` learned tokens of its own before those of the map."""

    def __init__(
        self, downsample: nn.Module, blocks: Sequence[GlobalTokenBlock], dim: int, num_global: int
    ) -> None:
        super().__init__(downsample, blocks)
        self.num_global = num_global
        self.cls_token = small_random(1, num_global, dim) if num_global else None

    def run(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, C = x.shape
        x = x.flatten(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(B, -1, -1), x], dim=1)
        blocks = [partial(block, size=(H, W)) for block in self.blocks]
        if self.grad_checkpointing and torch.is_grad_enabled():
            x = checkpoint_seq(blocks, x)
        else:
            for block in blocks:
                x = block(x)
        return x[:, self.num_global :].reshape(B, H, W, C)


class ViL(Pyramid):
    """Vision Longformer as a classifier and a feature pyramid; `Pyramid` has further arguments.

    The released classifiers were trained with one random chunk of the eight around a token; here
    training sees all of them, as inference and the released detectors do.

    Args:
        img_size: size of the images in pixels, which attention over all tokens needs; with sliding
            windows alone images of any size can be processed.
        full_attention: the stages with attention over all tokens instead of sliding windows.
        window_size: side of the chunks of the sliding windows, in tokens.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (1, 2, 8, 1),
        num_heads: Sequence[int] = (3, 3, 6, 12),
        full_attention: Sequence[bool] = (False, False, True, True),
        window_size: int = 7,
        **kwargs: Any,
    ) -> None:
        def block(i: int, index: int, drop_path: float) -> nn.Module:
            sizes = embed_dims[i], num_heads[i], NUM_GLOBAL[i]
            if full_attention[i]:
                grid = tuple(math.ceil(side / (4 * 2**i)) for side in to_2tuple(img_size))
                attention = GlobalTokenFullAttention(*sizes, grid)
            else:
                attention = SlidingChunkAttention(*sizes, window_size)
            return GlobalTokenBlock(embed_dims[i], attention, drop_path=drop_path)

        def stage(i: int, downsample: nn.Module, blocks: Sequence[Any]) -> Stage:
            return GlobalTokenStage(downsample, blocks, embed_dims[i], NUM_GLOBAL[i])

        super().__init__(block, embed_dims, depths, stage=stage, img_size=img_size, **kwargs)
        self.apply(_init_weights)


def _init_weights(module: nn.Module) -> None:
    init_weights(module)
    if isinstance(module, nn.LayerNorm):
        module.eps = 1e-6


def _block_name(match: re.Match[str]) -> str:
    """Name a block of the released code, in which attentions and MLPs are layers of their own."""
    stage, layer = int(match[1]) - 1, int(match[2]) - 1
    part = '' if layer % 2 == 0 else 'mlp.'
    return f'stages.{stage}.blocks.{layer // 2}.{part}'


# Regular expressions of the released parameter names, and their replacements.
_RELEASED_NAMES = (
    (r'^layer1\.0\.proj\.', 'stem.proj.'),
    (r'^layer1\.0\.norm_embed\.', 'stem.norm.'),
    (r'^layer(\d)\.0\.cls_token$', lambda match: f'stages.{int(match[1]) - 1}.cls_token'),
    (r'^layer(\d)\.0\.proj\.', lambda match: f'stages.{int(match[1]) - 1}.downsample.proj.'),
    (r'^layer(\d)\.0\.norm_embed\.', lambda match: f'stages.{int(match[1]) - 1}.downsample.norm.'),
    (r'^layer(\d)\.(\d+)\.', _block_name),
    (r'\.mlp\.mlp\.', '.mlp.'),
    (r'\.attn\.', '.attention.'),
    (r'^head\.(weight|bias)$', r'head.fc.\1'),
)
_RELEASED_BUFFERS = r'\.relative_position_index$'
checkpoint_filter_fn = partial(renamed, names=_RELEASED_NAMES, without=_RELEASED_BUFFERS)

VARIANTS: dict[str, dict[str, Any]] = {
    'vil_tiny': {
        'embed_dims': (48, 96, 192, 384),
        'depths': (1, 1, 9, 1),
        'num_heads': (1, 3, 3, 6),
    },
    'vil_small': {},
    'vil_medium': {'depths': (1, 4, 16, 1)},
    'vil_base': {'depths': (1, 8, 24, 1)},
}

register(ViL, VARIANTS, fixed_input_size=True, license='mit')
