"""An evaluation in a process of its own: a crash ends that process alone, and gives memory back."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproduce.base.errors import UserError
from reproduce.base.processes import end_with_parent, in_group


def evaluate(
    task: str,
    model: str,
    checkpoint: Path,
    data: Path,
    output: Path,
    arguments: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    multi_scale: bool = False,
    **options: Any,
) -> Path:
    """Run `python -m reproduce evaluate` in a new process, and return the path of its record.

    Args:
        task, model, checkpoint, data, arguments, preprocessing, multi_scale: as in a `Job`.
        output: the folder of the record.
        options: further options of the command by name; those that are None are left out.

    Raises:
        UserError: with the last line that the process printed, if it fails.
    """
    if in_group():
        raise UserError(
            'this command starts processes itself: call it once, without torchrun, and give '
            '--processes.'
        )
    command = [sys.executable, '-m', 'reproduce', 'evaluate', task]
    command += [model] if task == 'imagenet' else ['--config', model]
    options = {'checkpoint': checkpoint, 'data': data, 'output': output} | options
    for name, value in {**options, **(preprocessing or {}), 'multi_scale': multi_scale}.items():
        if value is None or value is False:
            continue
        values = [] if value is True else value if isinstance(value, list | tuple) else [value]
        command += [f'--{name.replace("_", "-")}', *map(str, values)]
    if arguments:
        entries = (f'{name}={value}'.replace(' ', '') for name, value in arguments.items())
        command += ['--model-kwargs' if task == 'imagenet' else '--cfg-options', *entries]
    done = subprocess.run(
        [*command, '--format', 'json'],
        capture_output=True,
        text=True,
        errors='replace',
        preexec_fn=end_with_parent,  # it imports nothing and holds no lock
    )
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise UserError(f'its process was ended by {name}, as when the memory is full.')
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f'it ended with status {done.returncode}.']
        raise UserError(lines[-1].removeprefix('error: '))
    return Path(json.loads(done.stdout)['written'])
