"""Images/s, FLOPs/s and peak memory of networks, measured in one run: `make benchmark`.

The networks take turns, so that a slow moment of the machine hits them all, and the median round
counts. A product of two matrices takes its turn too: what a network reaches of its multiply-adds/s
is the share of the peak, which tells more than images/s between machines, and between moments of
one. Only ratios within one run mean much.

`results/speed.csv` holds the last inference of each network, for the tables and the report, and
`results/speed_history.csv` past runs: a network that became slower than the noise is named.
"""

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import torch.nn as nn
import torch.nn.functional as F
import typer
from tabulate import tabulate

from benchmarks import history
from benchmarks.subjects import Subject, baseline, named, of_table
from benchmarks.timing import Timed, in_turn, largest_batch, matrix_product, peak_mib
from reproduce.base.errors import UserError
from reproduce.base.files import check_writable
from reproduce.base.folders import RESULTS
from reproduce.base.progress import progress
from reproduce.base.quiet import quiet_libraries
from reproduce.commands.options import Amp, DeviceKind, Precision
from reproduce.evaluate.records import device_name
from reproduce.paper import DETECTION_SIZE
from reproduce.report.speeds import Speed, keep_speeds
from reproduce.tasks.job import PRECISIONS, inference

DEFAULT = (
    *('maformer_small_3383', 'maformer_small', 'maformer_base', 'maformer_large'),
    *('swin_tiny_patch4_window7_224', 'cswin_tiny', 'deit_small_patch16_224', 'resnet50'),
)
BATCH = {True: 16, False: 1}  # on a CPU, of classifiers and of the others
MATRICES = 'product of matrices'


def passes(
    subject: Subject, batch_size: int, train: bool, amp: str | None, compiled: bool, device: str
) -> Callable[[], object]:
    """Return the work that is measured: an inference or a training step of `batch_size` images.

    A training step is a forward pass, a backward pass and AdamW's update of a classifier.
    """
    network = subject.build(device)
    images = torch.randn(batch_size, 3, *subject.size, device=device)
    forward: nn.Module | Callable = partial(subject.forward, network)
    if compiled:
        network = torch.compile(network) if subject.is_classifier else network
        forward = (
            partial(subject.forward, network) if subject.is_classifier else torch.compile(forward)
        )
    if not train:

        def infer() -> None:
            with inference(torch.device(device), amp):
                forward(images)

        return infer
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=amp == 'fp16' and device == 'cuda')
    classes = torch.randint(1000, (batch_size,), device=device)

    def step() -> None:
        with torch.autocast(device, PRECISIONS.get(amp), enabled=amp is not None):
            loss = F.cross_entropy(forward(images), classes)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def added_memory(subject: Subject, train: bool, amp: str | None, device: str, batch: int) -> float:
    """Return the MiB that a pass adds to what is in use; in a process that did nothing else.

    Of a classifier's inference it is the pass that gives a detector its maps of one image of
    DETECTION_SIZE; of a training that of a step of `batch` images; else that of one image.
    """
    place = torch.device(device)
    if subject.is_classifier and not train:
        network = subject.pyramid(DETECTION_SIZE).to(place)
        image = torch.randn(1, 3, *DETECTION_SIZE, device=place)

        def work() -> None:
            with inference(place, amp):
                network(image)
    else:
        work = passes(subject, batch if train else 1, train, amp, False, device)
    before = peak_mib(place)
    work()
    return peak_mib(place) - before


def main(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help='timm models, systems of the tables, or OpenMMLab configs.  [default: the '
            "table's, or the MAFormers, Swin-T, CSWin-T, DeiT-S and ResNet-50]",
            show_default=False,
        ),
    ] = None,
    table: Annotated[int | None, typer.Option(help='All systems of this table.')] = None,
    train: Annotated[bool, typer.Option('--train', help='Training steps, not inference.')] = False,
    device: Annotated[DeviceKind, typer.Option(help='Where to compute.')] = DeviceKind.CPU,
    amp: Amp = Precision.OFF,
    compiled: Annotated[bool, typer.Option('--compile', help='With torch.compile.')] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help='Images a batch.  [default: on a GPU the largest power of two that fits all '
            'networks, on a CPU 16, and 1 of detectors and segmenters]',
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            help='Height and width of the images.  [default: those of the printed FLOPs]',
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help='Timed rounds; the median counts.', min=1)] = 7,
    threads: Annotated[
        int, typer.Option(help='CPU threads. With one, its CPU time counts.', min=1)
    ] = 2,
    compared_with: Annotated[
        str | None, typer.Option('--baseline', help='The one of ratio 1.  [default: Swin-T]')
    ] = None,
    memory: Annotated[
        bool, typer.Option(help='Measure the peak memory too, each network in a process.')
    ] = True,
    output: Annotated[Path, typer.Option(help='Folder of the two CSV files.')] = RESULTS,
    only_memory: Annotated[bool, typer.Option('--only-memory', hidden=True)] = False,
) -> None:
    """Compare the speed and the memory of networks, for inference or training."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    place, precision = torch.device(device.value), amp.autocast
    if place.type == 'cuda' and not torch.cuda.is_available():
        raise UserError('there is no GPU here that torch can use: take --device cpu.')
    with quiet_libraries():
        chosen = of_table(table, size) if table is not None else []
        chosen += [named(n, size) for n in (models or ([] if chosen else DEFAULT))]
    subjects = list({subject.name: subject for subject in chosen}.values())
    if train and (others := [s.name for s in subjects if not s.is_classifier]):
        raise UserError(
            f'--train measures classifiers, and {others[0]} is none: `rehearse` measures the '
            'training of a config.'
        )
    if only_memory:
        with quiet_libraries():
            added = added_memory(subjects[0], train, precision, place.type, batch_size or 1)
        print(added)
        return
    reference = baseline(subjects, compared_with)
    check_writable(output)
    works = partial(passes, train=train, amp=precision, compiled=compiled, device=place.type)
    if batch_size is None:
        classifiers = all(subject.is_classifier for subject in subjects)
        batch_size = (
            BATCH[classifiers]
            if place.type == 'cpu'
            else min(largest_batch(lambda n, s=subject: works(s, n)()) for subject in subjects)
        )
    dtype = PRECISIONS[precision] if precision else torch.float32
    product, multiply_adds = matrix_product(place, dtype)
    with quiet_libraries(), progress('timing, round', rounds) as shown:
        all_works = {subject.name: works(subject, batch_size) for subject in subjects}
        measured = in_turn(
            {**all_works, MATRICES: product}, rounds, place, lambda: shown(reference)
        )
        flops = {subject.name: subject.flops() for subject in subjects}
    del all_works
    added: dict[str, float | None] = dict.fromkeys(flops)
    if memory:
        with progress('measuring memory', len(subjects)) as shown:
            for name in flops:
                added[name] = _in_a_process(
                    name, train, place.type, precision, batch_size, size, threads
                )
                shown(name)
    peak = multiply_adds / measured.pop(MATRICES).seconds
    rates = {name: batch_size / one.seconds for name, one in measured.items()}
    where = device_name(place)
    if place.type == 'cpu':
        where += ', 1 thread (CPU time)' if threads == 1 else f', {threads} threads'
    now = datetime.now(UTC).isoformat(timespec='seconds')
    runs = [
        history.PastRun(
            date=now,
            machine=where,
            model=subject.name,
            work='training' if train else 'inference',
            size=_shown(subject.size),
            batch_size=batch_size,
            precision=precision or 'fp32',
            compiled=compiled,
            torch=torch.__version__,
            images_per_s=_rounded(rates[subject.name]),
            noise=round(measured[subject.name].noise, 4),
            peak_share=_rounded(
                (3 if train else 1) * rates[subject.name] * flops[subject.name] / peak
            ),
            peak_memory_mib=added[subject.name] and round(added[subject.name], 1),
        )
        for subject in subjects
    ]
    print(_table(runs, flops, measured, reference))
    print(
        f'{runs[0].work}, batch {batch_size}, {runs[0].precision}, '
        f'{"compiled" if compiled else "eager"}, {where}, medians of {rounds} rounds; '
        f'peak {peak / 1e9:,.0f} G multiply-adds/s; torch {torch.__version__}'
        + ('; a step counts three times the FLOPs of a forward pass' if train else '')
    )
    for sentence in history.slower(history.load(output), runs):
        print(f'slower than before: {sentence}')
    written = [history.add(output, runs)]
    if not train and memory:
        fields = set(Speed.model_fields) - {'device'}
        lines = [Speed(device=where, **run.model_dump(include=fields)) for run in runs]
        written.append(keep_speeds(output, lines))
    print(f'Written: {", ".join(map(str, written))}.')


def _in_a_process(
    name: str,
    train: bool,
    device: str,
    amp: str | None,
    batch_size: int,
    size: tuple[int, int] | None,
    threads: int,
) -> float:
    command = [sys.executable, '-m', 'benchmarks.speed', name, '--only-memory']
    command += ['--device', device, '--batch-size', str(batch_size), '--threads', str(threads)]
    command += ['--train'] if train else []
    command += ['--amp', amp] if amp else []
    command += ['--size', *map(str, size)] if size else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def _table(
    runs: list[history.PastRun], flops: dict[str, int], measured: dict[str, Timed], reference: str
) -> str:
    of = next(run for run in runs if run.model == reference)
    heads = ['network', 'pixels', 'G', 'images/s', '+-', 'ratio', 'G/s', 'of peak', 'MiB', 'ratio']
    rows = [
        [
            run.model,
            run.size,
            f'{flops[run.model] / 1e9:.2f}',
            f'{run.images_per_s:.4g}',
            f'{run.noise:.0%}',
            f'{run.images_per_s / of.images_per_s:.2f}',
            f'{run.images_per_s * flops[run.model] / 1e9:,.1f}',
            f'{run.peak_share:.0%}',
            '' if run.peak_memory_mib is None else f'{run.peak_memory_mib:,.0f}',
            ''
            if run.peak_memory_mib is None
            else f'{run.peak_memory_mib / of.peak_memory_mib:.2f}',
        ]
        for run in runs
    ]
    return tabulate(rows, heads, 'simple', disable_numparse=True)


def _shown(size: tuple[int, int]) -> str:
    return f'{size[0]} x {size[1]}'


def _rounded(value: float) -> float:
    return float(f'{value:.4g}')


if __name__ == '__main__':
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except UserError as error:
        sys.exit(f'error: {error}')
