"""A rehearsal: each training takes a few steps at full size, is resumed, and is evaluated.

Each of the three is the very command that a user would give, in a process of its own, which may
be killed where memory is short.
"""

import fnmatch
import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from datasets import imagenet
from datasets.subset import evenly_spaced
from reproduce.base.errors import UserError
from reproduce.base.files import check_writable
from reproduce.base.processes import end_with_parent, in_group
from reproduce.base.versions import CHECKOUT
from reproduce.base.wording import nearest
from reproduce.openmmlab.configs import CONFIGS, load_config, task_of
from reproduce.train import drawn_data, step_meter, token_labeling
from reproduce.train.jobs import RehearsalRequest
from reproduce.train.recipes import RECIPES, Recipe

# Images that are evaluated.
_EVALUATED = 2

# A config's batch of one process is 2 or 4 images: this many of them are drawn for each step.
_MOST_IMAGES_OF_A_CONFIG = 8

# Label maps that are compared with the classes of their images.
_SAMPLE = 256


@dataclass(frozen=True)
class RehearsalRow:
    """What a rehearsal found about one training.

    Attributes:
        name: of the recipe or config.
        failure: why it will not run; '' if it passes.
        measured: what `StepMeter` wrote, and `days` of the whole training on complete data, with
            no evaluation, and `disk_bytes` that it writes at most; None where it did not get there.
    """

    name: str
    failure: str = ''
    measured: dict[str, float] | None = None


def rehearse(request: RehearsalRequest) -> Iterator[RehearsalRow]:
    """Rehearse the trainings of a request one after the other, and yield a row for each.

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
            data = place / 'drawn'
            labels = _draw(data, recipes.values(), request, processes)
        for number, (name, recipe) in enumerate(recipes.items(), 1):
            folder = place / str(number)
            try:
                if recipe is not None and recipe.token_labeling:
                    _check_labels(data, labels)
                train = _train_command(name, recipe, request, processes, labels)
                train += ['--data', data, '--processes', processes]
                measured = _measure(name, recipe, train, request.steps, folder)
                yield RehearsalRow(name, measured=measured)
            except UserError as error:
                yield RehearsalRow(name, str(error))
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
    root: Path, trained: Iterable[Recipe | None], request: RehearsalRequest, processes: int
) -> Path | None:
    """Draw data that last for the steps of all trainings; return the folder of the label maps."""
    recipes = [recipe for recipe in trained if recipe is not None]
    batch = request.batch_size and request.batch_size * processes
    of_recipes = max((batch or recipe.batch_size for recipe in recipes), default=0)
    of_configs = batch or _MOST_IMAGES_OF_A_CONFIG * processes
    images = {'imagenet': of_recipes, 'coco': of_configs, 'ade20k': of_configs}
    # The first step is not measured, one follows the resumption, and one in twenty images of COCO
    # has no object.
    images = {task: (request.steps + 3) * images for task, images in images.items()}
    labels = any(recipe.token_labeling for recipe in recipes)
    drawn_data.write(root, images, labels)
    return root / 'labels' if labels else None


def _check_labels(data: Path, labels: Path | None) -> None:
    """Check that label maps are of these images, and of classes in their order.

    A good annotator names the class of nine in ten of its images, others do as chance does.
    """
    if labels is None:
        raise UserError('token labeling needs label maps: name their folder with --labels.')
    images = imagenet.load(data, 'train')
    sample = evenly_spaced(range(len(images.samples)), _SAMPLE)
    share = token_labeling.agreement(images, token_labeling.open_label_maps(labels), sample)
    if share < 0.05 + 2 / len(images.classes):
        raise UserError(
            f'{100 * share:.1f} % of {len(sample)} label maps in {labels} name the class of their '
            'image: expected maps of these images, with classes in the order of their folders; '
            "make them with 'python -m reproduce labels'."
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
    amp = ['--amp', request.amp] if request.amp else []
    if recipe is None:
        changes = {
            'train_dataloader.batch_size': batch,
            'train_dataloader.num_workers': workers,
            'model.backbone.with_cp': request.grad_checkpointing or None,
        }
        options = [f'{key}={value}' for key, value in changes.items() if value is not None]
        return ['train', 'config', name, *amp, *_each('--cfg-options', options)]
    command = ['train', 'imagenet', recipe.model, '--recipe', name, *amp]
    command += ['--accumulation', request.accumulation]
    command += _each('--set', [f'batch_size={batch * processes}'] if batch else [])
    command += _each('--workers', [] if workers is None else [workers])
    command += ['--grad-checkpointing'] * request.grad_checkpointing
    return command + (['--token-labeling', '--labels', labels] if recipe.token_labeling else [])


def _each(flag: str, values: Sequence[Any]) -> list[Any]:
    return [argument for value in values for argument in (flag, value)]


def _measure(
    name: str, recipe: Recipe | None, train: list[Any], steps: int, folder: Path
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
    measured = json.loads((run / step_meter.FILE).read_text())
    _call(*train, steps + 2, '--resume')
    resumed = json.loads((run / step_meter.FILE).read_text())
    if not math.isfinite(measured['loss'] + resumed['loss']):
        raise UserError('the loss is not finite; fp16 may take more --steps to find its scale.')
    task = 'imagenet' if recipe is not None else task_of(load_config(name))
    model = [recipe.model] if recipe is not None else ['--config', name]
    if recipe is not None and recipe.token_labeling:
        model += ['--model-kwargs', 'token_labeling=True']
    model += ['--checkpoint', run / 'model.safetensors', '--limit', _EVALUATED]
    data = train[train.index('--data') + 1]
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
