"""What a trial of a training measures, and what of it means that the training will not run."""

import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from reproduce.base.wording import shortened

GIB = 2**30

# Two computations of one loss: on a CPU they are the same; a GPU sums in another order.
EQUAL = {'cpu': 1e-6, 'cuda': 1e-3}


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """How the trials of a rehearsal train.

    Attributes:
        steps: steps of the optimizer that are measured.
        batch_size: images of a step in each process; None takes the training's own.
        workers: data-loading workers of each process; None takes the training's own.
        precision: 'fp32', 'fp16' or 'bf16'; None takes the training's own.
        device: 'cpu' or 'cuda'; None takes GPUs where there are some.
        grad_checkpointing: keep less in memory, and compute it again in the backward pass.
        accumulation: parts of a classifier's step.
    """

    steps: int = 10
    batch_size: int | None = None
    workers: int | None = None
    precision: str | None = None
    device: str | None = None
    grad_checkpointing: bool = False
    accumulation: int = 1


@dataclass(frozen=True)
class TrialSettings(TrialOptions):
    """How a trial trains, and on what.

    Attributes:
        data: the folder of the data.
        labels: the folder of the label maps of token labeling, if there is one.
        images: how many the whole training has, by split.
        output: an empty folder that checkpoints are written into.
    """

    data: Path
    labels: Path | None
    images: dict[str, int]
    output: Path


@dataclass
class Trial:
    """What was measured in one process, or in all of them together.

    Attributes:
        device: 'cpu' or 'cuda'.
        losses: of each step.
        next_loss: of the step that follows them, and of the same step after a resumption.
        without_gradient: the parameters that got none.
        never_finite: the parameters whose gradient was NaN or infinite in every step.
        step_seconds: time of a step that does not wait for data.
        step_images: images of a step.
        loader_images_per_s: what the data-loading workers reach while nothing is computed.
        evaluated_images_per_s: speed of an evaluation.
        peak_bytes: of a GPU's memory, or of the process's on a CPU; the largest of all processes.
        disk_bytes: what the whole training writes.
        images, evaluated_images: how many the whole training computes gradients of, and evaluates.
        fp16: whether the loss is scaled, so that the gradients of first steps may overflow.
    """

    device: str
    losses: list[float] = field(default_factory=list)
    next_loss: tuple[float, float] = (0.0, 0.0)
    without_gradient: list[str] = field(default_factory=list)
    never_finite: list[str] = field(default_factory=list)
    step_seconds: float = 0.0
    step_images: int = 0
    loader_images_per_s: float = 0.0
    evaluated_images_per_s: float | None = None
    peak_bytes: int = 0
    disk_bytes: int = 0
    images: int = 0
    evaluated_images: int = 0
    fp16: bool = False

    @property
    def computed_images_per_s(self) -> float:
        """The speed of training where no step waits for data."""
        return self.step_images / self.step_seconds

    @property
    def images_per_s(self) -> float:
        """The speed that a long training settles at: that of the slower of loader and device."""
        return min(self.computed_images_per_s, self.loader_images_per_s)

    @property
    def limited_by(self) -> str:
        """What the speed depends on: 'device' or 'loader'."""
        slow = self.loader_images_per_s < self.computed_images_per_s
        return 'loader' if slow else 'device'

    @property
    def waiting_share(self) -> float:
        """The share of its time that a long training waits for data."""
        return 1 - self.images_per_s / self.computed_images_per_s

    @property
    def days(self) -> float:
        """How long the whole training takes, its evaluations included."""
        seconds = self.images / self.images_per_s
        if self.evaluated_images_per_s:
            seconds += self.evaluated_images / self.evaluated_images_per_s
        return seconds / 86_400

    def faults(self) -> list[str]:
        """Return a phrase for each thing that must not be in a training; none if all is well."""
        faults = []
        values = torch.tensor([*self.losses, *self.next_loss])
        if not torch.isfinite(values).all():
            faults.append(f'the losses are not finite: {shortened(self.losses)}')
        elif abs(self.next_loss[0] - self.next_loss[1]) > EQUAL[self.device] * abs(
            self.next_loss[0]
        ):
            faults.append(
                f'the loss after the save is {self.next_loss[0]:.6g}, and {self.next_loss[1]:.6g} '
                'after a resumption from it'
            )
        if self.without_gradient:
            faults.append(f'no gradient reaches {shortened(self.without_gradient, 3)}')
        if self.never_finite:
            names = shortened(self.never_finite, 3)
            more = '; fp16 may take more --steps to find its scale' if self.fp16 else ''
            faults.append(f'the gradient of {names} was not finite in any step{more}')
        return faults


def together(parts: list[Trial]) -> Trial:
    """Return the trial of all processes, whose steps are taken together, from those of each."""
    first = parts[0]
    return Trial(
        device=first.device,
        losses=[
            sum(values) / len(parts) for values in zip(*(p.losses for p in parts), strict=True)
        ],
        next_loss=tuple(
            sum(values) / len(parts) for values in zip(*(p.next_loss for p in parts), strict=True)
        ),
        without_gradient=sorted({name for p in parts for name in p.without_gradient}),
        never_finite=sorted({name for p in parts for name in p.never_finite}),
        step_seconds=max(p.step_seconds for p in parts),
        step_images=sum(p.step_images for p in parts),
        loader_images_per_s=sum(p.loader_images_per_s for p in parts),
        evaluated_images_per_s=first.evaluated_images_per_s
        and sum(p.evaluated_images_per_s for p in parts),
        peak_bytes=max(p.peak_bytes for p in parts),
        disk_bytes=first.disk_bytes,
        images=first.images,
        evaluated_images=first.evaluated_images,
        fp16=first.fp16,
    )


class GradientWatch:
    """Remembers which parameters of a model got a gradient, and whether it was finite.

    Args:
        model: looked at from now on; its frozen parameters are not.
    """

    def __init__(self, model: nn.Module) -> None:
        self.finite: dict[str, torch.Tensor] = {}
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(
                    lambda parameter, name=name: self._look(name, parameter)
                )

    def _look(self, name: str, parameter: nn.Parameter) -> None:
        finite = torch.isfinite(parameter.grad).all()
        self.finite[name] = self.finite[name] | finite if name in self.finite else finite

    def without_gradient(self) -> list[str]:
        """Return the names of the parameters that got no gradient."""
        return [name for name in self.names if name not in self.finite]

    def never_finite(self) -> list[str]:
        """Return the names of the parameters whose gradient was never finite."""
        return [name for name, finite in self.finite.items() if not finite]


def synchronized(device: torch.device) -> float:
    """Return the time, after all work of `device` is done."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def without_first(seconds: list[float]) -> float:
    """Return the mean of the steps' times, without the first one's, in which a device warms up."""
    counted = seconds[1:] or seconds
    return sum(counted) / len(counted)


def loader_speed(batches: Iterable[Any], images: int, workers: int) -> float:
    """Return the images that data-loading workers read in a second while nothing is computed.

    As many batches as there are workers are being read when the first one comes: they are not
    counted, and the same number that follow them are.

    Args:
        batches: of a loader whose pass begins now.
        images: of one batch.
        workers: the number of the loader's workers.
    """
    begin = time.perf_counter()
    each = max(1, workers)
    times = [time.perf_counter() for _ in islice(batches, 2 * each)]
    if len(times) > each:
        return images * (len(times) - each) / (times[-1] - times[each - 1])
    return images * len(times) / (times[-1] - begin)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has had on its GPU, or in memory on a CPU."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
