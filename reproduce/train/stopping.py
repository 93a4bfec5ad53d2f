"""Ending a training early, in all of its ranks after the same step."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

from reproduce.base.errors import UserError
from reproduce.base.processes import STOP_SIGNALS, Group

# The file that a stopped training leaves in its output folder: a job script that finds it puts the
# job into the queue again, whatever status the scheduler reports.
MARKER = 'stopped'

_SIGNALS = (*STOP_SIGNALS, signal.SIGINT)

# Steps between the comparisons of what the ranks have received.
_STEPS = 4


class TrainingStopped(UserError):
    """A training was asked to stop, and has written a checkpoint that it can be resumed from.

    Its exit status is the one that a shell reports for a process that the signal has ended.
    """

    label = 'stopped'
    everywhere = True

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.status = 128 + number


class StopRequests:
    """Receives the signals that ask a training to stop, while it is the context.

    A signal may reach one rank before another, or only one of them, so they compare what they have
    received every few steps.

    Args:
        group: the ranks that train together.
        folder: where `MARKER` is left if the training is stopped; it is removed at the beginning.
    """

    def __init__(self, group: Group, folder: Path) -> None:
        self.group, self.marker = group, folder / MARKER
        self.received = self.steps = 0

    def __enter__(self) -> 'StopRequests':
        if self.group.rank == 0:
            self.marker.unlink(missing_ok=True)
        if self.group.size > 1:
            # On CPUs, so that reading the result does not wait for a GPU.
            self.on_cpus = dist.new_group(backend='gloo')
        self.handlers = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if isinstance(error, TrainingStopped) and self.group.rank == 0:
            self.marker.touch()

    def agreed(self) -> signal.Signals | None:
        """Return the signal that asks the training to stop now; the same in all ranks.

        All ranks call it after each step.
        """
        self.steps += 1
        if self.group.size > 1:
            if self.steps % _STEPS:
                return None
            largest = torch.tensor(self.received)
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.on_cpus)
            self.received = int(largest)
        return signal.Signals(self.received) if self.received else None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self.group.size == 1:  # ranks get it twice: from the terminal, and from torchrun
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one ends it at once


def survive_signals(worker: int) -> None:
    """Keep a data-loading worker alive when another process than the training signals it.

    Schedulers and terminals signal all processes of a job. The training needs its workers until it
    has stopped, and then ends them by SIGTERM itself. `DataLoader` calls it in each worker.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    parent = multiprocessing.parent_process().pid

    def end_when_the_parent_asks() -> None:
        while signal.sigwaitinfo(_SIGNALS).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=end_when_the_parent_asks, daemon=True).start()
