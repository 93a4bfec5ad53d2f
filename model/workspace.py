"""Bounded working memory for inference.

The wide intermediates of attentions and MLPs (3 and 4 times the channels) are most of what a
forward pass allocates. Where no gradient is recorded nothing needs them afterwards, so stages work
on a few images at a time and MLPs on a few tokens, and the peak memory no longer grows with them.

The bound is a device's own. On a CPU, buffers beyond a few MB leave the caches, and the C library
gives them back to the system after every use, to be paid for again in page faults. A GPU's
allocator keeps its memory and wants large kernels, so there the bound is far beyond what fills the
device: it costs nothing and caps the peak.

A forward hook on a block or an MLP sees the pieces; one on a stage sees the whole batch.
"""

from collections.abc import Callable

import torch

CPU_WORKSPACE = 2**21  # elements of the widest intermediate, 8 MiB in float32
ACCELERATOR_WORKSPACE = 2**26


def in_pieces(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, width: int
) -> torch.Tensor:
    """`function(x)`, for a function that treats the entries of the first axis independently.

    Args:
        width: elements of the widest intermediate that `function` makes of one entry.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(x)
    workspace = CPU_WORKSPACE if x.device.type == 'cpu' else ACCELERATOR_WORKSPACE
    entries = max(1, workspace // width)
    if entries >= len(x):
        return function(x)
    return torch.cat([function(piece) for piece in x.split(entries)])
