"""Work on several processes, on one machine or many, that all succeed or all fail with one error.

`run` is the one way in: it starts the processes, or joins those that torchrun or srun started, and
calls a function with the `Group` in each of them.
"""

import gc
import json
import logging
import os
import pickle
import re
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import SignalException
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from reproduce.errors import UserError
from reproduce.files import write_atomically

# So many seconds are given to the process that failed first to say why.
_PATIENCE = 5.0

_POLL = 0.02

# One process may score all of COCO, which takes pycocotools minutes, while the others wait in a
# collective operation. NCCL's own limit is ten minutes.
_TIMEOUT = timedelta(hours=2)


def run(
    function: Callable[..., Any], *arguments: Any, processes: int = 1, device: str | None = None
) -> Any:
    """Call `function(group, *arguments)` in each of several processes.

    Under torchrun or srun these are the processes that it started, and this one is one of them;
    otherwise `processes` are started on this machine, and for one this process does the work.

    Args:
        function: an importable function; it and the arguments are pickled.
        device: 'cpu' or 'cuda'; None takes GPUs where there are some.

    Returns:
        what the function returned in the first process; None in the others of a launcher.

    Raises:
        UserError: if `processes` is not positive, or if any process fails in a way that its user
            can mend: the same sentence in all of them.
    """
    if processes < 1:
        raise UserError(f'{processes} processes can do no work: give 1 or more.')
    if processes > 1 and not in_group():
        return _launch(function, arguments, processes, device)
    return _work(function, arguments, device)


@dataclass(frozen=True)
class Group:
    """The processes that work on one job, seen from one of them.

    Attributes:
        rank, size: which of how many this one is.
        local_size: how many share this machine.
        device: what this one computes on.
        store: values that all processes read and write.
    """

    rank: int
    size: int
    local_size: int
    device: torch.device
    store: dist.Store

    @property
    def failed(self) -> bool:
        """Whether one of the processes has failed."""
        return self.store.check(['failure'])

    def agree(self) -> None:
        """Wait until every process has come here, however long one of them takes.

        Raises:
            UserError: if one of them has failed instead, with its sentence.
        """
        # The n-th arrival completes round n / size: nobody enters a round before the last is over.
        arrival = self.store.add('arrivals', 1)
        last = -(-arrival // self.size) * self.size
        while True:
            if self.failed:
                raise self._first_failure()
            if self.store.add('arrivals', 0) >= last:
                return
            time.sleep(_POLL)

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let a failure of this process end the others, and one of theirs end this one.

        The processes that are not waiting for the one that failed find out when they look at
        `failed`, or call `agree`.

        Raises:
            UserError: if a process raised one, ran out of memory, or ended without a word: the same
                sentence in all processes.
        """
        try:
            yield
        except UserError as error:
            raise self._first_failure(error) from error.__cause__
        except torch.OutOfMemoryError:
            raise self._first_failure(
                UserError(
                    f'the memory of {self.device} does not hold a batch: lower the batch size.'
                )
            ) from None
        except Exception as error:
            if self.size == 1:
                raise
            if isinstance(error, RuntimeError) and self._hears_of_failure(_PATIENCE):
                raise self._first_failure() from None
            if _is_broken_connection(error):
                raise UserError(
                    f'process {self.rank} of {self.size} lost its connection to another one, which '
                    'ended without an error: look for its end in the log of its machine.'
                ) from error
            self._first_failure(UserError(_described(self.rank, self.size, error)))
            raise

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of `tensor` over all processes, on the CPU."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor.cpu()

    def gather(self, part: list[Any]) -> list[Any] | None:
        """Return the parts of all processes in one list; None in all but the first of them."""
        if self.size == 1:
            return part
        parts = [None] * self.size if self.rank == 0 else None
        dist.gather_object(part, parts)
        return None if parts is None else [item for part in parts for item in part]

    def _first_failure(self, own: UserError | None = None) -> UserError:
        """Return the error of the process that failed first, which is this one if none did."""
        if own is None:
            first = self.store.get('failure')
        else:
            first = self.store.compare_set('failure', '', json.dumps([self.rank, str(own)]))
        rank, message = json.loads(first)
        error = own if own is not None and str(own) == message else UserError(message)
        error.rank = rank
        return error

    def _hears_of_failure(self, seconds: float) -> bool:
        """Return whether another process says within so many seconds that it failed."""
        end = time.monotonic() + seconds
        try:
            while not self.failed and time.monotonic() < end:
                time.sleep(_POLL)
            return self.failed
        except dist.DistError:  # the process that kept the store has ended
            return False


@contextmanager
def join(device: str | None = None) -> Iterator[Group]:
    """Join the group that torchrun, srun or `run` started this process in, or one of it alone.

    NCCL connects GPUs, gloo CPUs. Processes on CPUs share the cores of their machine.

    Args:
        device: 'cpu' or 'cuda'; None takes the GPUs where there are some.

    Raises:
        UserError: if there are fewer GPUs than processes on this machine.
    """
    if _in_slurm():
        _set_torchrun_variables()
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    local_rank = int(os.environ.get('LOCAL_RANK', 0))
    local_size = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    chosen = torch.device(device)
    if device == 'cuda':
        chosen = torch.device(device, _gpu_of(local_rank, local_size, torch.cuda.device_count()))
        torch.cuda.set_device(chosen)
    if not in_group():
        yield Group(0, 1, 1, chosen, dist.HashStore())
        return
    threads = torch.get_num_threads()
    if device == 'cpu':
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
    store, rank, size = next(dist.rendezvous('env://'))
    dist.init_process_group(
        'nccl' if device == 'cuda' else 'gloo',
        store=dist.PrefixStore('group', store),
        rank=rank,
        world_size=size,
        timeout=_TIMEOUT,
        device_id=chosen if device == 'cuda' else None,
    )
    try:
        yield Group(rank, size, local_size, chosen, dist.PrefixStore('job', store))
    except BaseException:
        # NCCL takes its leave together with the others, who may never come.
        if device == 'cuda':
            dist.group.WORLD.abort()
        else:
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()
    torch.set_num_threads(threads)


def in_group() -> bool:
    """Return whether torchrun, srun (with more than one task) or `run` started this process."""
    return dist.is_torchelastic_launched() or _in_slurm()


def check_alone() -> None:
    """Check that no launcher started this process: it will start processes, again and again.

    Raises:
        UserError: if one did.
    """
    if in_group():
        raise UserError(
            'this evaluates several models, one after the other: start it once and give '
            '--processes; under torchrun or srun, evaluate one model at a time.'
        )


def _gpu_of(local_rank: int, local_size: int, gpus: int) -> int:
    """Return the index of a process's GPU among the `gpus` that it sees."""
    # With --gpus-per-task=1 a task of srun sees no GPU but its own. MMEngine reads LOCAL_RANK too.
    if _in_slurm() and gpus == 1:
        os.environ['LOCAL_RANK'] = '0'
        return 0
    if local_size > gpus:
        raise UserError(
            f'{local_size} processes have {gpus} GPUs on this machine: expected one for each; '
            'start fewer, or take --device cpu.'
        )
    return local_rank


def _in_slurm() -> bool:
    # An interactive shell under srun is one task, and starts its processes itself.
    return 'SLURM_PROCID' in os.environ and int(os.environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1


def _set_torchrun_variables() -> None:
    """Set the environment variables of torchrun from those of srun."""
    step = os.environ['SLURM_STEP_NODELIST']
    # The first of 'node[03-05,08]' or 'node03,node08'.
    first = re.sub(r'\[(\d+)[^\]]*\]', r'\1', step).split(',')[0]
    port = 20_000 + int(os.environ['SLURM_JOB_ID']) % 20_000
    for name, value in {
        'RANK': os.environ['SLURM_PROCID'],
        'WORLD_SIZE': os.environ['SLURM_STEP_NUM_TASKS'],
        'LOCAL_RANK': os.environ['SLURM_LOCALID'],
        'LOCAL_WORLD_SIZE': re.match(r'\d+', os.environ['SLURM_STEP_TASKS_PER_NODE'])[0],
        'MASTER_ADDR': first,
        'MASTER_PORT': str(port),
    }.items():
        os.environ.setdefault(name, value)


def _work(function: Callable[..., Any], arguments: tuple, device: str | None) -> Any:
    """Do the part of this process; return the first one's result, and None in the others."""
    try:
        with join(device) as group, group.failing_together():
            result = function(group, *arguments)
    except UserError as error:
        if error.rank != int(os.environ.get('RANK', 0)):
            # A launcher ends all processes once one has ended: this must not be the first one to.
            time.sleep(_PATIENCE)
        raise
    return result if group.rank == 0 else None


def _launch(
    function: Callable[..., Any], arguments: tuple, processes: int, device: str | None
) -> Any:
    """Call `function` in `processes` processes that torchrun's own launcher starts."""
    with tempfile.TemporaryDirectory() as folder, _quiet_launcher():
        # A scheduler's warning, SIGUSR1, reaches every process of a job. This helper of
        # multiprocessing ignores SIGTERM only: it would end, and its successor print errors.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        resource_tracker.ensure_running()
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            rdzv_backend='c10d',
            rdzv_endpoint='localhost:0',
            run_id=uuid.uuid4().hex,
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle='SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1',
        )
        reported = Path(folder) / 'error.pickle'
        try:
            return elastic_launch(config, _work_reporting)(function, arguments, device, reported)[0]
        except (SignalException, ChildFailedError) as error:
            if reported.exists():
                failure = pickle.loads(reported.read_bytes())
                failure.rank = 0  # here it is this process that prints it
            elif isinstance(error, SignalException):
                failure = KeyboardInterrupt()
            else:
                failure = _unreported(*error.get_first_failure(), processes)
        finally:
            # The launcher's store joins its thread when it is deleted. Left to chance that could be
            # in a process forked from this one, which does not have the thread, and would crash.
            gc.collect()
    raise failure


def _work_reporting(
    function: Callable[..., Any], arguments: tuple, device: str | None, reported: Path
) -> Any:
    """Do the part of a process that `_launch` started; leave a `UserError` in a file for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher gets it too, and ends this process
    try:
        return _work(function, arguments, device)
    except UserError as error:
        write_atomically(reported, pickle.dumps(error))
    sys.exit(2)  # then the launcher ends the others


def _unreported(rank: int, failure: ProcessFailure, processes: int) -> Exception:
    """Return the error for a process that a signal, or an error that is no `UserError`, ended."""
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        reason = ', as when the memory of the machine is full' if name == 'SIGKILL' else ''
        return UserError(f'process {rank} of {processes} was ended by the signal {name}{reason}.')
    if not isinstance(failure.message, dict):
        return UserError(f'process {rank} of {processes} ended with status {failure.exitcode}.')
    error = RuntimeError(f'process {rank} of {processes} failed: {failure.message["message"]}')
    error.add_note(failure.message['extraInfo']['py_callstack'])
    return error


def _is_broken_connection(error: Exception) -> bool:
    # gloo raises nothing more special, and names its source file.
    return isinstance(error, dist.DistError) or '/gloo/transport/' in str(error)


def _described(rank: int, size: int, error: Exception) -> str:
    return f'process {rank} of {size} failed: {type(error).__name__}: {error}'.splitlines()[0]


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    handlers = {number: signal.getsignal(number) for number in caught}
    try:
        yield
    finally:
        logging.disable(disabled)
        for number, handler in handlers.items():
            signal.signal(number, handler)
