"""The output folder of a training: claiming it, and writing weights and times."""

import json
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import save

from reproduce.base.errors import UserError
from reproduce.base.files import check_writable, write_atomically
from reproduce.base.processes import Group

# What a training with `--max-steps` measured.
STEPS = 'steps.json'


@contextmanager
def claimed(folder: Path, group: Group) -> Iterator[None]:
    """Keep `folder` for these processes alone, from before anything is read until all is written.

    Raises:
        UserError: if files cannot be made in it, or another process writes into it.
    """
    with ExitStack() as stack:
        if group.rank == 0:
            check_writable(folder)
            try:
                stack.enter_context(FileLock(folder / '.lock', timeout=0))
            except Timeout as error:
                raise UserError(
                    f'another process writes into {folder}: wait for its end, or name another '
                    'folder with --output.'
                ) from error
        group.barrier()
        yield


def check_resumed(folder: Path, has_checkpoint: bool, is_resumed: bool) -> None:
    """Raise a `UserError` unless a folder with a checkpoint, and no other, is resumed."""
    if is_resumed and not has_checkpoint:
        raise UserError(f'{folder} holds no checkpoint: leave out --resume to begin.')
    if has_checkpoint and not is_resumed:
        raise UserError(
            f'{folder} holds a training already: add --resume to continue it, or name another '
            'folder.'
        )


def weights_file(weights: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a file of safetensors with its metadata sorted by key.

    The library writes metadata in an order that differs from one process to the next, and with it
    the file's hash, by which records name weights.
    """
    content = save(dict(weights), dict(metadata))
    length = int.from_bytes(content[:8], 'little')
    header = json.loads(content[8 : 8 + length])
    header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
    text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
    text += b' ' * (-len(text) % 8)  # the tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, 'little') + text + content[8 + length :]


class StepMeter:
    """Measures steps of `images` in all processes; this one waits for its device around each."""

    def __init__(self, device: torch.device, images: int) -> None:
        self.device, self.images = device, images
        self.times = [time.perf_counter()]

    def tick(self) -> None:
        """Note the time; called when the batch of a step has been read, and after the step."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        self.times.append(time.perf_counter())

    def write(self, folder: Path, loss: float) -> None:
        """Write means over the steps but the first, in which workers and devices start."""
        spans = np.diff(self.times).reshape(-1, 2)
        waited, computed = spans[min(1, len(spans) - 1) :].mean(0).tolist()
        if self.device.type == 'cuda':
            peak = torch.cuda.max_memory_reserved(self.device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        measured = {
            'images': self.images,
            'seconds': waited + computed,  # of a step
            'waiting_seconds': waited,  # those of them that were spent waiting for data
            'peak_bytes': peak,  # of this process
            'loss': loss,
        }
        write_atomically(folder / STEPS, json.dumps(measured, indent=2) + '\n')
