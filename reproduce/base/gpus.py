"""What a GPU and the installed torch can do together."""

import os
import re

import torch

from reproduce.base.errors import UserError

# What cuBLAS, cuDNN, NCCL, CUDA and the allocator of the CPU say where memory is too small.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|_STATUS_ALLOC_FAILED|can't allocate memory|not enough memory", re.IGNORECASE
)


def take(local_rank: int, local_size: int) -> torch.device:
    """Return the GPU of a process, which is made the current one.

    Args:
        local_rank, local_size: the rank of the process on its machine, and the number of them.

    Raises:
        UserError: if there are fewer GPUs than processes.
    """
    gpus = torch.cuda.device_count()
    if local_size > gpus:
        raise UserError(
            f'there are {gpus} GPUs for {local_size} processes on this machine: lower '
            '--processes, or use --device cpu.'
        )
    device = torch.device('cuda', local_rank)
    torch.cuda.set_device(device)
    return device


def check_precision(device: torch.device, precision: str | None) -> None:
    """Check that a device computes in a precision, and does not only emulate it.

    Raises:
        UserError: if it is 'bf16' and the GPU has none.
    """
    if precision != 'bf16' or device.type != 'cuda':
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            f'{torch.cuda.get_device_name(device)} has no bf16, and torch would emulate it slowly: '
            'use --amp fp16.'
        )


def use_deterministic_algorithms() -> None:
    """Let torch, cuBLAS and cuDNN choose the algorithms that give the same bits each time.

    An operator that has none raises an error from then on.
    """
    os.environ['CUBLAS_WORKSPACE_CONFIG'] = ':4096:8'  # cuBLAS reads it at its first product
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the memory of the machine or of a GPU is too small."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(
        _OUT_OF_MEMORY.search(str(error))
    )
