"""The global branch: Global Learning with Down-sampling (GLD) and its convolution substitute."""

import torch
import torch.nn as nn
import torch.nn.functional as F


def resize(x: torch.Tensor, size: int) -> torch.Tensor:
    """Resize a channels-last map to (B, size, size, C), bilinearly and with antialiasing.

    Half precision goes through float32: the CPU has no half-precision antialiased kernel.
    """
    y = x.to(torch.promote_types(x.dtype, torch.float32)).permute(0, 3, 1, 2)
    y = F.interpolate(y, size=[size, size], mode='bilinear', antialias=True)
    return y.permute(0, 2, 3, 1).to(x.dtype)


class GLD(nn.Module):
    """X_G = Pos(Y) + FC(Y) (eq. 2): (B, H, W, C) to (B, r*g, r*g, C), g the grid and r the ratio.

    FC acts along the tokens and is shared by all channels: the map is resized to a grid of g x g
    tokens, which one linear layer maps to r*g x r*g. Pos is the map resized to r*g x r*g.
    The paper's parameter counts rule out a layer without a fixed grid: from all 56 x 56 tokens of
    stage 1 it would add 15 M parameters to MAFormer-S.

    Args:
        dim: unused, since FC does not depend on the channels.
        grid_size: tokens along each side of the grid.
        ratio: N of Section 3.2, taken per side.
    """

    def __init__(self, dim: int, grid_size: int = 14, ratio: float = 0.5) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.output_size = round(grid_size * ratio)
        self.fc = nn.Linear(grid_size**2, self.output_size**2)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        B, _, _, C = y.shape
        tokens = resize(y, self.grid_size).reshape(B, -1, C)
        fc = self.fc(tokens.mT).mT.reshape(B, self.output_size, self.output_size, C)
        return resize(y, self.output_size) + fc


class ConvGlobalBranch(nn.Module):
    """The convolution that replaces GLD in Table 2: 3x3, stride 1/ratio, on the same grid.

    It maps (B, H, W, C) to (B, r*g, r*g, C) as GLD does, and takes the same arguments.
    """

    def __init__(self, dim: int, grid_size: int = 14, ratio: float = 0.5) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.conv = nn.Conv2d(dim, dim, 3, stride=round(1 / ratio), padding=1)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        y = resize(y, self.grid_size).permute(0, 3, 1, 2)
        return self.conv(y).permute(0, 2, 3, 1)
