"""Tensors on their way from data-loading workers, where shared memory may be short.

torch puts a worker's tensors into /dev/shm. A default Docker container has 64 MB of it: there a
worker dies, or all of them wait for ever. Here a tensor for which there may be no room travels
through the worker's pipe instead, which is slower and always works.
"""

import os
import shutil
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_storage
from torch.utils.data import default_collate, get_worker_info
from torch.utils.data._utils.collate import collate, default_collate_fn_map

PLACE = '/dev/shm'


def has_room(size: int) -> bool:
    """Return whether all workers of this machine can put so many bytes into shared memory now."""
    worker = get_worker_info()
    workers = worker.num_workers if worker is not None else 1
    at_once = workers * int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    try:
        return shutil.disk_usage(PLACE).free > 2 * at_once * size
    except OSError:
        return False


def install() -> None:
    """Let every tensor that leaves a process of this one go where there is room for it."""
    ForkingPickler.register(torch.UntypedStorage, _reduce)


def collate_where_there_is_room(items: list[Any]) -> Any:
    """Return what `default_collate` returns, whose tensors are shared only where there is room."""
    return collate(items, collate_fn_map={**default_collate_fn_map, torch.Tensor: _stack})


def _stack(tensors: list[torch.Tensor], *, collate_fn_map: Any = None) -> torch.Tensor:
    if has_room(sum(tensor.nbytes for tensor in tensors)):
        return default_collate(tensors)
    return torch.stack(tensors)


def _reduce(storage: torch.UntypedStorage) -> tuple[Any, ...]:
    """Return how `storage` is rebuilt in the process that it goes to."""
    if storage.device.type != 'cpu' or storage.is_shared() or has_room(storage.nbytes()):
        return reduce_storage(storage)
    content = torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()
    return _rebuilt, (content,)


def _rebuilt(content: bytes) -> torch.UntypedStorage:
    if not content:
        return torch.UntypedStorage(0)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage()
