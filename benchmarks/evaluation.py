"""What the harness costs: images/s of an evaluation, of the bare forward pass, and of timm's loop.

The same model on the same JPEGs in one run, each in turn, so that a slow moment of the machine hits
them all; the median round counts. The bare forward pass has its batches in memory already, so it
is what the other two could reach at most. timm's loop is the one of its validate.py: its dataset,
its loader with its prefetcher on GPUs, Top-1 and Top-5 as it goes. Neither writes a result.
"""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

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
from datasets.imagenet import ImageNet, load
from reproduce.distributed import Group, join
from reproduce.evaluate.harness import Job, Prepared, collect
from reproduce.score.imagenet import ClassesFile, TopScorer, names
from reproduce.tasks import TASKS

CLASSES = 10


def write_images(root: Path, images: int, size: tuple[int, int], seed: int = 0) -> None:
    """Write `images` JPEGs of `size` (width, height), of smooth colours, into class folders."""
    rng = np.random.default_rng(seed)
    for i in range(images):
        folder = root / 'val' / f'n{i % CLASSES + 1:08d}'
        folder.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f'{i:06d}.JPEG', quality=90)


def bare_forward(classifier: nn.Module, prepared: Prepared, group: Group, job: Job) -> None:
    """Do as many forward passes of as large batches, their normalised images in memory."""
    n, device = len(prepared.images), group.device
    images = torch.randn(job.batch_size, *prepared.preprocessing['input_size'], device=device)
    with torch.inference_mode():
        for i in range(0, n, job.batch_size):
            classifier(images[: min(job.batch_size, n - i)])


def evaluation(classifier: nn.Module, prepared: Prepared, group: Group, job: Job) -> None:
    """Do what `evaluate` does, up to the metrics and the file of predictions."""
    data: ImageNet = prepared.data
    labels = [label for _, label in data.samples]
    scorer, file = TopScorer(labels), ClassesFile(names(data), labels)
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


def seconds(
    ways: dict[str, Callable[..., object]], rounds: int, device: torch.device, *arguments: object
) -> dict[str, list[float]]:
    """Return the seconds of each way in each round, one round of all at a time; one warms up."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(*arguments)
            if device.type == 'cuda':
                torch.cuda.synchronize()
            if number:
                taken[name].append(time.perf_counter() - start)
    return taken


def main(
    model: Annotated[str, typer.Option(help='A MAFormer or any timm model.')] = 'maformer_small',
    images: Annotated[int, typer.Option(help='How many images.')] = 96,
    size: Annotated[tuple[int, int], typer.Option(help='Width and height of the JPEGs.')] = (
        500,
        375,
    ),
    data: Annotated[Path | None, typer.Option(help='ImageNet, instead of drawn JPEGs.')] = None,
    batch_size: Annotated[int, typer.Option(help='Images a batch.')] = 16,
    workers: Annotated[int, typer.Option(help='Processes that read images.')] = 1,
    rounds: Annotated[int, typer.Option(help='Timed rounds; the median counts.')] = 5,
) -> None:
    """Compare images/s of the evaluation with the bare forward pass and with timm's loop."""
    with tempfile.TemporaryDirectory() as folder, join() as group:
        if data is None:
            data = Path(folder)
            write_images(data, images, size)
        classes = len(load(data).classes)
        classifier = timm.create_model(model, num_classes=classes).eval()
        weights = Path(folder) / 'weights.safetensors'
        save_file(classifier.state_dict(), weights)
        options = {'limit': images, 'batch_size': batch_size, 'workers': workers}
        job = Job('imagenet', model, weights, data, **options)
        prepared = TASKS['imagenet'].prepare(job, group.device)
        classifier = classifier.to(group.device)
        ways = {'bare forward': bare_forward, 'evaluate': evaluation, "timm's loop": timm_loop}
        with open(os.devnull, 'w') as nowhere, contextlib.redirect_stderr(nowhere):
            taken = seconds(ways, rounds, group.device, classifier, prepared, group, job)
    n = len(prepared.images)
    middle = {name: n / statistics.median(times) for name, times in taken.items()}
    rows = [
        [name, rate, rate / middle['bare forward'], n / max(taken[name]), n / min(taken[name])]
        for name, rate in middle.items()
    ]
    print(
        f'{model}, {n} images, batch {batch_size}, fp32, {group.device}, {workers} workers, '
        f'{torch.get_num_threads()} threads, medians of {rounds} rounds; torch {torch.__version__}'
    )
    heads = ['', 'images/s', '/ bare', 'slowest', 'fastest']
    print(tabulate(rows, heads, 'simple', floatfmt=('', '.2f', '.3f', '.2f', '.2f')))


if __name__ == '__main__':
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
