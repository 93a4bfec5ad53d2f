"""A rehearsal: each training takes a few steps at full size, is resumed, and is evaluated.

Each of the three is the very command that a user would give, in a process of its own, which may
be killed where memory is short.
"""

import fnmatch
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from datasets import imagenet
from datasets.subset import evenly_spaced
from reproduce.base.errors import UserError
from reproduce.base.files import check_writable
from reproduce.base.processes import end_with_parent, in_group
from reproduce.base.versions import CHECKOUT, libraries
from reproduce.base.wording import nearest
from reproduce.evaluate.records import device_name
from reproduce.openmmlab.configs import CONFIGS, load_config, task_of
from reproduce.train import drawn_data
from reproduce.train.jobs import RehearsalRequest
from reproduce.train.output_folder import STEPS
from reproduce.train.recipes import RECIPES, Recipe
from reproduce.train.token_labeling import label_map_path, load_label_map, open_label_maps

# Images that are evaluated.
_EVALUATED = 2

# A config's batch of one process is 2 or 4 images: this many of them are drawn for each step.
_MOST_IMAGES_OF_A_CONFIG = 8

# Label maps that are compared with the classes of their images.
_SAMPLE = 256

_COLUMNS = ('peak GiB', 's a step', 'images/s', 'waits for data', 'days', 'disk GiB')


def rehearse(request: RehearsalRequest) -> Iterator[dict[str, Any]]:
    """Rehearse the trainings of a request one after the other, and yield a row for each.

    A row has the `name` of the recipe or config and its `failure`, '' if it passes. One that passes
    also has what `StepMeter` wrote, the `days` of the whole training on complete data without
    evaluations, and `disk_bytes`, the most that it writes.

    Raises:
        UserError: if the request cannot be carried out. What is wrong with a training is in its
            row.
    """
    if in_group():
        raise UserError('rehearse starts its processes itself: start it once, with --processes.')
    if request.labels is not None and request.data is None:
        raise UserError('--labels are of the images in --data: name that folder too.')
    recipes = select(request.names)
    processes = request.processes or max(1, torch.cuda.device_count())
    check_writable(request.output)
    with tempfile.TemporaryDirectory(prefix='rehearsal-', dir=request.output.absolute()) as made:
        place = Path(made)
        # The commands are called in the folder of the code.
        data = request.data and request.data.absolute()
        labels = request.labels and request.labels.absolute()
        if data is None:
            data, labels = place / 'drawn', place / 'drawn/labels'
            _draw(data, recipes, request, processes)
        for number, (name, recipe) in enumerate(recipes.items(), 1):
            folder = place / str(number)
            train = _train_command(name, recipe, request, processes, labels)
            train += ['--data', data, '--processes', processes]
            row = {'name': name, 'failure': ''}
            try:
                if recipe is not None and recipe.token_labeling:
                    check_labels(data, labels)
                row |= _measure(name, recipe, train, data, request.steps, folder)
            except UserError as error:
                row['failure'] = str(error)
            yield row
            shutil.rmtree(folder, ignore_errors=True)


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
            near = ', '.join(nearest(name, known))
            raise UserError(
                f"there is no recipe or config '{name}': did you mean {near or 'a pattern, maf*'}?"
            )
        chosen |= {name: RECIPES.get(name) for name in found or [name]}
    return chosen


def _draw(
    root: Path, trained: dict[str, Recipe | None], request: RehearsalRequest, processes: int
) -> None:
    """Draw data that last for the steps of all trainings, and label maps if one needs them."""
    recipes = [recipe for recipe in trained.values() if recipe is not None]
    batch = request.batch_size and request.batch_size * processes
    of_recipes = max((batch or recipe.batch_size for recipe in recipes), default=0)
    of_configs = (batch or _MOST_IMAGES_OF_A_CONFIG * processes) if None in trained.values() else 0
    # The first step is not measured, one follows the resumption, and one in twenty images of COCO
    # has no object.
    steps = request.steps + 3
    labels = any(recipe.token_labeling for recipe in recipes)
    drawn_data.write(root, steps * of_configs, steps * of_recipes, labels)


def check_labels(data: Path, labels: Path | None) -> None:
    """Check that label maps are of these images, and of classes in their order.

    A good annotator names the class of nine in ten of its images, others do as chance does.

    Raises:
        UserError: if they are not, or there are none.
    """
    if labels is None:
        raise UserError('token labeling needs label maps: name their folder with --labels.')
    images, maps, agree = imagenet.load(data, 'train'), open_label_maps(labels), 0
    sample = evenly_spaced(images.samples, _SAMPLE)
    for path, label in sample:
        found = load_label_map(
            label_map_path(maps, path, images.classes[label]), len(images.classes)
        )
        logits = torch.zeros(len(images.classes), *found.shape[2:])
        logits.scatter_(0, found[1].long(), found[0].float())
        agree += int(logits.mean((1, 2)).argmax()) == label
    if agree / len(sample) < 0.05 + 2 / len(images.classes):
        raise UserError(
            f'{agree} of {len(sample)} label maps in {labels} name the class of their image: '
            'expected maps of these images, with classes in the order of their folders; make them '
            "with 'python -m reproduce labels'."
        )


def _train_command(
    name: str,
    recipe: Recipe | None,
    request: RehearsalRequest,
    processes: int,
    labels: Path | None,
) -> list[Any]:
    """Return the command of a training, but for its data, output and processes."""
    batch, workers = request.batch_size, request.workers
    command = [] if request.amp is None else ['--amp', request.amp]
    if recipe is None:
        changes = {
            'train_dataloader.batch_size': batch,
            'train_dataloader.num_workers': workers,
            'model.backbone.with_cp': request.grad_checkpointing or None,
        }
        for key, value in changes.items():
            command += [] if value is None else ['--cfg-options', f'{key}={value}']
        return ['train', 'config', name, *command]
    command += [] if batch is None else ['--set', f'batch_size={batch * processes}']
    command += [] if workers is None else ['--workers', workers]
    command += ['--set', 'grad_checkpointing=true'] * request.grad_checkpointing
    command += ['--token-labeling', '--labels', labels] if recipe.token_labeling else []
    return ['train', 'imagenet', recipe.model, '--recipe', name, *command]


def _measure(
    name: str, recipe: Recipe | None, train: list[Any], data: Path, steps: int, folder: Path
) -> dict[str, float]:
    """Train, resume and evaluate in `folder`; return what was measured.

    Args:
        train: the command of the training, but for its output folder.

    Raises:
        UserError: if one of the three fails.
    """
    run = folder / 'run'
    train = [*train, '--output', run, '--max-steps']
    _call(*train, steps + 1)
    measured = json.loads((run / STEPS).read_text())
    _call(*train, steps + 2, '--resume')
    resumed = json.loads((run / STEPS).read_text())
    if not math.isfinite(measured['loss'] + resumed['loss']):
        raise UserError('the loss is not finite; fp16 may take more --steps to find its scale.')
    task = 'imagenet' if recipe is not None else task_of(load_config(name))
    model = [recipe.model] if recipe is not None else ['--config', name]
    if recipe is not None and recipe.token_labeling:
        model += ['--model-kwargs', 'token_labeling=True']
    model += ['--checkpoint', run / 'model.safetensors', '--limit', _EVALUATED]
    _call('evaluate', task, *model, '--data', data, '--output', folder / 'record')
    complete = import_module(f'datasets.{task}').NUM_IMAGES['train']
    if recipe is not None:
        images = recipe.total_epochs * complete
    elif 'max_iters' in (schedule := load_config(name).train_cfg):
        images = schedule.max_iters * measured['images']
    else:
        images = schedule.max_epochs * complete
    # A classifier's checkpoint stays until the next one is whole; mmengine keeps three.
    kept = 2 if recipe is not None else 3
    checkpoint = max(path.stat().st_size for path in run.glob('*.pth'))
    return {
        **measured,
        'days': images / measured['images'] * measured['seconds'] / 86_400,
        'disk_bytes': kept * checkpoint + 2 * (run / 'model.safetensors').stat().st_size,
    }


def _call(*arguments: Any) -> None:
    """Run a command of this project.

    Raises:
        UserError: if it fails, with the last line of its errors.
    """
    done = subprocess.run(
        [sys.executable, '-m', 'reproduce', *map(str, arguments)],
        cwd=CHECKOUT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors='replace',
        preexec_fn=end_with_parent,  # it imports nothing and holds no lock
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ['no output'])[-1].removeprefix('error: ')
        if done.returncode == -signal.SIGKILL:
            last = 'it was killed, as happens when the memory of the machine is full.'
        raise UserError(f'{arguments[0]} ended with status {done.returncode}: {last}')


def device() -> str:
    """Return the name of the device that trainings run on, and the number of GPUs."""
    gpus = torch.cuda.device_count()
    name = device_name(torch.device('cuda' if gpus else 'cpu'))
    return f'{gpus} x {name}' if gpus > 1 else name


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of a rehearsal in Markdown, and why trainings fail."""
    # Numbers are set as they are: tabulate would drop the zeros at their end.
    table = tabulate(
        [(row['name'], *_cells(row), 'fails' if row['failure'] else 'passes') for row in rows],
        ('training', *_COLUMNS, 'verdict'),
        'github',
        colalign=('left', *['right'] * len(_COLUMNS), 'left'),
        disable_numparse=True,
    )
    failures = [f'* {row["name"]}: {row["failure"]}' for row in rows if row['failure']]
    return '\n\n'.join(filter(None, [table, '\n'.join(failures)]))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row['failure']:
        return ('',) * len(_COLUMNS)
    return (
        f'{row["peak_bytes"] / 2**30:.1f}',
        f'{row["seconds"]:.3g}',
        f'{row["images"] / row["seconds"]:.3g}',
        f'{row["waiting_seconds"] / row["seconds"]:.0%}',
        f'{row["days"]:,.1f}',
        f'{row["disk_bytes"] / 2**30:.1f}',
    )


def write_page(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write the table to a page of Markdown named after the device, with its command."""
    versions = libraries()
    names = ', '.join(f'{name} {versions[name]}' for name in ('python', 'torch', 'timm'))
    path = folder / (re.sub('[^A-Za-z0-9.]+', '-', device()).strip('-') + '.md')
    path.write_text(
        f'# A rehearsal on {device()}\n\n'
        f'Measured by `python -m reproduce {shlex.join(sys.argv[1:])}` with '
        f'{len(os.sched_getaffinity(0))} cores, a load of {os.getloadavg()[0]:.1f}, and {names}. '
        '`peak GiB` is the memory of a GPU, or of a process on a CPU; `days` is what the whole '
        'training on complete data takes at this batch, without its evaluations, and `disk GiB` '
        f'what it writes.\n\n{as_text(rows)}\n'
    )
