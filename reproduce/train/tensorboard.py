"""TensorBoard, which is an optional dependency."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.base.errors import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def check_installed() -> None:
    """Check that TensorBoard can be written.

    Raises:
        UserError: if it is not installed.
    """
    if find_spec('tensorboard') is None:
        raise UserError(
            '--tensorboard needs TensorBoard, which is not installed: run '
            '`pip install tensorboard`, or leave the option out.'
        )


def open_writer(folder: Path, step: int) -> 'SummaryWriter':
    """Return a writer of scalars into `folder`, where what was written from `step` on is replaced.

    Raises:
        UserError: if TensorBoard is not installed.
    """
    check_installed()
    # Not every installation has it, and it takes seconds to import.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=step)
