"""What the harness costs: an evaluation, the same predictions without it, and timm's loop.

The same model on the same images in one run, each in turn, so that a slow moment of the machine
hits them all; the median round counts. The bare predictions have their batches in memory already
and score nothing, so they are what the others could reach at most. timm's loop is the one of its
validate.py: its dataset, its loader with its prefetcher on GPUs, Top-1 and Top-5 as it goes. None
writes a result.

CPU seconds tell what is spent where, also on a machine that others use: those of this process, and
those of the workers that read images. Where the cores are all busy, as with a CPU as the device,
both count; where the workers have cores of their own, this process's alone.
"""

import contextlib
import copy
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import torch.nn as nn
import typer
from PIL import Image
from safetensors.torch import save_file
from tabulate import tabulate
from timm.data import create_dataset, create_loader
from timm.utils import AverageMeter, accuracy

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from datasets.imagenet import load
from reproduce.base.processes import Group, join
from reproduce.base.quiet import quiet_libraries
from reproduce.evaluate.harness import collect
from reproduce.openmmlab import configs, models
from reproduce.tasks import TASKS
from reproduce.tasks.job import Job, Prepared, inference
from reproduce.train import drawn_data

MODELS = {
    'imagenet': 'maformer_small',
    'coco': 'mask-rcnn_maformer-small-3383_fpn_1x_coco',
    'ade20k': 'fpn_maformer-small-3383_8xb2-80k_ade20k-512x512',
}
CLASSES = 10


def write_images(root: Path, images: int, size: tuple[int, int], seed: int = 0) -> None:
    """Write `images` JPEGs of `size` (width, height), of smooth colours, into class folders."""
    rng = np.random.default_rng(seed)
    for i in range(images):
        folder = root / 'val' / f'n{i % CLASSES + 1:08d}'
        folder.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f'{i:06d}.JPEG', quality=90)


def batches_of(prepared: Prepared, job: Job) -> list[tuple[list[int], Any]]:
    """Return all batches, read, with the indices of their images."""
    n = len(prepared.images)
    cut = [list(range(i, min(i + job.batch_size, n))) for i in range(0, n, job.batch_size)]
    return [(indices, prepared.collate([prepared.images[i] for i in indices])) for indices in cut]


def bare(prepared: Prepared, batches: list[tuple[list[int], Any]], group: Group, job: Job) -> None:
    """Predict batches that are in memory."""
    with inference(group.device, job.amp):
        for indices, batch in batches:
            prepared.predict(indices, batch)


def evaluation(prepared: Prepared, group: Group, job: Job) -> None:
    """Do what `evaluate` does, up to the metrics and the file of predictions."""
    scorer, file = copy.deepcopy((prepared.scorer, prepared.file))  # they have seen nothing
    collect(prepared, [scorer, file], group, job)
    scorer.compute()
    file.to_bytes()


def timm_loop(classifier: nn.Module, prepared: Prepared, group: Group, job: Job) -> None:
    """Run the loop of timm's validate.py."""
    device, config = group.device, prepared.preprocessing
    dataset = create_dataset('', root=str(prepared.data.root), split='val')
    loader = create_loader(
        dataset,
        input_size=tuple(config['input_size']),
        batch_size=job.batch_size,
        use_prefetcher=device.type == 'cuda',
        interpolation=config['interpolation'],
        mean=config['mean'],
        std=config['std'],
        num_workers=job.workers,
        crop_pct=config['crop_pct'],
        crop_mode=config['crop_mode'],
        pin_memory=device.type == 'cuda',
        device=device,
    )
    criterion = nn.CrossEntropyLoss().to(device)
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    with torch.inference_mode():
        for images, target in loader:
            images, target = images.to(device), target.to(device)
            output = classifier(images)
            loss = criterion(output, target)
            acc1, acc5 = accuracy(output.detach(), target, topk=(1, 5))
            losses.update(loss.item(), images.size(0))
            top1.update(acc1.item(), images.size(0))
            top5.update(acc5.item(), images.size(0))


@dataclass(frozen=True)
class TimeSpent:
    """Seconds: those that passed, and of the CPU in this process and in the workers."""

    passed: float
    here: float
    workers: float


def spent(way: Callable[[], object], device: torch.device) -> TimeSpent:
    """Return what a call takes; its workers have ended when it has."""
    begin = time.perf_counter(), _cpu(resource.RUSAGE_SELF), _cpu(resource.RUSAGE_CHILDREN)
    way()
    if device.type == 'cuda':
        torch.cuda.synchronize()
    end = time.perf_counter(), _cpu(resource.RUSAGE_SELF), _cpu(resource.RUSAGE_CHILDREN)
    return TimeSpent(*(b - a for a, b in zip(begin, end, strict=True)))


def _cpu(of: int) -> float:
    usage = resource.getrusage(of)
    return usage.ru_utime + usage.ru_stime


def medians(
    ways: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, TimeSpent]:
    """Return the medians of what each way takes, one round of all at a time; one warms up."""
    taken: dict[str, list[TimeSpent]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            one = spent(way, device)
            if number:
                taken[name].append(one)
    return {
        name: TimeSpent(
            *(
                statistics.median(getattr(one, part) for one in found)
                for part in ('passed', 'here', 'workers')
            )
        )
        for name, found in taken.items()
    }


def main(
    task: Annotated[str, typer.Option(help='imagenet, coco or ade20k.')] = 'imagenet',
    model: Annotated[
        str | None,
        typer.Option(help='A timm model, or a config.  [default: a MAFormer-S]'),
    ] = None,
    images: Annotated[int, typer.Option(help='How many images; of drawn ones up to 40.')] = 96,
    size: Annotated[
        tuple[int, int], typer.Option(help='Width and height of the JPEGs of imagenet.')
    ] = (500, 375),
    data: Annotated[Path | None, typer.Option(help='A data set, instead of drawn images.')] = None,
    batch_size: Annotated[int | None, typer.Option(help='Images a batch.')] = None,
    workers: Annotated[int, typer.Option(help='Processes that read images.')] = 1,
    threads: Annotated[int | None, typer.Option(help='CPU threads that compute.')] = None,
    rounds: Annotated[int, typer.Option(help='Timed rounds; the median counts.')] = 5,
) -> None:
    """Compare an evaluation with the bare predictions, and on imagenet with timm's loop."""
    if threads is not None:
        torch.set_num_threads(threads)
    model = model or MODELS[task]
    with tempfile.TemporaryDirectory() as folder, join() as group, quiet_libraries():
        root = Path(folder)
        if data is None:
            data = root / 'data'
            if task == 'imagenet':
                write_images(data, images, size)
            else:
                drawn_data.write(data, dict.fromkeys(TASKS, 1))
        weights = root / 'weights.safetensors'
        if task == 'imagenet':
            network = timm.create_model(model, num_classes=len(load(data).classes)).eval()
        else:
            network = models.build(configs.load_config(f'{model}.py'), 'cpu')
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, weights)
        batch_size = batch_size or (16 if task == 'imagenet' else TASKS[task].batch_size)
        options = {'limit': images, 'batch_size': batch_size, 'workers': workers}
        job = Job(task, model, weights, data, **options)
        prepared = TASKS[task].prepare(job, group.device)
        batches = batches_of(prepared, job)
        ways = {
            'bare predictions': lambda: bare(prepared, batches, group, job),
            'evaluate': lambda: evaluation(prepared, group, job),
        }
        if task == 'imagenet':
            classifier = network.to(group.device)
            ways["timm's loop"] = lambda: timm_loop(classifier, prepared, group, job)
        with open(os.devnull, 'w') as nowhere, contextlib.redirect_stderr(nowhere):
            taken = medians(ways, rounds, group.device)
    n = len(prepared.images)
    least = taken['bare predictions']
    rows = [
        [
            *(name, n / one.passed, least.passed / one.passed),
            *(one.here / n * 1e3, one.workers / n * 1e3),
            *(least.here / (one.here + one.workers), least.here / one.here),
        ]
        for name, one in taken.items()
    ]
    print(
        f'{model}, {n} images, batch {batch_size}, fp32, {group.device}, {workers} workers, '
        f'{torch.get_num_threads()} threads, medians of {rounds} rounds; torch {torch.__version__}'
    )
    heads = [
        *('', 'images/s', '/ bare', 'ms here', 'ms of workers'),
        *('/ bare, all CPU', '/ bare, CPU here'),
    ]
    print(tabulate(rows, heads, 'simple', floatfmt=('', '.2f', '.3f', '.1f', '.1f', '.3f', '.3f')))
    print('ms: of CPU time for each image.')


if __name__ == '__main__':
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
