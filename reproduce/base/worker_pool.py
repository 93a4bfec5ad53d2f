"""Independent computations, divided among processes of this machine."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from reproduce.base.errors import UserError
from reproduce.base.quiet import quiet_libraries


def in_processes(
    compute: Callable[..., Mapping[str, Any]],
    arguments: Mapping[str, tuple[Any, ...]],
    what: str,
) -> dict[str, Mapping[str, Any] | str]:
    """Return `compute(*arguments[name])` of every name, or the exception that it raised, as text.

    They are computed in new processes, one for each core and at most 8, which ignore Ctrl-C.

    Args:
        what: what is done, for the progress on standard error.

    Raises:
        UserError: if one is raised, or a process is killed.
    """
    # A process that builds detectors holds mmdet and mmseg, nearly 1 GB.
    processes = min(8, len(os.sched_getaffinity(0)))
    spawn, ignore = multiprocessing.get_context('spawn'), (signal.SIGINT, signal.SIG_IGN)
    results = {}
    with ProcessPoolExecutor(processes, spawn, signal.signal, ignore) as pool:
        started = {pool.submit(_tried, compute, *a): name for name, a in arguments.items()}
        try:
            for done in as_completed(started):
                name = started[done]
                results[name] = done.result()
                print(f'{what}: {len(results)}/{len(arguments)} {name}', file=sys.stderr)
        except BrokenProcessPool as error:
            raise UserError('a worker process was killed, as when memory is full.') from error
        finally:
            pool.shutdown(cancel_futures=True)
    return results


def _tried(compute: Callable[..., Mapping[str, Any]], *arguments: Any) -> Mapping[str, Any] | str:
    with quiet_libraries():
        try:
            return compute(*arguments)
        except UserError:
            raise
        except Exception as error:  # whatever a model raises, not all of which can be pickled
            return f'{type(error).__name__}: {error}'.splitlines()[0]
