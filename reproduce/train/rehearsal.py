"""A rehearsal: each training takes a few steps at full size, is resumed, and is evaluated.

Each of the three is the command that a user would give, in a process of its own, which may be
killed where memory is short. Its files are removed; they lie in the folder that TMPDIR names.
"""

import fnmatch
import json
import math
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from reproduce.base.errors import UserError
from reproduce.base.processes import in_group
from reproduce.base.versions import CHECKOUT, libraries
from reproduce.evaluate import apart
from reproduce.evaluate.records import device_name
from reproduce.openmmlab.configs import CONFIGS, load_config, task_of
from reproduce.train.jobs import RehearsalRequest
from reproduce.train.output_folder import STEPS
from reproduce.train.recipes import RECIPES, Recipe


def rehearse(request: RehearsalRequest) -> Iterator[dict[str, Any]]:
    """Rehearse the trainings of a request one after the other, and yield a row for each.

    A row has the `name` of the recipe or config and its `failure`, '' if it passes. One that passes
    also has what `StepMeter` wrote, and the `days` of the whole training on complete data without
    evaluations.

    Raises:
        UserError: if the request cannot be carried out. What is wrong with a training is in its
            row.
    """
    if in_group():
        raise UserError('rehearse starts its processes itself: start it once, with --processes.')
    if request.data is None:
        raise UserError(
            'a rehearsal reads images: name their folder with --data, or draw small ones by '
            '`python -m datasets.shapes FOLDER`.'
        )
    trainings = select(request.names)
    with tempfile.TemporaryDirectory(prefix='rehearsal-') as made:
        for name, recipe in trainings.items():
            row: dict[str, Any] = {'name': name, 'failure': ''}
            try:
                row |= _measure(name, recipe, request, Path(made, 'run'))
            except UserError as error:
                row['failure'] = str(error)
            yield row
            shutil.rmtree(Path(made, 'run'), ignore_errors=True)


def select(names: Sequence[str]) -> dict[str, Recipe | None]:
    """Return the trainings of these names, or that match these patterns; all if there is none.

    All are the recipes, and the configs of MAFormer at full size. Any other config can be named.

    Returns:
        the recipe by its name, and None by the name of a config.

    Raises:
        UserError: if there is none of a name.
    """
    files = sorted(path.name for path in CONFIGS.glob('*maformer*.py') if 'shapes' not in path.name)
    known = [*RECIPES, *files]
    chosen: dict[str, Recipe | None] = {}
    for name in names or known:
        found = fnmatch.filter(known, name)
        if not found and not name.endswith('.py'):
            raise UserError(f"there is no recipe or config '{name}': expected {', '.join(known)}.")
        chosen |= {name: RECIPES.get(name) for name in found or [name]}
    return chosen


def _measure(
    name: str, recipe: Recipe | None, request: RehearsalRequest, run: Path
) -> dict[str, float]:
    """Train, resume and evaluate in the folder `run`; return what was measured."""
    data = request.data.absolute()  # the commands are called in the folder of the code
    train = [*_train_command(name, recipe, request), '--data', data, '--output', run, '--max-steps']
    _call(*train, request.steps + 1)
    measured = json.loads((run / STEPS).read_text())
    _call(*train, request.steps + 2, '--resume')
    resumed = json.loads((run / STEPS).read_text())
    if not math.isfinite(measured['loss'] + resumed['loss']):
        raise UserError('the loss is not finite; fp16 may take more --steps to find its scale.')
    if recipe is None:
        config = load_config(name)
        task, schedule = task_of(config), config.train_cfg
        model: list[Any] = ['--config', name]
        epochs, iterations = schedule.get('max_epochs'), schedule.get('max_iters')
    else:
        task, model, epochs, iterations = 'imagenet', [recipe.model], recipe.total_epochs, None
        if recipe.token_labeling:
            model += ['--model-kwargs', 'token_labeling=True']
    model += ['--checkpoint', run / 'model.safetensors', '--limit', 2]
    _call('evaluate', task, *model, '--data', data, '--output', run / 'record')
    images = import_module(f'datasets.{task}').NUM_IMAGES['train']
    steps = iterations or epochs * images / measured['images']
    return {**measured, 'days': steps * measured['seconds'] / 86_400}


def _train_command(name: str, recipe: Recipe | None, request: RehearsalRequest) -> list[Any]:
    """Return the command of a training, but for its data and output."""
    processes = request.processes or max(1, torch.cuda.device_count())
    batch = request.batch_size
    command: list[Any] = ['--processes', processes]
    command += [] if request.amp is None else ['--amp', request.amp]
    if recipe is None:
        command += ['--cfg-options', f'train_dataloader.batch_size={batch}'] if batch else []
        if request.grad_checkpointing:
            command += ['--cfg-options', 'model.backbone.with_cp=True']
        return ['train', 'config', name, *command]
    command += [] if batch is None else ['--set', f'batch_size={batch * processes}']
    command += ['--set', 'grad_checkpointing=true'] * request.grad_checkpointing
    command += ['--token-labeling'] * recipe.token_labeling
    if recipe.token_labeling and request.labels:
        command += ['--labels', request.labels.absolute()]
    return ['train', 'imagenet', recipe.model, '--recipe', name, *command]


def _call(*arguments: Any) -> None:
    """Run a command of this project; the last line of its errors becomes a `UserError`."""
    status, _, error = apart.run('reproduce', *arguments, folder=CHECKOUT)
    if status == -signal.SIGKILL:
        error = 'it was killed, as happens when the memory of the machine is full.'
    if status:
        raise UserError(f'{arguments[0]} ended with status {status}: {error or "no output"}')


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return a page of Markdown: the command and the machine, the table, and why trainings fail."""
    versions, gpus = libraries(), torch.cuda.device_count()
    names = ', '.join(f'{name} {versions[name]}' for name in ('python', 'torch', 'timm'))
    device = device_name(torch.device('cuda' if gpus else 'cpu'))
    heads = ('training', 'peak GiB', 's a step', 'images/s', 'waits for data', 'days', 'verdict')
    lines = []
    for row in rows:
        numbers = ('',) * 5
        if not row['failure']:
            numbers = (
                f'{row["peak_bytes"] / 2**30:.1f}',
                f'{row["seconds"]:.3g}',
                f'{row["images"] / row["seconds"]:.3g}',
                f'{row["waiting_seconds"] / row["seconds"]:.0%}',
                f'{row["days"]:,.1f}',
            )
        lines.append((row['name'], *numbers, 'fails' if row['failure'] else 'passes'))
    table = tabulate(lines, heads, 'github', disable_numparse=True)
    failures = [f'* {row["name"]}: {row["failure"]}' for row in rows if row['failure']]
    return (
        f'# A rehearsal on {max(gpus, 1)} x {device}\n\n'
        f'Measured by `python -m reproduce {shlex.join(sys.argv[1:])}` with {names}. `peak GiB` is '
        'the memory of a GPU, or of a process on a CPU; `days` is what the whole training on '
        f'complete data takes at this batch, without its evaluations.\n\n{table}\n'
        + '\n'.join(['', *failures])
    )
