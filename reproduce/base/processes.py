"""Several processes for one command: how they start, work together, fail and stop.

`--processes N` starts the same command again in N ranks on this machine, under torch's launcher, as
torchrun does on several machines. Each rank joins a `Group` and does its share. A rank that fails
prints its sentence and exits; the launcher then ends the others.

torch is imported where it is needed: the command line imports this module before it knows which
command is called.
"""

import ctypes
import json
import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import psutil

from reproduce.base.errors import UserError, first_line
from reproduce.base.wording import shortened

if TYPE_CHECKING:
    import torch

# SIGTERM is what a scheduler sends before it kills a job; SIGUSR1 is what Slurm sends ahead of time
# with --signal=USR1@SECONDS.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

# One process may score all of COCO, which takes pycocotools minutes, while the others wait in a
# collective operation. NCCL's own limit is ten minutes.
_TIMEOUT = timedelta(hours=2)

# The option of prctl(2) that sets the signal sent to a process when its parent ends.
_PR_SET_PDEATHSIG = 1

# What libraries say of errors that the user can fix, and how.
_ADVICE = {
    "out of memory|_STATUS_ALLOC_FAILED|can't allocate memory|not enough memory": (
        'lower the batch size'
    ),
    'no kernel image': (
        'install a torch that has kernels for this GPU, for V100 with '
        'CONSTRAINTS=requirements/v100.txt'
    ),
    'does not have a deterministic implementation': 'leave out --deterministic',
    'DataLoader worker': (
        'give the machine more memory or, in Docker, more shared memory with --shm-size, or lower '
        '--workers'
    ),
}

# Seconds before a rank other than the first prints its error, and before one prints that it lost
# another. The launcher ends it within them if the rank that has the cause exited.
_AFTER_FIRST_RANK, _AFTER_LOST_PEER = 5.0, 12.0


class PeerLost(UserError):
    """A collective operation failed because another rank has ended."""


def in_group() -> bool:
    """Return whether torchrun or `start_again` started this process as one of its ranks."""
    return 'TORCHELASTIC_RUN_ID' in os.environ


def rank() -> int:
    """Return the rank of this process, 0 outside of a group."""
    return int(os.environ['RANK']) if in_group() else 0


def start_again(processes: int) -> None:
    """Run this command in `processes` ranks and exit with their status; return in a rank.

    Every command that takes --processes calls it first. With one process it returns, too.

    Raises:
        UserError: if a rank was ended by a signal.
    """
    if in_group():
        end_with_parent()
        # The launcher gets Ctrl-C as well; no rank and none of its workers prints a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    elif processes > 1:
        sys.exit(start(processes, '-m', 'reproduce', *sys.argv[1:]))


def start(processes: int, *arguments: str) -> int:
    """Run `python ARGUMENTS` in `processes` ranks on this machine, and return their exit status.

    It is that of the rank that failed first. SIGTERM and SIGUSR1 are passed on to the ranks, which
    then may take as long as they need to save; torch's launcher would kill them after 30 seconds.

    Raises:
        UserError: if a rank was ended by another signal.
    """
    from torch.distributed.elastic.agent.server.api import SignalException
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def pass_on(number: int, frame: object) -> None:
        ranks = psutil.Process().children()
        if not ranks:
            sys.exit(128 + number)
        for process in ranks:
            process.send_signal(number)

    handlers = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    logging.disable(logging.CRITICAL)  # torch's launcher reports each failure in a table of its own
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=processes,
                rdzv_backend='c10d',
                rdzv_endpoint='localhost:0',
                run_id=uuid.uuid4().hex,
                max_restarts=0,
                monitor_interval=0.1,
                logs_specs=DefaultLogsSpecs(log_dir=folder),
                signals_to_handle='SIGINT,SIGHUP,SIGQUIT',
            )
            elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        failed, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        number = -failure.exitcode
        if number in STOP_SIGNALS:
            return 128 + number
        full = ', as when the memory of the machine is full' if number == signal.SIGKILL else ''
        name = signal.Signals(number).name
        raise UserError(f'rank {failed} of {processes} was ended by {name}{full}.') from None
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        return 128 + error.sigval
    finally:
        logging.disable(logging.NOTSET)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def end_with_parent(with_signal: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, with_signal)


def speaks(error: BaseException) -> bool:
    """Return whether this rank prints its error, after the launcher had time to end this rank.

    So an error of all ranks is printed once, and one that follows from another rank's is not.
    """
    if not in_group():
        return True
    if isinstance(error, PeerLost):
        time.sleep(_AFTER_LOST_PEER)
    elif rank() > 0:
        time.sleep(_AFTER_FIRST_RANK)
    return rank() == 0 or not getattr(error, 'everywhere', False)


def leave(status: int) -> NoReturn:
    """Exit with a status; a rank does so at once, before later ranks print the same error."""
    if in_group():
        for worker in multiprocessing.active_children():
            worker.terminate()
        sys.stdout.flush()
        os._exit(status)  # libraries take seconds to end on a busy machine
    sys.exit(status)


@dataclass(frozen=True)
class Group:
    """The processes that work on one command, as one of them sees them."""

    rank: int
    size: int  # the world size
    local_size: int  # the number of processes on this machine
    device: 'torch.device'  # what this process computes on

    def check_same(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Check that all ranks have the same facts: whatever decides the numbers.

        Args:
            facts: returns values by what they are called in the error. It is not called for a
                single process, since hashing weights and images takes time.

        Raises:
            UserError: if a value differs; in all ranks.
        """
        if self.size == 1:
            return
        import torch.distributed as dist

        found: list[dict[str, str]] = [{}] * self.size
        own = {
            name: json.dumps(value, sort_keys=True, default=str) for name, value in facts().items()
        }
        dist.all_gather_object(found, own)
        for name in dict.fromkeys(name for of_rank in found for name in of_rank):
            values = [of_rank.get(name) for of_rank in found]
            others = [i for i, value in enumerate(values) if value != values[0]]
            if others:
                error = UserError(
                    f'the ranks do not have the same {name}: rank {shortened(others)} differs from '
                    'rank 0. Start all of them with the same code, command, weights and data.'
                )
                error.everywhere = True
                raise error

    def add(self, tensor: 'torch.Tensor') -> 'torch.Tensor':
        """Return the sum of `tensor` over all ranks, on the CPU."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor.cpu()

    def gather(self, part: list[Any]) -> list[Any] | None:
        """Return the parts of all ranks in one list in rank 0, and None in the others."""
        if self.size == 1:
            return part
        import torch.distributed as dist

        parts: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(part, parts)
        return None if parts is None else [item for part in parts for item in part]

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()


@contextmanager
def join(device: str | None = None) -> Iterator[Group]:
    """Join the ranks that torchrun or `start_again` started, or give a group of this process.

    NCCL connects GPUs, gloo CPUs. Processes on CPUs share the cores of their machine.

    Args:
        device: 'cpu' or 'cuda'; None takes GPUs where there are some.

    Raises:
        UserError: if there are fewer GPUs than processes on this machine; or, from the body, for an
            error of torch that the user can fix.
    """
    import torch
    import torch.distributed as dist

    on_cpu = device == 'cpu' or (device is None and not torch.cuda.is_available())
    size, local_rank, local_size = 1, 0, 1
    if in_group():
        names = ('WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE')
        size, local_rank, local_size = (int(os.environ[name]) for name in names)
    chosen = torch.device('cpu')
    if not on_cpu:
        if local_size > (gpus := torch.cuda.device_count()):
            raise UserError(
                f'there are {gpus} GPUs for {local_size} processes on this machine: lower '
                '--processes, or use --device cpu.'
            )
        chosen = torch.device('cuda', local_rank)
        torch.cuda.set_device(chosen)
    group = Group(rank(), size, local_size, chosen)
    try:
        if not in_group():
            yield group
            return
        if on_cpu and 'OMP_NUM_THREADS' not in os.environ:
            # The number of threads decides the order of sums, and with it the last digits.
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
        backend = {'backend': 'gloo'} if on_cpu else {'backend': 'nccl', 'device_id': chosen}
        dist.init_process_group(timeout=_TIMEOUT, **backend)
        try:
            yield group
        except BaseException:
            # NCCL would wait for the other ranks here, which may never come.
            dist.destroy_process_group() if on_cpu else dist.group.WORLD.abort()
            raise
        dist.destroy_process_group()
    except (RuntimeError, MemoryError) as error:
        if (explained := _explained(error, group)) is None:
            raise
        raise explained from error


def _explained(error: Exception, group: Group) -> UserError | None:
    """Return one sentence for an error of torch that the user can fix; None for any other."""
    import torch.distributed as dist

    first = first_line(error)
    for said, advice in _ADVICE.items():
        if re.search(said, str(error), re.IGNORECASE):
            return UserError(f'{group.device}: {first}: {advice}.')
    if isinstance(error, MemoryError):
        return UserError('the memory of the machine is full: lower the batch size.')
    if isinstance(error, dist.DistBackendError) and 'remote' not in str(error):
        return UserError(f'NCCL failed: {first}. NCCL_DEBUG=INFO prints the details.')
    if group.size > 1 and (isinstance(error, dist.DistError) or 'gloo' in first):
        return PeerLost(f'rank {group.rank} of {group.size} lost its connection to another rank.')
    return None
