"""Images/s, FLOPs/s and peak memory of networks, measured in one run: `make benchmark`.

The networks take turns, so that a slow moment of the machine affects all of them, and the median
round counts. A product of two matrices takes its turn too: the multiply-adds/s of a network divided
by its own are the network's share of the peak. Only ratios within one run mean much.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
import typer
from tabulate import tabulate

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from reproduce.base.errors import UserError
from reproduce.base.job_options import Amp
from reproduce.base.quiet import quiet_libraries
from reproduce.commands.options import SETTINGS
from reproduce.complexity.measuring import measure
from reproduce.evaluate.records import device_name
from reproduce.openmmlab import configs, models
from reproduce.systems import timm_names
from reproduce.systems.selection import factory, named
from reproduce.tasks.job import PRECISIONS, autocast, inference
from reproduce.train.memory import PeakMemory

DEFAULT = (
    *('maformer_small_3383', 'maformer_small', 'maformer_base', 'maformer_large'),
    *('swin_tiny_patch4_window7_224', 'cswin_tiny', 'deit_small_patch16_224', 'resnet50'),
)
WARM_UP = {'cpu': 1, 'cuda': 5}
MATRIX = {'cpu': 1024, 'cuda': 8192}  # side of the matrices whose product shows the peak


@dataclass(frozen=True)
class Subject:
    """A network, and the height and width in pixels of the images that it is measured with.

    Attributes:
        make: returns the network, on torch's default device.
        forward: passes images (B, 3, H, W) through it. A detector's and a segmenter's pass is the
            one whose FLOPs are published: cropping RoIs, NMS and pasting masks are left out.
        is_classifier: whether its output is logits (B, K), which --train needs.
    """

    make: Callable[[], nn.Module]
    size: tuple[int, int]
    forward: Callable[[nn.Module, torch.Tensor], Any] = nn.Module.__call__
    is_classifier: bool = True

    def build(self, device: torch.device | str) -> nn.Module:
        """Return the network in evaluation mode, with random weights."""
        with torch.device(device):
            return self.make().eval()

    def flops(self) -> int:
        """Return the multiply-adds of the pass of one image, those of attention included."""
        image = torch.empty(1, 3, *self.size, device='meta')
        return measure(self.build('cpu'), lambda model: self.forward(model, image)).total_flops


def subject(name: str) -> Subject:
    """Return the system of the tables, the config, the timm model or the function called `name`.

    A function, MODULE:FACTORY, returns a classifier. Images have the size of the published FLOPs.

    Raises:
        UserError: if there is no such system, config or model, or a system is only cited.
    """
    if make := factory(name):
        return Subject(make, (224, 224))
    system = named(name)
    if system.model is None:
        config = configs.load_config(system.config)
        return Subject(
            lambda: models.build(config, torch.get_default_device()),
            models.published_size(config),
            models.published_forward(config),
            is_classifier=False,
        )
    size = system.input_size
    # Some networks check the size of their input, unless it is given.
    arguments = system.arguments | timm_names.size_argument(system.model, size)
    return Subject(partial(timm.create_model, system.model, **arguments), (size, size))


def passes(
    of: Subject, batch_size: int, train: bool, amp: str | None, compiled: bool, device: str
) -> Callable[[], object]:
    """Return the work that is measured: an inference or a training step of `batch_size` images.

    A training step is a forward pass, a backward pass and AdamW's update of a classifier.
    """
    network = of.build(device)
    images = torch.randn(batch_size, 3, *of.size, device=device)
    forward = partial(of.forward, torch.compile(network) if compiled else network, images)
    if not train:

        def infer() -> None:
            with inference(torch.device(device), amp):
                forward()

        return infer
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=amp == 'fp16' and device == 'cuda')
    classes = torch.randint(1000, (batch_size,), device=device)

    def step() -> None:
        with autocast(torch.device(device), amp):
            loss = F.cross_entropy(forward(), classes)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call.

    On a GPU those between two events on its stream. On a CPU with one thread its CPU time, to which
    other programs on the machine add little; with several threads the time that passes.
    """
    if device.type == 'cuda':
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    work()
    return clock() - begin


def added_memory(work: Callable[[], object], device: torch.device) -> float:
    """Return the MiB of the tensors that a call adds to those that exist."""
    work()  # an optimizer has its state from the first step on
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with PeakMemory() as memory:
        work()
    return memory.peak / 2**20


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar='MODEL|CONFIG|MODULE:FACTORY',
            help='timm models, systems of the tables, OpenMMLab configs, or functions that return '
            'a classifier.  [default: the MAFormers, Swin-T, CSWin-T, DeiT-S and ResNet-50]',
        ),
    ] = None,
    train: Annotated[bool, typer.Option('--train', help='Training steps, not inference.')] = False,
    device: Annotated[Literal['cpu', 'cuda'], typer.Option(help='Where to compute.')] = 'cpu',
    amp: Amp = 'off',
    compiled: Annotated[bool, typer.Option('--compile', help='With torch.compile.')] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help='Images a batch.  [default: 16 on a CPU, 64 on a GPU; 1 with detectors and '
            'segmenters]',
            min=1,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help='Timed rounds; the median counts.', min=1)] = 7,
    threads: Annotated[
        int, typer.Option(help='CPU threads. With one, its CPU time counts.', min=1)
    ] = 2,
) -> None:
    """Compare the speed and the memory of networks, for inference or training."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    place, precision = torch.device(device), None if amp == 'off' else amp
    if device == 'cuda' and not torch.cuda.is_available():
        raise UserError('torch finds no GPU on this machine: measure with --device cpu.')
    with quiet_libraries():
        subjects = {name: subject(name) for name in names or DEFAULT}
        others = [name for name, one in subjects.items() if not one.is_classifier]
        if train and others:
            raise UserError(
                f'--train measures classifiers only, and {others[0]} is a detector or segmenter: '
                '`rehearse` measures the training of a config.'
            )
        batch_size = batch_size or (1 if others else 16 if device == 'cpu' else 64)
        dtype = getattr(torch, PRECISIONS[precision]) if precision else torch.float32
        side = MATRIX[device]
        a, b = (torch.randn(side, side, device=place, dtype=dtype) for _ in range(2))
        works = {
            name: passes(one, batch_size, train, precision, compiled, device)
            for name, one in subjects.items()
        }
        works[''] = lambda: a @ b
        for work in works.values():
            for _ in range(WARM_UP[device]):
                work()
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for number in range(rounds):
            for name, work in works.items():
                seconds[name].append(seconds_of(work, place))
            print(f'timed round {number + 1} of {rounds}', file=sys.stderr)
        del works
        memory = {
            name: added_memory(passes(one, batch_size, train, precision, False, device), place)
            for name, one in subjects.items()
        }
    where = device_name(place)
    if device == 'cpu':
        where += ', 1 thread (CPU time)' if threads == 1 else f', {threads} threads'
    peak = side**3 / statistics.median(seconds.pop(''))
    rows = []
    base = next((n for n in subjects if 'swin_tiny' in n or '_swin-t' in n), next(iter(subjects)))
    for name, one in subjects.items():
        median, flops = statistics.median(seconds[name]), one.flops()
        # A backward pass has twice the multiply-adds of a forward pass.
        share = batch_size * flops * (3 if train else 1) / median / peak
        rows.append(
            [
                *(name, f'{one.size[0]} x {one.size[1]}', f'{flops / 1e9:.2f}'),
                f'{batch_size / median:.4g}',
                f'{share:.0%}',
                f'{statistics.median(seconds[base]) / median:.2f}',
                *(f'{memory[name]:,.0f}', f'{memory[name] / memory[base]:.2f}'),
            ]
        )
    heads = ['network', 'pixels', 'G', 'images/s', 'of peak', 'ratio', 'MiB', 'ratio']
    print(tabulate(rows, heads, 'simple', disable_numparse=True))
    print(
        f'{"training" if train else "inference"}, batch {batch_size}, {precision or "fp32"}, '
        f'{"compiled" if compiled else "eager"}, {where}, medians of {rounds} rounds; peak '
        f'{peak / 1e9:,.0f} G multiply-adds/s; ratios to {base}; torch {torch.__version__}'
    )


if __name__ == '__main__':
    app = typer.Typer(**SETTINGS)
    app.command()(main)
    try:
        app()
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
