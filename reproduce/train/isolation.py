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
from reproduce.base.processes import end_with_parent, in_group, rank, speaks, start
from reproduce.base.versions import CHECKOUT


def call(function: Callable[..., Any], *arguments: Any, log: Path, processes: int = 1) -> Any:
    """Return `function(*arguments)`, called in a new process, or what it returns in the first rank.

    Where the memory of the machine is full, the kernel kills that process before any other.

    Args:
        function: an importable function; it, its arguments and its result are pickled.
        log: the file that the process prints into; question and answer are files beside it.
        processes: the number of ranks that the function is called in.

    Raises:
        OutOfMemory: if the process was killed, as when the memory of the machine is full, or the
            memory of a GPU was too small.
        UserError: if the function raises it, or fails in another way.
    """
    question, answer = (log.with_name(f'{log.name}.{name}') for name in ('question', 'answer'))
    answer.unlink(missing_ok=True)
    # The paths come first: the function may be found on one of them only.
    question.write_bytes(pickle.dumps((sys.path, pickle.dumps((function, arguments)))))
    with log.open('a') as file:
        process = subprocess.Popen(
            [sys.executable, '-m', __name__, question, answer, str(processes)],
            cwd=CHECKOUT,
            stdout=file,
            stderr=file,
            start_new_session=True,  # an interrupt is for the process that waits here
        )
    try:
        process.wait()
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


def _answer(question: Path, path: Path, processes: int) -> None:
    """Call the function of a question, and write its result or its error to `path`."""
    end_with_parent()
    Path('/proc/self/oom_score_adj').write_text('1000')
    sys.path, call = pickle.loads(question.read_bytes())
    result = error = None
    try:
        if processes > 1 and not in_group():
            sys.exit(start(processes, '-m', 'reproduce.train.isolation', *sys.argv[1:]))
        function, arguments = pickle.loads(call)
        result = function(*arguments)
    except UserError as failure:
        error = failure
    except Exception as failure:
        traceback.print_exc()
        where = traceback.extract_tb(failure.__traceback__)[-1]
        reason = f'{type(failure).__name__}: {failure}'.partition('\n')[0]
        error = UserError(f'{reason} ({Path(where.filename).name}, line {where.lineno})')
    if (rank() and error is None) or (error is not None and not speaks(error)):
        return
    unfinished = path.with_name(f'{path.name}.unfinished')
    unfinished.write_bytes(pickle.dumps((result, error)))
    os.replace(unfinished, path)
    sys.exit(0 if error is None else error.status)


if __name__ == '__main__':
    _answer(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
