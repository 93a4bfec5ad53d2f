"""timm's RandAugment, made legal on every Pillow and able to say where each pixel went.

Only the function that each of timm's operations calls is wrapped:

* Posterizing to no bits at all, which `PosterizeIncreasing` asks for at level 10, is an error in
  recent releases of Pillow. Older ones gave a black image, which the published trainings have seen.
  It is a black image here, on every release.
* The operations that move pixels are applied to a map of cells as well (`TracedImage`), so that
  labels of parts of an image can follow it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from timm.data.auto_augment import (
    RandAugment,
    posterize,
    rotate,
    shear_x,
    shear_y,
    translate_x_abs,
    translate_x_rel,
    translate_y_abs,
    translate_y_rel,
)

# timm's operations that move pixels; all others change colours in place.
MOVING = (
    rotate,
    shear_x,
    shear_y,
    translate_x_abs,
    translate_x_rel,
    translate_y_abs,
    translate_y_rel,
)


@dataclass(frozen=True)
class TracedImage:
    """An image whose pixels remember the cell of a grid that they came from.

    Attributes:
        image: the image.
        cells: of the same size, in mode 'I': the number of the cell of each pixel, counted from 1
            row by row; 0 where the pixel is from outside the image.
        grid: the number of rows and of columns of cells.
    """

    image: Image.Image
    cells: Image.Image
    grid: tuple[int, int]

    @classmethod
    def of(cls, image: Image.Image, grid: tuple[int, int]) -> 'TracedImage':
        """Divide `image` into `grid` rows and columns of cells."""
        (width, height), (rows, columns) = image.size, grid
        row = np.arange(height, dtype=np.int32) * rows // height
        column = np.arange(width, dtype=np.int32) * columns // width
        return cls(image, Image.fromarray(row[:, None] * columns + column + 1), grid)

    def mirrored(self) -> 'TracedImage':
        """Return it flipped left to right."""
        return TracedImage(ImageOps.mirror(self.image), ImageOps.mirror(self.cells), self.grid)

    def sources(self) -> np.ndarray:
        """Return the number (h, w) of the original cell at the centre of each cell; 0 is none."""
        (width, height), (rows, columns) = self.image.size, self.grid
        y = ((np.arange(rows) + 0.5) * height / rows).astype(int)
        x = ((np.arange(columns) + 0.5) * width / columns).astype(int)
        return np.asarray(self.cells)[y[:, None], x]


class LegalOperation:
    """A function of timm's operation tables, on images and `TracedImage`s, at any level."""

    def __init__(self, function: Callable[..., Image.Image]) -> None:
        self.function = function

    def __call__(
        self, image: Image.Image | TracedImage, *arguments: float, **options: Any
    ) -> Image.Image | TracedImage:
        if isinstance(image, TracedImage):
            changed = self(image.image, *arguments, **options)
            if self.function not in MOVING:
                return TracedImage(changed, image.cells, image.grid)
            # A pixel comes from one cell, or from none: numbers of cells are not interpolated.
            options |= {'fillcolor': 0, 'resample': Image.Resampling.NEAREST}
            cells = self.function(image.cells, *arguments, **options)
            return TracedImage(changed, cells, image.grid)
        if self.function is posterize and arguments[0] < 1:
            return Image.new(image.mode, image.size)
        return self.function(image, *arguments, **options)


def make_legal(policy: RandAugment) -> RandAugment:
    """Let the operations of a RandAugment take `TracedImage`s, and any level on any Pillow."""
    for operation in policy.ops:
        operation.aug_fn = LegalOperation(operation.aug_fn)
    return policy
