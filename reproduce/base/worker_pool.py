"""Computations that do not need each other, divided among processes of this machine."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from reproduce.base.errors import UserError
from reproduce.base.progress import progress
from reproduce.base.quiet import quiet_libraries

# Each process that builds detectors holds mmdet and mmseg: nearly 1 GB.
_MOST_PROCESSES = 8


@contextmanager
def worker_pool(most: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of new processes, one for each core; Ctrl-C is left to the process that waits.

    Args:
        most: the largest number of processes.

    Raises:
        UserError: if one of them is killed.
    """
    cores = len(os.sched_getaffinity(0))
    processes = cores if most is None else min(cores, most)
    spawn = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(processes, spawn, _ignore_interrupts) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise UserError(
                'a process that computed a part of this was killed, as when memory is full: close '
                'other programs, and run the same command again.'
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def in_processes(
    compute: Callable[..., Mapping[str, Any]],
    arguments: Mapping[str, tuple[Any, ...]],
    what: str,
) -> dict[str, Mapping[str, Any] | str]:
    """Return `compute(*arguments[name])` of every name, or the exception that it raised, as text.

    There is one process for each of the machine's cores. One computation that fails does not keep
    the others from being done.

    Args:
        what: what is done, for the progress on standard error.

    Raises:
        UserError: if one is raised, or a process is killed.
    """
    results: dict[str, Mapping[str, Any] | str] = {}
    with (
        progress(what, len(arguments)) as step_done,
        worker_pool(min(len(arguments), _MOST_PROCESSES)) as pool,
    ):
        started = {pool.submit(_tried, compute, *a): name for name, a in arguments.items()}
        for done in as_completed(started):
            name = started[done]
            results[name] = done.result()
            step_done(name)
    return results


def _tried(compute: Callable[..., Mapping[str, Any]], *arguments: Any) -> Mapping[str, Any] | str:
    with quiet_libraries():
        try:
            return compute(*arguments)
        except UserError:
            raise
        except Exception as error:  # whatever a foreign model raises, not all of it can be sent
            return f'{type(error).__name__}: {error}'.splitlines()[0]
