"""Focal Transformer (Yang et al., 2021): fine attention nearby, coarse attention farther away.

A query attends to the tokens of its window, to those within `expand_size` around it, and to the
windows around it, each pooled to one token. What the paper leaves open follows the released code.
`checkpoint_filter_fn` renames the parameters of the released weights.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from .attention import RelativePositionBias, from_windows, small_random, to_windows
from .checkpoint import renamed
from .pyramid import Pyramid, TransformerBlock, init_weights
from .registration import register


class FocalAttention(RelativePositionBias):
    """Focal self-attention of two levels, from (B, H, W, C) to the same shape.

    Maps are padded at the bottom and right to whole windows with zeros. As in the released code,
    the tokens around a window at the border of the map are those of the opposite border, and a
    token that lies in two of the four shifted maps is attended to twice.

    Args:
        window_size: side of the windows of queries, in tokens.
        expand_size: distance around its window, in tokens, in which a query sees single tokens; 0
            for its window alone.
        focal_window: side of the square of pooled windows that a query sees, its own in the middle;
            an odd number.
    """

    def __init__(
        self, dim: int, num_heads: int, window_size: int, expand_size: int, focal_window: int
    ) -> None:
        super().__init__(num_heads)
        w = window_size
        self.focal_window = focal_window
        self.pool = nn.Linear(w * w, 1)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

        self.add_bias_table(window_size)
        self.relative_position_bias_table_to_windows = small_random(
            num_heads, (w + focal_window - 1) ** 2
        )
        index = _index_to_windows(w, focal_window)
        self.register_buffer('index_to_windows', index, persistent=False)
        self.shifts, tokens = _around(w, expand_size)
        self.register_buffer('around', tokens if expand_size else None, persistent=False)
        if expand_size:
            self.relative_position_bias_table_to_neighbors = small_random(
                1, num_heads, w * w, len(tokens)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, C = x.shape
        w = self.window_size
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % w))
        rows, columns = x.shape[1] // w, x.shape[2] // w

        qkv = self.qkv(x)
        inside = to_windows(qkv, w)  # (B, windows, w*w, 3*C)
        q, seen = inside[..., :C], [inside[..., C:]]  # keys and values side by side
        biases = [self.position_bias()]
        if self.around is not None:
            kv = qkv[..., C:]
            shifted = [to_windows(kv.roll(shift, (1, 2)), w) for shift in self.shifts]
            seen.append(torch.cat(shifted, dim=2)[:, :, self.around])
            biases.append(self.relative_position_bias_table_to_neighbors[0])
        pooled = self.pool(to_windows(x, w).mT)[..., 0].view(B, rows, columns, C)
        seen.append(self._squares(self.qkv(pooled)[..., C:]))
        biases.append(self.relative_position_bias_table_to_windows[:, self.index_to_windows])

        k, v = torch.cat(seen, dim=2).chunk(2, dim=-1)
        q, k, v = self.heads(q), self.heads(k), self.heads(v)
        bias = torch.cat(biases, dim=-1) + self._outside(rows, columns, k)
        x = self.attend(q, k, v, bias)
        return self.proj(from_windows(x, w, rows * w, columns * w)[:, :H, :W])

    def _squares(self, x: torch.Tensor) -> torch.Tensor:
        """Return the square around every token of (B, h, w, c) as (B, h*w, square, c).

        Beyond the border of the map it is filled with zeros.
        """
        B, h, w, c = x.shape
        side = self.focal_window
        x = F.unfold(x.permute(0, 3, 1, 2), side, padding=side // 2)  # (B, c*square, h*w)
        return x.view(B, c, side * side, h * w).permute(0, 3, 2, 1)

    def _outside(self, rows: int, columns: int, k: torch.Tensor) -> torch.Tensor:
        """Return a mask (windows, 1, 1, keys): -100 for pooled windows beyond the map, else 0."""
        ones = self._squares(k.new_ones(1, rows, columns, 1))[0, :, :, 0]  # (windows, square)
        mask = (1 - ones) * -100
        return F.pad(mask, (k.shape[3] - mask.shape[1], 0))[:, None, None]


def _index_to_windows(window_size: int, focal_window: int) -> torch.Tensor:
    """Return the entry of the bias table for each query of a window and each pooled window.

    The result is (window_size**2, focal_window**2).
    """
    q, k = torch.arange(window_size), torch.arange(focal_window)
    difference = q[:, None] - k[None, :] + focal_window - 1  # (w, f)
    y = difference[:, None, :, None] * (window_size + focal_window - 1)
    index = y + difference[None, :, None, :]  # (w, w, f, f)
    return index.reshape(window_size**2, focal_window**2)


def _around(window_size: int, expand_size: int) -> tuple[list[tuple[int, int]], torch.Tensor]:
    """Return four shifts of a map, and which tokens of the shifted windows surround a window.

    A shift is (dy, dx) in tokens. A token is numbered within the concatenation of the four windows.
    """
    side, e = range(window_size), expand_size
    shifts = [(dy, dx) for dy in (-e, e) for dx in (-e, e)]
    own = [y - dy in side and x - dx in side for dy, dx in shifts for y in side for x in side]
    return shifts, torch.tensor([token for token, inside in enumerate(own) if not inside])


class Focal(Pyramid):
    """Focal Transformer as a classifier and a feature pyramid; `Pyramid` has further arguments.

    Args:
        window_size: side of the windows of the attention, in tokens.
        expand_sizes: `expand_size` of the attention in the four stages; 0 in stage 4, which has a
            single window at 224 x 224.
        focal_windows: `focal_window` of the attention in the four stages.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        expand_sizes: Sequence[int] = (3, 3, 3, 0),
        focal_windows: Sequence[int] = (7, 5, 3, 1),
        **kwargs: Any,
    ) -> None:
        def block(i: int, index: int, drop_path: float) -> nn.Module:
            dim = embed_dims[i]
            attention = FocalAttention(
                dim, num_heads[i], window_size, expand_sizes[i], focal_windows[i]
            )
            return TransformerBlock(dim, attention, drop_path=drop_path)

        super().__init__(block, embed_dims, depths, **kwargs)
        self.apply(init_weights)


# Regular expressions of the released parameter names, and their replacements.
_RELEASED_NAMES = (
    (r'^patch_embed\.', 'stem.'),
    (r'^(layers\.\d\.blocks\.\d+)\.norm1\.', r'\1.norm.'),
    (r'^(layers\.\d\.blocks\.\d+)\.norm2\.', r'\1.mlp.norm.'),
    (r'^(layers\.\d\.blocks\.\d+)\.attn\.', r'\1.attention.'),
    (r'^(layers\.\d\.blocks\.\d+)\.pool_layers\.0\.', r'\1.attention.pool.'),
    (r'_to_windows\.0$', '_to_windows'),
    (r'^layers\.(\d)\.blocks\.', r'stages.\1.blocks.'),
    (r'^head\.(weight|bias)$', r'head.fc.\1'),
    (r'^layers\.(\d)\.downsample\.', lambda match: f'stages.{int(match[1]) + 1}.downsample.'),
)
_RELEASED_BUFFERS = r'\.(relative_position_index(_0)?|valid_ind_rolled)$'

checkpoint_filter_fn = partial(renamed, names=_RELEASED_NAMES, without=_RELEASED_BUFFERS)

SMALL: dict[str, Any] = {'depths': (2, 2, 18, 2)}

VARIANTS: dict[str, dict[str, Any]] = {
    'focal_tiny': {},
    'focal_small': SMALL,
    'focal_base': SMALL | {'embed_dims': (128, 256, 512, 1024), 'num_heads': (4, 8, 16, 32)},
}

register(Focal, VARIANTS, crop_pct=0.875, license='mit')
