"""The global branch: Global Learning with Down-sampling (GLD), its parts and its substitutes.

Each maps (B, H, W, C) to (B, h, w, C) with h x w = `reduced(grid_size, ratio)`. A ratio is that of
both sides, or those of height and width: half of the tokens are kept by (1, 0.5), a quarter by 0.5.
`dim` is the number of channels C.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

Ratio = float | Sequence[float]


def reduced(grid_size: int, ratio: Ratio) -> tuple[int, int]:
    """Return height and width of a square grid whose sides are reduced by a ratio."""
    height, width = (ratio, ratio) if isinstance(ratio, (int, float)) else ratio
    return round(grid_size * height), round(grid_size * width)


class AntialiasedResize(nn.Module):
    """Resize channels-last maps to fixed grids, bilinearly and with antialiasing.

    It computes what `F.interpolate` does with `mode='bilinear'` and `antialias=True`. That is a
    fixed linear map of the rows, then of the columns: two small matrix products, which are faster
    on a CPU, deterministic in the backward pass on a GPU, and there in half precision everywhere.

    Args:
        grids: height and width of each grid, in tokens.
    """

    def __init__(self, *grids: tuple[int, int]) -> None:
        super().__init__()
        self.heights = [height for height, _ in grids]
        self.widths = [width for _, width in grids]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the map (B, H, W, C) on each of the grids, (B, height, width, C)."""
        B, H, W, C = x.shape
        if x.is_meta:  # so that counters of FLOPs do not take the products for a layer's
            sizes = zip(self.heights, self.widths, strict=True)
            return [x.new_empty(B, height, width, C) for height, width in sizes]
        rows = self._weights(H, self.heights, x)
        x = rows @ x.reshape(B, H, W * C)  # the rows of all grids: (B, sum, W*C)
        maps = x.view(B, -1, W, C).split(self.heights, dim=1)
        columns = self._weights(W, self.widths, x).split(self.widths)
        return [columns[i] @ maps[i] for i in range(len(maps))]

    def _weights(self, side: int, sizes: list[int], x: torch.Tensor) -> torch.Tensor:
        """Return the matrix that resizes a side of `x` to each of `sizes`: (sum of sizes, side)."""
        unit = torch.eye(side, dtype=torch.float64, device=x.device)[None, None]
        resized = [
            F.interpolate(unit, (size, side), mode='bilinear', antialias=True) for size in sizes
        ]
        return torch.cat(resized, dim=2)[0, 0].to(x.dtype)


class GLD(nn.Module):
    """X_G = Pos(Y) + FC(Y) (eq. 2), or one of the two.

    FC acts along the tokens and is shared by all channels: the map is resized to a square grid of
    tokens, which one linear layer maps to h x w. Pos is the map resized to h x w.
    The paper's parameter counts rule out a layer without a fixed grid: from all 56 x 56 tokens of
    stage 1 it would add 15 M parameters to MAFormer-S.

    Args:
        grid_size: tokens along each side of the grid.
        ratio: N of Section 3.2, per side.
    """

    def __init__(
        self,
        dim: int,
        grid_size: int = 14,
        ratio: Ratio = 0.5,
        with_pos: bool = True,
        with_fc: bool = True,
    ) -> None:
        super().__init__()
        height, width = reduced(grid_size, ratio)
        self.resize = AntialiasedResize((grid_size, grid_size), (height, width))
        self.with_pos = with_pos
        self.fc = nn.Linear(grid_size**2, height * width) if with_fc else None

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        grid, pos = self.resize(y)
        if self.fc is None:
            return pos
        fc = self.fc(grid.flatten(1, 2).mT).mT.reshape(pos.shape)
        return pos + fc if self.with_pos else fc


class PoolingBranch(nn.Module):
    """Average pooling to h x w: the means of boxes, where Pos weights by triangles."""

    def __init__(self, dim: int, grid_size: int = 14, ratio: Ratio = 0.5) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(reduced(grid_size, ratio))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.pool(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvGlobalBranch(nn.Module):
    """The convolution that replaces GLD in Table 2: 3x3, stride 1/ratio, on the same grid."""

    def __init__(self, dim: int, grid_size: int = 14, ratio: float = 0.5) -> None:
        super().__init__()
        self.resize = AntialiasedResize((grid_size, grid_size))
        self.conv = nn.Conv2d(dim, dim, 3, stride=round(1 / ratio), padding=1)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        grid = self.resize(y)[0].permute(0, 3, 1, 2)
        return self.conv(grid).permute(0, 2, 3, 1)


# By the values of MAFormer's argument `global_branch`.
GLOBAL_BRANCHES: dict[str, Any] = {
    'gld': GLD,
    'conv': ConvGlobalBranch,
    'pos': partial(GLD, with_fc=False),
    'fc': partial(GLD, with_pos=False),
    'pooling': PoolingBranch,
    'none': None,
}
