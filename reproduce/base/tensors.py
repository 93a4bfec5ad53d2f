"""Tensors in nested lists and tuples."""

from collections.abc import Iterator
from typing import Any

import torch


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield a tensor, or the tensors in a list or tuple, which may be nested; nothing else."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def in_fp32(value: Any) -> Any:
    """Return a value with its real tensors in fp32: one, or those in a list or tuple."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(map(in_fp32, value))
    return value
