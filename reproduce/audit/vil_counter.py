"""What the counter of ViL's released code says of its Mask R-CNN, in closed form.

The counter counts layers with their biases, at 800 x 1344, which is 1333 filled up to whole cells,
with 1000 boxes and no masks. In its attention (`compute_macs` of `longformer2d.py` in
microsoft/vision-longformer) the windows' products are those of as many tokens as there are
channels, and the keys and values that the global token computes a second time are left out.
"""

from collections.abc import Sequence
from math import ceil

HEIGHT, WIDTH = 800, 1344
BOXES, CLASSES = 1000, 80
WINDOW_KEYS = 9 * 7 * 7
FPN_WIDTH, BOX_WIDTH, ANCHORS = 256, 1024, 3


def released_count(
    depths: Sequence[int],
    embed_dims: Sequence[int] = (96, 192, 384, 768),
    num_global: Sequence[int] = (1, 1, 1, 0),
) -> int:
    """Return the multiply-adds of Mask R-CNN with ViL as its authors' counter counts them.

    Args:
        depths, embed_dims, num_global: blocks, channels and global tokens of the four stages.
    """
    total, inputs = 0, 3
    for i, (blocks, dim, g) in enumerate(zip(depths, embed_dims, num_global, strict=True)):
        tokens = _cells(4 * 2**i)
        total += tokens * _affine((16 if i == 0 else 4) * inputs, dim)
        products = (dim - g) * (WINDOW_KEYS + g) * dim + g * (tokens + g) * dim
        layers = 4 * _affine(dim, dim) + _affine(dim, 4 * dim) + _affine(4 * dim, dim)
        total += blocks * (2 * products + (tokens + g) * layers)
        inputs = dim
    return total + _detector(embed_dims)


def _detector(embed_dims: Sequence[int]) -> int:
    """Count the pyramid, the region proposals and the boxes."""
    pyramid = sum(
        _cells(4 * 2**i) * (_affine(dim, FPN_WIDTH) + _affine(9 * FPN_WIDTH, FPN_WIDTH))
        for i, dim in enumerate(embed_dims)
    )
    cells = sum(_cells(4 * 2**i) for i in range(5))
    proposals = _affine(9 * FPN_WIDTH, FPN_WIDTH) + _affine(FPN_WIDTH, 5 * ANCHORS)
    boxes = _affine(49 * FPN_WIDTH, BOX_WIDTH) + _affine(BOX_WIDTH, BOX_WIDTH)
    boxes += _affine(BOX_WIDTH, CLASSES + 1) + _affine(BOX_WIDTH, 4 * CLASSES)
    return pyramid + cells * proposals + BOXES * boxes


def _cells(stride: int) -> int:
    return ceil(HEIGHT / stride) * ceil(WIDTH / stride)


def _affine(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs
