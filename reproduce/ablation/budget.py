"""What a study would cost, and what it could resolve, before anything starts."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F

from datasets.imagenet import NUM_CLASSES, NUM_IMAGES, load
from reproduce.ablation.execution import Execution, measure_variants
from reproduce.ablation.judging import resolvable
from reproduce.ablation.outcomes import Outcomes, VariantLine
from reproduce.ablation.study import Study
from reproduce.base.errors import UserError
from reproduce.base.terminal import Part, TextTable
from reproduce.base.wording import duration
from reproduce.evaluate.accuracies import Request
from reproduce.evaluate.devices import Devices, named
from reproduce.evaluate.records import device_name

# Multiply-adds of a training step: forward, and two products for each in the backward pass.
_PASSES = 3

_STEPS = 3  # are timed, after one that is not


@dataclass(frozen=True)
class Budget:
    """The cost of a study.

    Attributes:
        variants: parameters and FLOPs.
        seconds: of one run of each variant, by name: computing alone, reading images not counted.
        runs: how many there are.
        train_images, val_images: of a run; those of the complete ImageNet where no data is named.
        total: seconds of all runs, on all devices.
        devices: what would compute.
        places: the number of runs at a time.
        spread: the standard deviation of paired differences that is planned with, in percent.
        spread_source: where it is from.
        resolvable: by claim, the smallest true difference that would be found, in percent.
    """

    variants: tuple[VariantLine, ...]
    seconds: dict[str, float]
    runs: int
    train_images: int
    val_images: int
    total: float
    devices: Devices
    places: int
    spread: float
    spread_source: str
    resolvable: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the budget as JSON takes it."""
        return {**asdict(self), 'variants': [variant.model_dump() for variant in self.variants]}


def estimate(
    execution: Execution, device: str | None = None, earlier: Outcomes | None = None
) -> Budget:
    """Return what the study would cost.

    Args:
        device: the GPUs to estimate for, such as '8xV100', in fp16; None times some steps of the
            study's first variant on this machine.
        earlier: outcomes of the study, whose spread of differences is planned with.

    Raises:
        UserError: if the options do not fit the study, or the device is unknown.
    """
    study = execution.study
    devices = None if device is None else named(device, Request(amp='fp16'))
    epochs = execution.recipe(study.variant[0], study.seeds[0]).total_epochs
    train, val, classes = _images(execution)
    variants = measure_variants(execution, classes)
    if devices is None:
        first = variants[0].total_flops
        rate = _PASSES * first / _seconds_of_an_image(execution, classes)
        devices = Devices(
            _device_name(execution),
            execution.places,
            rate,
            f'measured with {_STEPS} steps of {study.variant[0].name}',
        )
    seconds = {
        v.variant: v.total_flops * (_PASSES * train * epochs + val) / devices.rate for v in variants
    }
    spread, source = study.spread, 'planned with'
    found = earlier.judgements if earlier is not None else []
    spreads = [j.spread for j in found if j.pairs > 1 and not j.claim.control]
    if spreads:
        spread, source = max(spreads), 'the largest that earlier runs had'
    family = sum(not claim.control for claim in study.claim)
    return Budget(
        variants=variants,
        seconds=seconds,
        runs=len(study.variant) * len(study.seeds),
        train_images=train,
        val_images=val,
        total=sum(seconds.values()) * len(study.seeds) / devices.count,
        devices=devices,
        places=devices.count,
        spread=spread,
        spread_source=source,
        resolvable={
            claim.name: resolvable(spread, len(study.seeds), 1 if claim.control else family)
            for claim in study.claim
        },
    )


def _images(execution: Execution) -> tuple[int, int, int]:
    """Return the number of training and validation images, and of classes."""
    study = execution.study
    if study.drawn is not None:
        # A scene gives two images in the form of ImageNet, more or less.
        return 2 * study.drawn.train, 2 * study.drawn.val, 10
    if execution.data is None:
        train = study.train_images or NUM_IMAGES['train']
        return train, NUM_IMAGES['val'], NUM_CLASSES
    train = load(execution.data, 'train', study.train_images)
    return len(train.samples), len(load(execution.data, 'val').samples), len(train.classes)


def _seconds_of_an_image(execution: Execution, classes: int) -> float:
    """Return what an image takes in a training step of the study's first variant."""
    study = execution.study
    recipe = execution.recipe(study.variant[0], study.seeds[0])
    device, before = torch.device(execution.kind), torch.get_num_threads()
    # A large network is timed on a few images: one step of it takes minutes on a CPU.
    batch = min(recipe.batch_size, 16)
    torch.set_num_threads(study.threads)
    try:
        network = timm.create_model(
            study.model, num_classes=classes, **study.network(study.variant[0])
        )
        network.train().to(device)
        images = torch.zeros(batch, 3, recipe.img_size, recipe.img_size, device=device)
        labels = torch.zeros(batch, dtype=torch.long, device=device)
        took = []
        for _ in range(1 + _STEPS):
            begun = time.perf_counter()
            output = network(images)
            logits = output[0] if isinstance(output, tuple) else output
            F.cross_entropy(logits, labels).backward()
            if device.type == 'cuda':
                torch.cuda.synchronize()
            took.append(time.perf_counter() - begun)
    except torch.OutOfMemoryError:
        raise UserError(
            f'{device} does not hold a batch of {batch} images of the study {study.name}: estimate '
            'for another with --on, such as --on 8xV100.'
        ) from None
    finally:
        torch.set_num_threads(before)
    return min(took[1:]) / batch


def _device_name(execution: Execution) -> str:
    return device_name(torch.device(execution.kind))


def render(study: Study, budget: Budget) -> list[Part]:
    """Return the budget of a study as text."""
    rows = [
        [
            v.variant,
            f'{v.params / 1e6:.2f}',
            f'{v.total_flops / 1e9:.3f}',
            duration(budget.seconds[v.variant]),
        ]
        for v in budget.variants
    ]
    found = [
        f'{claim.says}: {budget.resolvable[claim.name]:.2f}'
        + (f' (paper {claim.paper})' if claim.paper else '')
        for claim in study.claim
    ]
    devices = budget.devices
    cost = (
        f'{budget.runs} runs ({len(study.variant)} variants x {len(study.seeds)} seeds) on '
        f'{budget.train_images:,} training and {budget.val_images:,} validation images, '
        f'{budget.places} at a time on {devices.name}: {duration(budget.total)}. '
        f'{devices.rate / 1e9:,.1f} G multiply-adds/s each ({devices.basis}). Computing alone: '
        'reading images and starting processes come on top.'
    )
    found_in_most = (
        'Smallest true difference in Top-1 (%) that would be found in 80 % of cases, at a '
        f'spread of paired differences of {budget.spread:.2f} ({budget.spread_source}):'
    )
    return [
        f'Study {study.name}: {study.about} {study.data}'.strip(),
        TextTable(['variant', 'params M', 'FLOPs G', 'a run'], rows),
        cost,
        '\n'.join([found_in_most, *found]),
        study.limits.strip(),
    ]
