"""Parameters and FLOPs of the systems, measured on the meta device and kept."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Complexity:
    """`params` in parameters, the rest in multiply-adds of one forward pass of one image."""

    params: int
    layer_flops: int
    total_flops: int
