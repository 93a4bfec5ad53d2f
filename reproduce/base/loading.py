"""Reading a data set in worker processes, with errors that keep their type and sentence."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from reproduce.base.errors import UserError

# torch's workers put the tensors of batches there. A default Docker container has 64 MB of it.
SHARED_MEMORY = Path('/dev/shm')

# Batches that each worker reads ahead: the default of `DataLoader`.
_PREFETCHED = 2


def check_workers(workers: int | None) -> None:
    """Check a number of data-loading workers; None stands for the default.

    Raises:
        UserError: if it is negative.
    """
    if workers is not None and workers < 0:
        raise UserError(f'--workers must be at least 0, got {workers}.')


def default_workers() -> int:
    """Return the number of data-loading workers of this process: one for each core, at most 8.

    The cores are those that Slurm gives to the task, or those that the process may run on. Ranks
    that may run on the same cores share them.
    """
    local_size = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    cores = len(os.sched_getaffinity(0))
    if of_task := os.environ.get('SLURM_CPUS_PER_TASK'):
        cores = int(of_task) // local_size
    elif os.sched_getaffinity(0) == os.sched_getaffinity(os.getppid()):  # not bound to its own
        cores //= local_size
    return min(8, max(1, cores))


class Loader(DataLoader):
    """torch's `DataLoader`, which raises a `UserError` of a worker as the data set raised it.

    torch's own turns it into text. Here a worker returns it as the batch.

    Args:
        dataset: a data set with indices.
        collate: makes a batch of a list of items.
        options: further arguments of `DataLoader`.

    Raises:
        UserError: if /dev/shm is too small for the batches of the workers.
    """

    def __init__(
        self,
        dataset: Dataset,
        collate: Callable[[list[Any]], Any] = default_collate,
        **options: Any,
    ) -> None:
        super().__init__(_Batches(dataset, collate), collate_fn=_unchanged, **options)
        self.checked = not self.num_workers

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches; the workers end with the iteration, unless they are persistent.

        Raises:
            UserError: at the first batch with an item that cannot be read.
        """
        if not self.checked:
            self._check_shared_memory()
        batches = super().__iter__()
        try:
            for batch in batches:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        finally:
            del batches  # left to the garbage collector, workers take five seconds to end

    def _check_shared_memory(self) -> None:
        """Check that /dev/shm holds what the workers read ahead; torch's would hang or die."""
        self.checked = True
        first = next(iter(self.batch_sampler), None)
        one = first and self.dataset.__getitems__(first[:1])
        processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        needed = _nbytes(one) * len(first or ()) * _PREFETCHED * self.num_workers * processes
        free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else 0
        if free < needed:
            raise UserError(
                f'{SHARED_MEMORY} is too small for {self.num_workers} data-loading workers in each '
                f'process: {free >> 20} MiB are free, and their batches take {needed >> 20}. Give '
                'it more, in Docker with --shm-size, or use fewer with --workers.'
            )


class _Batches(Dataset):
    """A data set that makes batches, each of which is its error where it cannot be read."""

    def __init__(self, dataset: Dataset, collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[Any]) -> Any:
        try:
            return self.collate([self.dataset[index] for index in indices])
        except UserError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch


def _nbytes(batch: Any) -> int:
    """Return the number of bytes of the tensors in a batch."""
    if isinstance(batch, torch.Tensor):
        return batch.nbytes
    if isinstance(batch, Mapping):
        return sum(map(_nbytes, batch.values()))
    return sum(map(_nbytes, batch)) if isinstance(batch, list | tuple) else 0
