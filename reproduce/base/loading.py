"""Reading a data set in worker processes, with errors that keep their type and sentence."""

import os
import pickle
import shutil
import traceback
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from reproduce.base.errors import UserError

# torch's workers put the tensors of batches there. A default Docker container has 64 MB of it.
SHARED_MEMORY = '/dev/shm'


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
    """torch's `DataLoader`, which raises a `UserError` of a worker as the data set raised it."""

    checked = False

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches; the workers end with the iteration, unless they are persistent.

        Raises:
            UserError: at the first batch with an item that cannot be read; or if /dev/shm is too
                small for the batches of the workers.
        """
        if self.num_workers and not self.checked:
            self._check_shared_memory()
        batches, raised = super().__iter__(), None
        try:
            yield from batches
        except UserError as error:
            # torch puts the traceback of the worker, as text, into the exception.
            first, *others = str(error).splitlines()
            raised = type(error)(others[-1].partition(': ')[2] if others else first)
            traceback.clear_frames(error.__traceback__)  # they refer to the batches
        finally:
            del batches  # left to the garbage collector, workers take five seconds to end
        if raised is not None:
            raise raised

    def _check_shared_memory(self) -> None:
        """Check that /dev/shm holds what the workers read ahead; torch's would hang or die."""
        self.checked = True
        first = next(iter(self.batch_sampler), ())
        if not first or not os.path.exists(SHARED_MEMORY):
            return
        batch = len(first) * len(pickle.dumps(self.collate_fn([self.dataset[first[0]]])))
        processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        needed = batch * self.prefetch_factor * self.num_workers * processes
        if (free := shutil.disk_usage(SHARED_MEMORY).free) < needed:
            raise UserError(
                f'{SHARED_MEMORY} is too small for {self.num_workers} data-loading workers in each '
                f'process: {free >> 20} MiB are free, and their batches take {needed >> 20}. Give '
                'it more, in Docker with --shm-size, or use fewer with --workers.'
            )
