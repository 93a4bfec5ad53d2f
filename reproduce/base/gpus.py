"""What a GPU and the installed torch can do together."""

import os

import torch

from reproduce.base.errors import UserError


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
