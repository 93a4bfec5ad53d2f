"""Calls in processes of their own, which give their memory back and may be killed for it."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from signal import Signals
from typing import Any

from reproduce.errors import UserError


class OutOfMemory(UserError):
    """The end of a process whose memory, or whose GPU's, did not hold what it worked on."""


def call(function: Callable[..., Any], *arguments: Any, log: Path) -> Any:
    """Return `function(*arguments)`, called in a new process.

    Where the memory of the machine is full, the kernel kills that process before any other.

    Args:
        function: an importable function; it, its arguments and its result are pickled.
        log: the file that the process prints into.

    Raises:
        OutOfMemory: if the process was killed, as when the memory of the machine is full, or the
            memory of a GPU was too small.
        UserError: if the function raises it, or the process ends in another way.
    """
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, log, function, arguments))
    process.start()
    sender.close()
    try:
        kind, value = receiver.recv()
    except EOFError:
        kind, value = 'ended', None
    finally:
        if sys.exc_info()[0] is not None:
            process.terminate()
        process.join()
    if kind == 'result':
        return value
    if kind == 'error':
        raise value
    code = process.exitcode
    if code == -Signals.SIGKILL:
        raise OutOfMemory('it was killed, as when the memory of the machine is full')
    how = f'by the signal {Signals(-code).name}' if code < 0 else f'with status {code}'
    raise UserError(f'its process was ended {how}')


def _answer(
    sender: Connection, log: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Call the function, and send what it returns or why it failed."""
    # Imported here, so that the process that only waits does not hold torch.
    import torch

    from reproduce.distributed import end_with_the_parent

    end_with_the_parent()
    Path('/proc/self/oom_score_adj').write_text('1000')
    with log.open('a') as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    try:
        sender.send(('result', function(*arguments)))
    except torch.OutOfMemoryError as error:
        sender.send(('error', OutOfMemory(str(error).partition('\n')[0])))
    except UserError as error:
        memory = isinstance(error.__context__, torch.OutOfMemoryError) or 'SIGKILL' in str(error)
        sender.send(('error', OutOfMemory(str(error)) if memory else UserError(str(error))))
    except Exception as error:
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f'{type(error).__name__}: {error}'.partition('\n')[0]
        place = f'{Path(where.filename).name}, line {where.lineno}'
        sender.send(('error', UserError(f'{reason} ({place})')))
