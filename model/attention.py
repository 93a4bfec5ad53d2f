"""Attention in cross-shaped or shifted windows, and over all tokens.

Every module maps a channels-last map (B, H, W, C) to one of the same shape. Sizes of windows are in
tokens. A head is a slice of the channels, which `scaled_dot_product_attention` reads without a
copy.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import gen_relative_position_index, trunc_normal_


class Attention(nn.Module):
    """Base of all attentions."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """Split (..., N, C) into (..., heads, N, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return softmax(q k^T / sqrt(d) + bias) v, from (B, ..., heads, N, d) to (B, ..., N, C).

        PyTorch's fused kernels need four dimensions, the last of which has a stride of 1.
        """
        leading = q.shape[:-3]
        if bias is not None:
            bias = bias.to(q.dtype).contiguous()
            if bias.ndim == 3:  # the same everywhere
                bias = bias[None]
            elif len(leading) > 1:
                bias = bias.expand(*leading, -1, -1, -1).flatten(0, -4)
        q, k, v = (t.flatten(0, -4) for t in (q, k, v))
        q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, bias)
        return out.transpose(-3, -2).flatten(-2).unflatten(0, leading)


def small_random(*shape: int) -> nn.Parameter:
    """Return a parameter, such as a table of biases, with a standard deviation of 0.02."""
    return nn.Parameter(trunc_normal_(torch.zeros(shape), std=0.02))


class SelfAttention(Attention):
    """Multi-head attention over all tokens of the map, or within square windows of a larger one.

    With `lepe` a 3x3 depthwise convolution of V is added, as if the whole map were one stripe of
    cross-shaped attention. Maps larger than `window_size` are padded at the bottom and right to
    whole windows with zeros, which are not masked, as in Swin.
    """

    def __init__(
        self, dim: int, num_heads: int, lepe: bool = False, window_size: int | None = None
    ) -> None:
        super().__init__(num_heads)
        self.window_size = window_size
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.lepe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if lepe else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, H, W, _ = x.shape
        w = self.window_size
        if w is None or max(H, W) <= w:
            return self._over_all(x)
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % w))
        windows = to_windows(x, w)  # (B, windows, w * w, C)
        out = self._over_all(windows.flatten(0, 1).unflatten(1, (w, w))).view(windows.shape)
        return from_windows(out, w, x.shape[1], x.shape[2])[:, :H, :W]

    def _over_all(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, C = x.shape
        q, k, v = self.qkv(x).flatten(1, 2).chunk(3, dim=-1)  # (B, H*W, C) each
        out = self.attend(self.heads(q), self.heads(k), self.heads(v)).view(B, H, W, C)
        if self.lepe is not None:
            values = v.mT.reshape(B, C, H, W)
            out = out + self.lepe(values).permute(0, 2, 3, 1)
        return self.proj(out)


class CrossShapedAttention(Attention):
    """Cross-shaped window attention with LePE, as in CSWin's released code.

    The first half of the heads attends inside stripes of full height and `stripe_width` columns,
    the second half inside stripes of full width and `stripe_width` rows. LePE, a 3x3 depthwise
    convolution of V that sees zeros beyond its stripe, is added to each stripe's output. A side
    that `stripe_width` does not divide is padded on both ends with zero q, k and v, unmasked.

    Raises:
        ValueError: if the number of heads is odd.
    """

    def __init__(self, dim: int, num_heads: int, stripe_width: int = 1) -> None:
        super().__init__(num_heads)
        if num_heads % 2:
            raise ValueError(f'cross-shaped attention needs an even num_heads, got {num_heads}')
        self.stripe_width = stripe_width
        self.qkv = nn.Linear(dim, 3 * dim)
        self.lepe = nn.ModuleList(
            nn.Conv2d(dim // 2, dim // 2, 3, padding=1, groups=dim // 2) for _ in range(2)
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, C = x.shape
        qkv = self.qkv(x).view(B, H, W, 3, 2, C // 2)
        lepe, tall_lepe = self.lepe[1], self.lepe[0]
        # A full-height stripe is a full-width stripe of the transposed map, so that the same code
        # serves both. The kernel of LePE has to be transposed as well, by stacking its columns: the
        # gradient of a transposed view has other strides than the weight, and is copied each time.
        tall = qkv[:, :, :, :, 0].transpose(1, 2)
        turned = torch.stack(tall_lepe.weight.unbind(3), dim=2)
        tall = self._stripes(tall, turned, tall_lepe.bias)
        wide = self._stripes(qkv[:, :, :, :, 1], lepe.weight, lepe.bias)
        return self.proj(torch.cat([tall.transpose(1, 2), wide], dim=-1))

    def _stripes(
        self, qkv: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Attend within stripes of `stripe_width` rows: (B, R, L, 3, c) to (B, R, L, c).

        The weight and the bias are those of LePE.
        """
        B, R, L, _, c = qkv.shape
        S, heads = self.stripe_width, self.num_heads // 2
        pad = -R % S
        if pad:
            qkv = F.pad(qkv, (0, 0, 0, 0, 0, 0, pad // 2, pad - pad // 2))
        N = (R + pad) // S
        q, k, v = qkv.reshape(B * N, S * L, 3, heads, c // heads).permute(2, 0, 3, 1, 4).unbind(0)
        out = self.attend(q, k, v).view(B * N, S, L, c)

        values = v.transpose(1, 2).reshape(B * N, S, L, c)
        values = F.conv2d(values.permute(0, 3, 1, 2), weight, bias, padding=1, groups=c)
        out = out + values.permute(0, 2, 3, 1)
        return out.view(B, N * S, L, c)[:, pad // 2 : pad // 2 + R]


def to_windows(x: torch.Tensor, window_size: int) -> torch.Tensor:
    """Cut a map of whole windows (B, H, W, c) into (B, windows, window_size**2, c)."""
    B, H, W, c = x.shape
    w = window_size
    x = x.view(B, H // w, w, W // w, w, c).transpose(2, 3)
    return x.reshape(B, -1, w * w, c)


def from_windows(x: torch.Tensor, window_size: int, H: int, W: int) -> torch.Tensor:
    """Join windows (B, windows, window_size**2, c) to the map (B, H, W, c)."""
    B, _, _, c = x.shape
    w = window_size
    return x.view(B, H // w, W // w, w, w, c).transpose(2, 3).reshape(B, H, W, c)


class RelativePositionBias(Attention):
    """Base of window attentions with Swin's relative position bias.

    Its table has a row for each of the (2 * window_size - 1)**2 differences between the positions
    of a query and a key, and a column for each head.
    """

    def add_bias_table(self, window_size: int) -> None:
        """Add the table as a parameter."""
        self.window_size = window_size
        self.relative_position_bias_table = small_random((2 * window_size - 1) ** 2, self.num_heads)
        index = gen_relative_position_index((window_size, window_size))
        self.register_buffer('relative_position_index', index, persistent=False)

    def position_bias(self) -> torch.Tensor:
        """Return the bias of every query and key of a window, (heads, n, n), n = window_size**2."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)

    def attend_in_windows(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend within the windows of maps (B, H, W, c) of whole windows; to the same shape.

        The bias is that of the positions unless another is given.
        """
        _, H, W, _ = q.shape
        q, k, v = (self.heads(to_windows(x, self.window_size)) for x in (q, k, v))
        out = self.attend(q, k, v, self.position_bias() if bias is None else bias)
        return from_windows(out, self.window_size, H, W)


class ShiftedWindowAttention(RelativePositionBias):
    """Window attention with relative position bias, in Swin's shifted windows if `shift_size` > 0.

    Maps are padded at the bottom and right to whole windows with zeros, after normalisation as in
    Swin. A map that fits into one window is not shifted.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int = 7, shift_size: int = 0) -> None:
        super().__init__(num_heads)
        self.shift_size = shift_size
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.add_bias_table(window_size)

    def _bias(self, H: int, W: int, down: int, right: int) -> torch.Tensor:
        """Return the position bias, and of a shifted map plus its mask: ([windows,] heads, n, n).

        The mask keeps tokens apart that only the shift, by `down` and `right`, has brought into one
        window.
        """
        bias = self.position_bias()
        if down == 0 and right == 0:
            return bias
        rows, columns = self._regions(H, down), self._regions(W, right)
        region = (rows[:, None] * 3 + columns[None, :])[None, :, :, None]
        region = to_windows(region, self.window_size)[0]  # (windows, n, 1)
        apart = region != region.mT  # (windows, n, n)
        return bias + torch.zeros_like(apart, dtype=bias.dtype).masked_fill(apart, -100.0)[:, None]

    def _regions(self, side: int, shift: int) -> torch.Tensor:
        """Return which of the three parts of a shifted side each token belongs to, 0 to 2."""
        tokens = torch.arange(side, device=self.relative_position_bias_table.device)
        last = (tokens >= side - self.window_size).int()
        return last + (tokens >= side - shift).int() if shift > 0 else last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, H, W, _ = x.shape
        w = self.window_size
        down, right = self.shift_size * int(w < H), self.shift_size * int(w < W)
        if down + right > 0:
            x = x.roll((-down, -right), (1, 2))
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % w))
        bias = self._bias(x.shape[1], x.shape[2], down, right)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        x = self.attend_in_windows(q, k, v, bias)[:, :H, :W]
        if down + right > 0:
            x = x.roll((down, right), (1, 2))
        return self.proj(x)
