"""Bounded working memory for inference.

The wide intermediates of attentions and MLPs (3 and 4 times the channels) are most of what a
forward pass allocates. Where no gradient is recorded, nothing needs them afterwards. So stages work
on a few images at a time and MLPs on a few tokens, and the peak memory no longer grows with them.

The bound depends on the device. On a CPU, buffers of more than a few MB do not fit into the caches,
and the C library returns them to the system after every use, which costs page faults at the next.
A GPU's allocator keeps its memory, and large kernels run best there, so that the bound is far above
what fills the device: it costs nothing and still limits the peak.

A forward hook on a block or an MLP sees the pieces; one on a stage sees the whole batch.
"""

import math
from collections.abc import Callable

import torch

CPU_WORKSPACE = 2**21  # elements of the widest intermediate, 8 MiB in float32
ACCELERATOR_WORKSPACE = 2**26


def recorded() -> bool:
    """Return whether the pass is recorded, for gradients or as a graph, and has to stay whole."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()


def in_pieces(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, expansion: float
) -> torch.Tensor:
    """Return `function(x)`, computed in pieces along the first axis where nothing is recorded.

    Args:
        function: treats the entries of the first axis independently of each other.
        x: (N, ...).
        expansion: size of the widest intermediate that `function` makes, divided by that of `x`.
    """
    if recorded():
        return function(x)
    workspace = CPU_WORKSPACE if x.device.type == 'cpu' else ACCELERATOR_WORKSPACE
    entries = max(1, int(workspace / (expansion * math.prod(x.shape[1:]))))
    if entries >= len(x):
        return function(x)
    return torch.cat([function(piece) for piece in x.split(entries)])
