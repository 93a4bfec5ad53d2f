"""The global branch: Global Learning with Down-sampling (GLD), its parts and its substitutes.

Each maps (B, H, W, C) to (B, h, w, C) with h x w = `reduced(grid_size, ratio)`.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn as nn

Ratio = float | Sequence[float]  # of both sides, or of height and width


def resize_weights(
    side: int, grids: Sequence[int], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return the weights that resize a side, linearly and with antialiasing: (sum of grids, side).

    Each new position is the mean of the old ones around its centre, weighted by a triangle: as wide
    as two new positions where they are fewer than the old ones, else as two old ones.

    Args:
        side: old positions.
        grids: new positions of each of the resized sides, whose weights are rows one after another.
    """
    positions = torch.arange(side, dtype=torch.float64, device=device) + 0.5
    weights = []
    for grid in grids:
        scale = side / grid
        centres = (torch.arange(grid, dtype=torch.float64, device=device) + 0.5) * scale
        distances = (positions - centres[:, None]).abs() / max(scale, 1.0)
        triangle = (1 - distances).clamp(min=0)
        weights.append(triangle / triangle.sum(1, keepdim=True))
    return torch.cat(weights).to(dtype)


@lru_cache(maxsize=256)
def _kept_weights(
    side: int, grids: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    # Made in an inference, they have to serve a training too.
    with torch.inference_mode(False), torch.no_grad():
        weights = resize_weights(side, grids, dtype, device)
    # Within torch.func's transforms tensors have no storage: an error, so that none is kept.
    if weights.data_ptr() == 0:
        raise RuntimeError('the weights have no storage')
    return weights


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
        rows = self._weights(H, self.heights, x)
        x = rows @ x.reshape(B, H, W * C)  # the rows of all grids: (B, sum, W*C)
        maps = x.view(B, -1, W, C).split(self.heights, dim=1)
        columns = self._weights(W, self.widths, x).split(self.widths)
        return [columns[i] @ maps[i] for i in range(len(maps))]

    def _weights(self, side: int, grids: list[int], x: torch.Tensor) -> torch.Tensor:
        arguments = side, tuple(grids), x.dtype, x.device
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if traced or x.is_meta or type(x) is not torch.Tensor:
            return resize_weights(*arguments)
        try:
            return _kept_weights(*arguments)
        except RuntimeError:
            return resize_weights(*arguments)


def reduced(grid_size: int, ratio: Ratio) -> tuple[int, int]:
    """Return height and width of a square grid whose sides are reduced by a ratio.

    Args:
        ratio: of both sides, or of height and width. Half of the tokens of the grid are kept by
            (1, 0.5), a quarter of them by 0.5.
    """
    height, width = (ratio, ratio) if isinstance(ratio, (int, float)) else ratio
    return round(grid_size * height), round(grid_size * width)


class GLD(nn.Module):
    """X_G = Pos(Y) + FC(Y) (eq. 2).

    FC acts along the tokens and is shared by all channels: the map is resized to a square grid of
    tokens, which one linear layer maps to h x w. Pos is the map resized to h x w.
    The paper's parameter counts rule out a layer without a fixed grid: from all 56 x 56 tokens of
    stage 1 it would add 15 M parameters to MAFormer-S.

    Args:
        dim: unused, since FC does not depend on the channels.
        grid_size: tokens along each side of the grid.
        ratio: N of Section 3.2, per side; see `reduced`.
    """

    def __init__(self, dim: int, grid_size: int = 14, ratio: Ratio = 0.5) -> None:
        super().__init__()
        self.grid_size = grid_size
        height, width = reduced(grid_size, ratio)
        self.resize = AntialiasedResize((grid_size, grid_size), (height, width))
        self.fc = nn.Linear(grid_size**2, height * width)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        grid, pos = self.resize(y)
        fc = self.fc(grid.flatten(1, 2).mT).mT  # (B, h*w, C)
        return pos + fc.reshape(pos.shape)


class PosBranch(nn.Module):
    """Pos of GLD alone: the map resized to h x w, without a learned layer."""

    def __init__(self, dim: int, grid_size: int = 14, ratio: Ratio = 0.5) -> None:
        super().__init__()
        self.resize = AntialiasedResize(reduced(grid_size, ratio))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.resize(y)[0]


class FCBranch(nn.Module):
    """FC of GLD alone, without Pos."""

    def __init__(self, dim: int, grid_size: int = 14, ratio: Ratio = 0.5) -> None:
        super().__init__()
        self.output_size = reduced(grid_size, ratio)
        self.resize = AntialiasedResize((grid_size, grid_size))
        self.fc = nn.Linear(grid_size**2, self.output_size[0] * self.output_size[1])

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        grid = self.resize(y)[0]
        return self.fc(grid.flatten(1, 2).mT).mT.unflatten(1, self.output_size)


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
GLOBAL_BRANCHES: dict[str, type[nn.Module] | None] = {
    'gld': GLD,
    'conv': ConvGlobalBranch,
    'pos': PosBranch,
    'fc': FCBranch,
    'pooling': PoolingBranch,
    'none': None,
}
