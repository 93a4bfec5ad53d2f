"""Ending a training early, in all of its processes at the same step."""

import multiprocessing
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from reproduce.base import shared_memory
from reproduce.base.distributed import Group
from reproduce.base.errors import UserError

# SIGTERM is what a scheduler sends before it kills a job, SIGUSR1 what Slurm sends ahead of time
# with --signal=USR1@SECONDS.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class TrainingStopped(UserError):
    """A training that was asked to stop, wrote a checkpoint and can be resumed.

    Its exit status is the one that a shell gives to a process ended by the signal.
    """

    label = 'stopped'

    def by(self, number: int) -> 'TrainingStopped':
        """Set the exit status of the signal `number`, and return the exception."""
        self.status = 128 + number
        return self


class StopRequests:
    """Collects the signals that ask a training to stop, while it is the context.

    A signal may reach one process before another, or only one of them. So the processes agree, at
    a place that all of them pass, whether any has been asked.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.received: int | None = None
        self.rounds = 0
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> 'StopRequests':
        if threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def agreed(self) -> signal.Signals | None:
        """Wait for all processes, and return the signal that one of them got before, if any.

        Raises:
            UserError: if another process has failed.
        """
        if self.group.size == 1:
            return self.received and signal.Signals(self.received)
        self.rounds += 1
        if self.received is not None:
            # Whoever asks first decides the round: nobody is a round ahead of anybody else.
            self.group.store.compare_set('stop', '', f'{self.rounds} {self.received}')
        self.group.agree()
        if not self.group.store.check(['stop']):
            return None
        # A fast process may have asked for the next round already.
        last, number = map(int, self.group.store.get('stop').split())
        return signal.Signals(number) if last <= self.rounds else None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number


def survive_signals(worker: int) -> None:
    """Let a data-loading worker live on when somebody else than the training signals it.

    Schedulers send their signals to all processes of a job. The training needs its workers until it
    has stopped, and then ends them by SIGTERM itself.

    Args:
        worker: its number, as `DataLoader` passes it.
    """
    shared_memory.install()  # mmengine's loaders come here and pass no other code of this project
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_end_when_the_parent_says_so, daemon=True).start()


def _end_when_the_parent_says_so() -> None:
    parent = multiprocessing.parent_process().pid
    while signal.sigwaitinfo(SIGNALS).si_pid != parent:
        pass
    os._exit(0)
