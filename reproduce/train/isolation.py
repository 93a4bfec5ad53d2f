"""Calls in processes of their own, which give their memory back and may be killed for it."""

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from signal import Signals
from typing import Any

from reproduce.base.errors import OutOfMemory, UserError
from reproduce.base.versions import CHECKOUT


def call(function: Callable[..., Any], *arguments: Any, log: Path) -> Any:
    """Return `function(*arguments)`, called in a new process.

    Where the memory of the machine is full, the kernel kills that process before any other.

    Args:
        function: an importable function; it, its arguments and its result are pickled.
        log: the file that the process prints into; the result is written into a file beside it.

    Raises:
        OutOfMemory: if the process was killed, as when the memory of the machine is full, or the
            memory of a GPU was too small.
        UserError: if the function raises it, or fails in another way.
    """
    answer = log.with_name(f'{log.name}.answer')
    answer.unlink(missing_ok=True)
    # The paths come first: the function may be found on one of them only.
    question = pickle.dumps((sys.path, pickle.dumps((function, arguments))))
    with log.open('a') as file:
        process = subprocess.Popen(
            [sys.executable, '-m', __name__, answer],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,  # an interrupt is for the process that waits here
        )
    try:
        process.communicate(question)
    finally:
        process.kill()
        process.wait()
    code = process.returncode
    if answer.is_file():
        result, error = pickle.loads(answer.read_bytes())
        if error is not None:
            raise error
        return result
    if code == -Signals.SIGKILL:
        raise OutOfMemory('it was killed, as when the memory of the machine is full')
    how = f'by the signal {Signals(-code).name}' if code < 0 else f'with status {code}'
    raise UserError(f'its process was ended {how}')


def _answer(path: Path) -> None:
    """Call the function that standard input names, and write its result or its error to `path`."""
    from reproduce.base.distributed import (
        end_with_the_parent,  # here, so that waiting needs no torch
    )

    end_with_the_parent()
    Path('/proc/self/oom_score_adj').write_text('1000')
    sys.path, call = pickle.load(sys.stdin.buffer)
    result = error = None
    try:
        function, arguments = pickle.loads(call)
        result = function(*arguments)
    except UserError as failure:
        error = failure
    except Exception as failure:
        traceback.print_exc()
        where = traceback.extract_tb(failure.__traceback__)[-1]
        reason = f'{type(failure).__name__}: {failure}'.partition('\n')[0]
        error = UserError(f'{reason} ({Path(where.filename).name}, line {where.lineno})')
    unfinished = path.with_name(f'{path.name}.unfinished')
    unfinished.write_bytes(pickle.dumps((result, error)))
    os.replace(unfinished, path)


if __name__ == '__main__':
    _answer(Path(sys.argv[1]))
