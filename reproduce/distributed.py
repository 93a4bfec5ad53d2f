"""Several processes, on one node or many, that count every sample exactly once."""

import logging
import os
import re
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import SignalException
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from reproduce.errors import UserError


@dataclass(frozen=True)
class Group:
    """The processes that work on one job, seen from one of them.

    Attributes:
        rank, size: which of how many this one is.
        local_size: how many share this machine.
        device: what this one computes on.
    """

    rank: int
    size: int
    local_size: int
    device: torch.device
    store: dist.Store

    def fail(self, message: str) -> None:
        """Tell the others what stops the job; the first message counts."""
        self.store.compare_set('failure', '', message)

    @property
    def failed(self) -> bool:
        """Whether one of the processes has called `fail`."""
        return self.store.check(['failure'])

    def agree(self) -> None:
        """Wait for the others.

        Raises:
            UserError: in all processes, if one of them has failed.
        """
        if self.size > 1:
            dist.barrier()
        if self.failed:
            raise UserError(self.store.get('failure').decode())

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, on the CPU."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor.cpu()

    def gather(self, part: list[Any]) -> list[Any] | None:
        """The parts of all processes in one list, in the first of them; None in the others."""
        if self.size == 1:
            return part
        parts = [None] * self.size if self.rank == 0 else None
        dist.gather_object(part, parts)
        return None if parts is None else [item for part in parts for item in part]


@contextmanager
def join(device: str | None = None) -> Iterator[Group]:
    """The group that torchrun, srun or `launch` started this process in, or one of it alone.

    NCCL connects GPUs, gloo CPUs. Processes on CPUs share the cores of their machine.

    Args:
        device: 'cpu' or 'cuda'; None takes the GPUs where there are some.

    Raises:
        UserError: if there are fewer GPUs than processes on this machine.
    """
    if _in_slurm():
        _as_torchrun()
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    local_rank = int(os.environ.get('LOCAL_RANK', 0))
    local_size = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if device == 'cuda' and local_size > torch.cuda.device_count():
        raise UserError(
            f'{local_size} processes have {torch.cuda.device_count()} GPUs on this machine: '
            'expected one for each; start fewer, or take --device cpu.'
        )
    chosen = torch.device(device, local_rank) if device == 'cuda' else torch.device(device)
    if device == 'cuda':
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
        device_id=chosen if device == 'cuda' else None,
    )
    try:
        yield Group(rank, size, local_size, chosen, dist.PrefixStore('job', store))
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)


def in_group() -> bool:
    """Whether torchrun, srun (with more than one task) or `launch` started this process."""
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


def _in_slurm() -> bool:
    # An interactive shell under srun is one task, and starts its processes itself.
    return 'SLURM_PROCID' in os.environ and int(os.environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1


def _as_torchrun() -> None:
    """Tell torch what srun told this process, as torchrun would."""
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


def launch(function: Callable[..., Any], arguments: tuple, processes: int) -> Any:
    """What `function(*arguments)` returns in the first of `processes` processes on this machine.

    They are started by torchrun's own launcher. `function` is importable.

    Raises:
        UserError: if they raise one, once for all of them, or if one of them is lost.
    """
    with tempfile.TemporaryDirectory() as logs, _quiet_launcher():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            rdzv_backend='c10d',
            rdzv_endpoint='localhost:0',
            run_id=uuid.uuid4().hex,
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            outcome = elastic_launch(config, _work)(function, arguments)[0]
        except SignalException as stop:
            raise KeyboardInterrupt from stop
        except dist.elastic.multiprocessing.errors.ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise UserError(
                f'process {rank} of {processes} was lost: {failure.message}'.splitlines()[0]
            ) from error
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def _work(function: Callable[..., Any], arguments: tuple) -> Any:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher hears it too, and ends this one
    try:
        return function(*arguments)
    except UserError as error:
        return error.with_traceback(None)


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        logging.disable(disabled)
        for number, handler in handlers.items():
            signal.signal(number, handler)
