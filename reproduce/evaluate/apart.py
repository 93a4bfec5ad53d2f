"""Commands in processes of their own: a crash ends that process alone, and gives memory back."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproduce.base.errors import UserError
from reproduce.base.folders import PAPER_OPTION
from reproduce.base.processes import end_with_parent, in_group
from reproduce.tasks import TASKS


def evaluate_command(
    task: str,
    model: str,
    checkpoint: str | Path,
    data: str | Path,
    arguments: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[str]:
    """Return the arguments of `python -m` that evaluate a model.

    Args:
        task, model, checkpoint, data, arguments: as in a `Job`.
        preprocessing, options: options of the command by their names in a record; True for one that
            is a flag. Those that are None or False are left out.
    """
    is_timm = not TASKS[task].scope
    command = ['reproduce', *shlex.split(PAPER_OPTION), 'evaluate', task]
    command += [model] if is_timm else ['--config', model]
    options = {'checkpoint': checkpoint, 'data': data, **options, **(preprocessing or {})}
    for name, value in options.items():
        if value is not None and value is not False:
            values = [] if value is True else value if isinstance(value, list | tuple) else [value]
            command += [f'--{name.replace("_", "-")}', *map(str, values)]
    if arguments:
        entries = (f'{name}={value}'.replace(' ', '') for name, value in arguments.items())
        command += ['--model-kwargs' if is_timm else '--cfg-options', *entries]
    return command


def evaluate(*what: Any, **options: Any) -> Path:
    """Run `python -m reproduce evaluate` in a new process, and return the path of its record.

    Args:
        what, options: as in `evaluate_command`; `output` is the folder of the record.

    Raises:
        UserError: with the last line that the process printed, if it fails.
    """
    if in_group():
        raise UserError(
            'this command starts processes itself: call it once, without torchrun, and give '
            '--processes.'
        )
    status, printed, error = run(*evaluate_command(*what, **options), '--format', 'json')
    if status < 0:
        raise UserError(f'its process was ended by {signal.Signals(-status).name}.')
    if status:
        raise UserError(error or f'it ended with status {status}.')
    return Path(json.loads(printed)['written'])


def run(*arguments: Any, folder: Path | None = None) -> tuple[int, str, str]:
    """Run `python -m` with arguments in a new process, which ends with this one.

    Args:
        folder: to run it in; None for that of this process.

    Returns:
        the exit status, the standard output, and the error: the last line of standard error.
    """
    done = subprocess.run(
        [sys.executable, '-m', *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        errors='replace',
        preexec_fn=end_with_parent,  # it imports nothing and holds no lock
    )
    lines = done.stderr.strip().splitlines() or ['']
    return done.returncode, done.stdout, lines[-1].removeprefix('error: ')
