"""Parameters and FLOPs of the systems, measured on the meta device and kept."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Complexity:
    """`params` in parameters, the rest in multiply-adds of one forward pass of one image.

    Those of the backbone are a part of a detector's and a segmenter's, and all of a classifier's.
    """

    params: int
    layer_flops: int
    total_flops: int
    backbone_params: int
    backbone_layer_flops: int
    backbone_total_flops: int
