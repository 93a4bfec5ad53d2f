"""Attention of MAFormer and CSWin: in cross-shaped or shifted windows, or over all tokens.

Every module maps a channels-last map (B, H, W, C) to one of the same shape. Heads lie along the
channels, so a head is a slice and `scaled_dot_product_attention` reads it in place.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import trunc_normal_


class SelfAttention(nn.Module):
    """Multi-head attention over all tokens of the map."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, _ = self._attended(x)
        return self.proj(out)

    def _attended(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What attention gives (B, H, W, C), and the values (B, heads, H*W, d) it weighted."""
        B, H, W, C = x.shape
        qkv = self.qkv(x).view(B, H * W, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, H*W, d) each
        out = F.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).reshape(B, H, W, C), v


class CrossShapedAttention(nn.Module):
    """Cross-shaped window attention with LePE, as in CSWin's released code.

    The first half of the heads attends inside stripes of full height and `stripe_width` columns,
    the second half inside stripes of full width and `stripe_width` rows. LePE, a 3x3 depthwise
    convolution of V that sees zeros beyond its stripe, is added to each stripe's output. A side
    that `stripe_width` does not divide is padded on both ends with zero q, k and v, unmasked.
    """

    def __init__(
        self, dim: int, num_heads: int, stripe_width: int = 1, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        if num_heads % 2:
            raise ValueError(f'cross-shaped attention needs an even num_heads, got {num_heads}')
        self.num_heads = num_heads
        self.stripe_width = stripe_width
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.lepe = nn.ModuleList(
            nn.Conv2d(dim // 2, dim // 2, 3, padding=1, groups=dim // 2) for _ in range(2)
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, C = x.shape
        qkv = self.qkv(x).view(B, H, W, 3, 2, C // 2)
        tall = self._stripes(qkv[:, :, :, :, 0].transpose(1, 2), self.lepe[0], transposed=True)
        wide = self._stripes(qkv[:, :, :, :, 1], self.lepe[1], transposed=False)
        return self.proj(torch.cat([tall.transpose(1, 2), wide], dim=-1))

    def _stripes(self, qkv: torch.Tensor, lepe: nn.Conv2d, transposed: bool) -> torch.Tensor:
        """Attention in stripes of `stripe_width` rows of (B, R, L, 3, c); returns (B, R, L, c).

        A full-height stripe is a full-width one of the transposed map: the same code serves both,
        and only LePE's kernel has to be transposed with it.
        """
        B, R, L, _, c = qkv.shape
        S, heads = self.stripe_width, self.num_heads // 2
        pad = -R % S
        if pad:
            qkv = F.pad(qkv, (0, 0, 0, 0, 0, 0, pad // 2, pad - pad // 2))
        N = (R + pad) // S
        q, k, v = qkv.reshape(B * N, S * L, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)  # (B*N, heads, S*L, d)
        out = out.transpose(1, 2).reshape(B * N, S, L, c)

        values = v.transpose(1, 2).reshape(B * N, S, L, c)
        weight = lepe.weight.mT if transposed else lepe.weight
        out = out + self._depthwise(values, weight, lepe.bias)
        return out.view(B, N * S, L, c)[:, pad // 2 : pad // 2 + R]

    @staticmethod
    def _depthwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=x.shape[-1])
        return x.permute(0, 2, 3, 1)


class LePEAttention(SelfAttention):
    """Multi-head attention over all tokens with LePE: a single stripe that is the whole map."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__(dim, num_heads, qkv_bias)
        self.lepe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, v = self._attended(x)
        values = v.transpose(2, 3).reshape(len(x), -1, *x.shape[1:3])  # (B, C, H, W)
        return self.proj(out + self.lepe(values).permute(0, 2, 3, 1))


def relative_position_index(window_size: int) -> torch.Tensor:
    """Row of the bias table for each query and key of a window: (window_size**2, window_size**2).

    The table has one row for each of the (2 * window_size - 1)**2 differences, as Swin's.
    """
    y, x = torch.meshgrid(torch.arange(window_size), torch.arange(window_size), indexing='ij')
    dy, dx = (a.reshape(-1, 1) - a.reshape(1, -1) + window_size - 1 for a in (y, x))
    return dy * (2 * window_size - 1) + dx


class ShiftedWindowAttention(nn.Module):
    """Window attention with relative position bias; `shift_size` > 0 gives Swin's shifted windows.

    Maps are padded at the bottom and right to whole windows, after normalisation as in Swin. A map
    that fits into one window is not shifted.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 7,
        shift_size: int = 0,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift_size = shift_size
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window_size - 1) ** 2, num_heads)
        )
        trunc_normal_(self.relative_position_bias_table, std=0.02)
        index = relative_position_index(window_size)
        self.register_buffer('relative_position_index', index, persistent=False)

    def _bias(self, H: int, W: int, shift: tuple[int, int]) -> torch.Tensor:
        """Relative position bias, and the mask of a shifted map: (1 or windows, heads, n, n)."""
        n = self.window_size**2
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(1, n, n, self.num_heads).permute(0, 3, 1, 2)
        if not any(shift):
            return bias
        rows, columns = (
            (torch.arange(side, device=bias.device) >= side - self.window_size).int()
            + (torch.arange(side, device=bias.device) >= side - s).int() * (s > 0)
            for side, s in zip((H, W), shift, strict=True)
        )
        region = self._partition((rows[:, None] * 3 + columns[None, :])[None, :, :, None])
        region = region.view(-1, 1, n)
        apart = region != region.mT  # (windows, n, n)
        return bias + torch.zeros_like(apart, dtype=bias.dtype).masked_fill(apart, -100.0)[:, None]

    def _partition(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, c) to (B * windows, n, c)."""
        B, H, W, c = x.shape
        w = self.window_size
        x = x.view(B, H // w, w, W // w, w, c).transpose(2, 3)
        return x.reshape(-1, w * w, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, C = x.shape
        w, heads = self.window_size, self.num_heads
        shift = tuple(self.shift_size if side > w else 0 for side in (H, W))
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % w))
        _, Hp, Wp, _ = x.shape
        qkv = self._partition(self.qkv(x)).view(B, -1, w * w, 3, heads, C // heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # (B, windows, heads, n, d) each
        x = F.scaled_dot_product_attention(q, k, v, self._bias(Hp, Wp, shift).to(q.dtype))
        x = x.transpose(2, 3).reshape(B, Hp // w, Wp // w, w, w, C).transpose(2, 3)
        x = x.reshape(B, Hp, Wp, C)[:, :H, :W]
        if any(shift):
            x = x.roll(shift, (1, 2))
        return self.proj(x)
