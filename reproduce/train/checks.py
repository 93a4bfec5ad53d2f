"""What is looked at before anything is trained: the machine, and the data."""

import os
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from datasets import imagenet, load
from datasets.reading import check_whole
from datasets.stores import AnyPath
from datasets.subset import evenly_spaced
from reproduce.base.errors import UserError
from reproduce.base.loading import SHARED_MEMORY
from reproduce.base.processes import Group, join
from reproduce.evaluate.records import device_name
from reproduce.train import token_labeling
from reproduce.train.images import TrainingImages
from reproduce.train.recipes import Recipe
from reproduce.train.trial import GIB, synchronized

# Images and label maps that are looked at, of each split.
SAMPLE = 256

# A good annotator names the class of nine in ten of its training images. Maps of other images, or
# of classes in another order, name it as often as chance does.
GOOD_AGREEMENT = 0.5

# Elements of the tensor that processes add up: the gradients of MAFormer-S.
_REDUCED = 25_000_000


@dataclass(frozen=True)
class ReadinessCheck:
    """Something that was looked at.

    Attributes:
        name: what it is.
        found: what was found.
        state: 'ok', 'note' where it may cost time, or 'fails' where a training will not run.
        advice: what to do, unless all is well.
    """

    name: str
    found: str
    state: str = 'ok'
    advice: str = ''


@dataclass(frozen=True)
class Machine:
    """The machine that the trainings would run on.

    Attributes:
        device: its name, and the number of GPUs.
        kind: 'cpu' or 'cuda'.
        processes: how many a training is to have: one for each GPU.
        checks: what was looked at.
    """

    device: str
    kind: str
    processes: int
    checks: tuple[ReadinessCheck, ...]


def examine_machine(kind: str | None, processes: int | None) -> Machine:
    """Look at the devices, the memory, and how processes reach each other.

    Args:
        kind: 'cpu' or 'cuda'; None takes GPUs where there are some.
        processes: how many a training is to have; None takes one for each GPU.
    """
    kind = kind or ('cuda' if torch.cuda.is_available() else 'cpu')
    gpus = torch.cuda.device_count() if kind == 'cuda' else 0
    if kind == 'cuda' and not gpus:
        raise UserError('--device cuda: there is no GPU, or torch does not see it; take cpu.')
    processes = processes or max(1, gpus)
    checks = [_check_gpu(number) for number in range(gpus)]
    checks += [_check_cores(processes), _check_load(), _check_memory(), _check_shared_memory()]
    name = device_name(torch.device(kind))
    return Machine(f'{gpus} x {name}' if gpus > 1 else name, kind, processes, tuple(checks))


def _check_gpu(number: int) -> ReadinessCheck:
    """Check that torch has kernels for a GPU, by its list of architectures and by a product."""
    properties = torch.cuda.get_device_properties(number)
    architecture = f'sm_{properties.major}{properties.minor}'
    name = f'GPU {number}'
    found = f'{properties.name}, {properties.total_memory / GIB:.1f} GiB, {architecture}'
    try:
        ones = torch.ones(256, 256, device=f'cuda:{number}')
        torch.cuda.synchronize(number)
        right = bool(((ones @ ones) == 256).all())
    except (RuntimeError, torch.AcceleratorError) as error:
        right, found = False, f'{found}: {str(error).partition(chr(10))[0]}'
    if right:
        return ReadinessCheck(name, found)
    listed = ', '.join(torch.cuda.get_arch_list())
    return ReadinessCheck(
        name,
        f'{found}; torch {torch.__version__} has {listed}',
        'fails',
        'install a torch that has its architecture: CONSTRAINTS=requirements/v100.txt for V100.',
    )


def _check_cores(processes: int) -> ReadinessCheck:
    cores = len(os.sched_getaffinity(0))
    found = f'{cores} cores, torch {torch.__version__}'
    if cores >= 2 * processes:
        return ReadinessCheck('CPU', found)
    advice = 'expect that GPUs, if there are any, wait for images: four cores for each or more.'
    return ReadinessCheck('CPU', f'{found} for {processes} processes', 'note', advice)


def _check_load() -> ReadinessCheck:
    load, cores = os.getloadavg()[0], os.cpu_count()
    found = f'{load:.1f} programs compute, on {cores} cores'
    if load <= cores:
        return ReadinessCheck('load', found)
    advice = 'speeds found here are too low, and days too many: repeat it on a quiet machine.'
    return ReadinessCheck('load', found, 'note', advice)


def _check_memory() -> ReadinessCheck:
    lines = Path('/proc/meminfo').read_text().splitlines()
    sizes = {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (x.partition(':') for x in lines)
    }
    found = f'{sizes["MemAvailable"] / GIB:.1f} of {sizes["MemTotal"] / GIB:.1f} GiB available'
    return ReadinessCheck('memory', found)


def _check_shared_memory() -> ReadinessCheck:
    try:
        usage = shutil.disk_usage(SHARED_MEMORY)
    except OSError:
        usage = None
    if usage is not None and usage.free >= GIB:
        return ReadinessCheck(str(SHARED_MEMORY), f'{usage.free / GIB:.1f} GiB free')
    found = 'not there' if usage is None else f'{usage.free / 2**20:.0f} MiB free'
    advice = 'workers may not have room for their batches: --shm-size=8g in Docker.'
    return ReadinessCheck(str(SHARED_MEMORY), found, 'note', advice)


def check_connection(kind: str) -> ReadinessCheck | None:
    """Check that the ranks reach each other, and time it; None in all but the first.

    Raises:
        UserError: if they do not.
    """
    with join(kind) as group:
        seconds = _reduce(group)
    name = 'all-reduce of 100 MB by ' + ('NCCL' if kind == 'cuda' else 'gloo')
    found = ReadinessCheck(name, f'{1000 * seconds:.0f} ms on {group.size} processes')
    return None if group.rank else found


def _reduce(group: Group) -> float:
    """Add up a tensor over the processes, and return the seconds of the second time.

    Raises:
        UserError: if the sum is not right.
    """
    expected = group.size * (group.size + 1) / 2
    for _ in range(2):
        tensor = torch.full((_REDUCED,), group.rank + 1.0, device=group.device)
        begin = synchronized(group.device)
        dist.all_reduce(tensor)
        seconds = synchronized(group.device) - begin
        if not (tensor == expected).all():
            raise UserError(
                f'the sum over {group.size} processes is {float(tensor[0])}, not {expected}'
            )
    return seconds


def examine_data(
    task: str, root: Path, labels: Path | None = None, recipe: Recipe | None = None
) -> tuple[dict[str, int], tuple[ReadinessCheck, ...]]:
    """Look at a data set, at a sample of its images, and at label maps if there are any.

    Args:
        labels: the folder of the label maps, or an archive of it.
        recipe: of token labeling, by which images and their maps are cropped.

    Returns:
        the number of images of each split, and what was looked at.

    Raises:
        UserError: if the data cannot be trained on.
    """
    images, checks = {}, []
    for split in ('train', 'val'):
        data = load(task, root, split)
        images[split] = len(data.samples)
        state = 'complete' if data.complete else textwrap.shorten(data.problems[0], 60)
        checks.append(ReadinessCheck(f'{task} {split}', f'{len(data.samples):,} images, {state}'))
        paths = [path for path, _ in evenly_spaced(data.samples, SAMPLE)]
        for path in paths:
            check_whole(path)
        checks.append(ReadinessCheck(f'{task} {split} images', f'{len(paths)} of them decoded'))
        if task == 'imagenet' and split == 'train' and labels is not None:
            checks.append(_check_label_maps(data, token_labeling.open_label_maps(labels), recipe))
    return images, tuple(checks)


def _check_label_maps(
    data: imagenet.ImageNet, labels: AnyPath, recipe: Recipe | None
) -> ReadinessCheck:
    """Hold the largest label of maps, and of their crops, against the classes of the images."""
    indices = evenly_spaced(range(len(data.samples)), SAMPLE)
    share = token_labeling.agreement(data, labels, indices)
    found = f'{100 * share:.1f} % of {len(indices)} name the class of their image'
    if recipe is not None:
        cropped = _agreement_of_crops(data, labels, recipe, indices)
        found += f', and {100 * cropped:.1f} % where it is cropped for training'
    if share >= GOOD_AGREEMENT:
        return ReadinessCheck('label maps', found)
    by_chance = share < 0.05 + 2 / len(data.classes)
    return ReadinessCheck(
        'label maps',
        found,
        'fails' if by_chance else 'note',
        'expected maps of these very images by a good annotator, and of classes in the order of '
        "the class folders: make them with 'python -m reproduce labels'.",
    )


def _agreement_of_crops(
    data: imagenet.ImageNet, labels: AnyPath, recipe: Recipe, indices: Sequence[int]
) -> float:
    """Return the share of training images whose map, moved and cropped with it, names its class.

    Args:
        indices: the images that are looked at.
    """
    colours = {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)}  # decide nothing here
    images = TrainingImages(data, recipe, colours, labels)
    agree = 0
    for index in indices:
        item = images[0, index, 0]
        target, _ = token_labeling.dense_labels(
            item['map'][None],
            item['box'][None],
            len(data.classes),
            (1, 1),
            crop=recipe.label_map_crop,
        )
        agree += int(target.argmax()) == item['label']
    return agree / len(indices)
