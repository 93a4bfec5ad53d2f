"""A rehearsal: each training takes a few steps at full size, is resumed, and is evaluated.

Each of the three is the very command that a user would give, in a process of its own, which may
be killed where memory is short.
"""

import fnmatch
import json
import math
import os
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
from safetensors.torch import load_file, save_file
from tabulate import tabulate

from datasets import ade20k, coco_annotations, shapes
from datasets.classes import imagenet_classes
from reproduce.base.errors import UserError
from reproduce.base.files import check_writable
from reproduce.base.processes import in_group
from reproduce.base.versions import CHECKOUT, libraries
from reproduce.base.wording import nearest
from reproduce.evaluate import apart
from reproduce.evaluate.records import device_name
from reproduce.openmmlab.configs import CONFIGS, load_config, task_of
from reproduce.train.jobs import RehearsalRequest
from reproduce.train.label_maps import make_labels
from reproduce.train.output_folder import STEPS
from reproduce.train.recipes import RECIPES, Recipe
from reproduce.weights import store

# Images that are evaluated.
_EVALUATED = 2

# A config's batch of one process is 2 or 4 images: this many of them are drawn for each step.
_MOST_IMAGES_OF_A_CONFIG = 8

# 150 to 224 pixels become 450 to 672: COCO's images are 640 x 480, most of ADE20K's 683 x 512.
SCALE = 3

# With fewer scenes a class might have no image.
_SCENES = 40

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
            labeled = any(
                recipe is not None and recipe.token_labeling for recipe in recipes.values()
            )
            draw(data, *_images_needed(recipes, request, processes), labeled)
        for number, (name, recipe) in enumerate(recipes.items(), 1):
            folder = place / str(number)
            train = _train_command(name, recipe, request, processes, labels)
            train += ['--data', data, '--processes', processes]
            row = {'name': name, 'failure': ''}
            try:
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


def draw(root: Path, scenes: int, images: int, labels: bool = False) -> None:
    """Draw data in the sizes and with the classes of ImageNet, COCO and ADE20K under `root`.

    The scenes are those of `datasets.shapes`, enlarged to the size of photographs. The classes that
    have no shape are named and have no object, so that every head is as large as for the real data.

    Args:
        root: the folder, which does not exist or is empty.
        scenes: the training images of COCO and ADE20K, at least.
        images: those of ImageNet, at least; drawn ones are linked under several names.
        labels: whether to make label maps of ImageNet's training images, in `root/labels`.
    """
    shapes.write(root, max(scenes, _SCENES), _SCENES, scale=SCALE)
    if labels:
        # The released classifier of the drawn classes makes them. It was trained with token
        # labeling, and has a head for it that an annotator does not need.
        trained = load_file(store.find('maformer_micro_shapes', 'maformer_micro'))
        weights = root / 'annotator.safetensors'
        save_file({k: v for k, v in trained.items() if not k.startswith('aux_head.')}, weights)
        arguments = ('maformer_micro', root / 'imagenet', root / 'labels', weights, 64)
        make_labels(*arguments, workers=0, device='cpu')
    # The drawn classes get the names of the first of ImageNet-1K's, whose indices are then theirs.
    folders = [root / 'imagenet/train', root / 'imagenet/val', root / 'labels']
    for old, new in zip(shapes.WNIDS, imagenet_classes(), strict=False):
        for folder in folders:
            if (folder / old).is_dir():
                (folder / old).rename(folder / new)
    drawn = sorted(path.relative_to(folders[0]) for path in folders[0].glob('*/*.JPEG'))
    for number in range(len(drawn), images):
        name = drawn[number % len(drawn)]
        for file in (folders[0] / name, folders[2] / name.with_suffix('.pt')):
            if file.exists():
                os.link(file, file.with_stem(f'{file.stem}_{number}'))
    for path in (root / 'coco/annotations').glob('instances_*.json'):
        content = json.loads(path.read_text())
        known = {category['id']: category for category in content['categories']}
        content['categories'] = [
            known.get(id, {'id': id, 'name': f'category {id}', 'supercategory': 'none'})
            for id in coco_annotations.CATEGORY_IDS
        ]
        path.write_text(json.dumps(content))
    names = root / 'ade20k/ADEChallengeData2016' / ade20k.CLASS_FILE
    lines = names.read_text().splitlines()
    lines += [f'{i}\t0\tclass {i}' for i in range(len(lines), ade20k.NUM_CLASSES + 1)]
    names.write_text('\n'.join(lines) + '\n')


def _images_needed(
    trained: dict[str, Recipe | None], request: RehearsalRequest, processes: int
) -> tuple[int, int]:
    """Return the scenes for the steps of the configs, and the images for those of the recipes."""
    recipes = [recipe for recipe in trained.values() if recipe is not None]
    batch = request.batch_size and request.batch_size * processes
    of_configs = (batch or _MOST_IMAGES_OF_A_CONFIG * processes) if None in trained.values() else 0
    of_recipes = max((batch or recipe.batch_size for recipe in recipes), default=0)
    # The first step is not measured, one follows the resumption, and one in twenty images of COCO
    # has no object.
    return (request.steps + 3) * of_configs, (request.steps + 3) * of_recipes


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
    command += ['--token-labeling'] * recipe.token_labeling
    command += ['--labels', labels] if recipe.token_labeling and labels else []
    return ['train', 'imagenet', recipe.model, '--recipe', name, *command]


def _measure(
    name: str, recipe: Recipe | None, train: list[Any], data: Path, steps: int, folder: Path
) -> dict[str, float]:
    """Train, resume and evaluate in `folder`; return what was measured.

    Args:
        train: the command of the training, but for its output folder.
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
    """Run a command of this project; the last line of its errors becomes a `UserError`."""
    status, _, error = apart.run('reproduce', *arguments, folder=CHECKOUT)
    if status == -signal.SIGKILL:
        error = 'it was killed, as happens when the memory of the machine is full.'
    if status:
        raise UserError(f'{arguments[0]} ended with status {status}: {error or "no output"}')


def device() -> str:
    """Return the name of the device that trainings run on, and the number of GPUs."""
    gpus = torch.cuda.device_count()
    name = device_name(torch.device('cuda' if gpus else 'cpu'))
    return f'{gpus} x {name}' if gpus > 1 else name


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return a page of Markdown: the command and the machine, the table, and why trainings fail."""
    versions = libraries()
    names = ', '.join(f'{name} {versions[name]}' for name in ('python', 'torch', 'timm'))
    # Numbers are set as they are: tabulate would drop the zeros at their end.
    table = tabulate(
        [(row['name'], *_cells(row), 'fails' if row['failure'] else 'passes') for row in rows],
        ('training', *_COLUMNS, 'verdict'),
        'github',
        colalign=('left', *['right'] * len(_COLUMNS), 'left'),
        disable_numparse=True,
    )
    failures = [f'* {row["name"]}: {row["failure"]}' for row in rows if row['failure']]
    return (
        f'# A rehearsal on {device()}\n\n'
        f'Measured by `python -m reproduce {shlex.join(sys.argv[1:])}` with '
        f'{len(os.sched_getaffinity(0))} cores, a load of {os.getloadavg()[0]:.1f}, and {names}. '
        '`peak GiB` is the memory of a GPU, or of a process on a CPU; `days` is what the whole '
        'training on complete data takes at this batch, without its evaluations, and `disk GiB` '
        f'what it writes.\n\n{table}\n' + '\n'.join(['', *failures])
    )


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
