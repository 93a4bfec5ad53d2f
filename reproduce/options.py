"""Options that several commands have, and how their results are printed."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from tabulate import tabulate

RESULTS = Path('results')


class Format(StrEnum):
    """How the result is printed."""

    TEXT = 'text'
    JSON = 'json'


class Precision(StrEnum):
    """What autocast computes in."""

    FP16 = 'fp16'
    BF16 = 'bf16'


class Device(StrEnum):
    """What computes."""

    CPU = 'cpu'
    CUDA = 'cuda'


Data = Annotated[
    Path, typer.Option('--data', help="The data set's folder, or the one that it lies in.")
]
Processes = Annotated[
    int,
    typer.Option(
        '--processes',
        help='Processes on this machine, one a GPU; torchrun starts them. Under a torchrun or srun '
        'of your own, as on several nodes, that says how many, and this is ignored.',
    ),
]
Limit = Annotated[
    int | None,
    typer.Option('--limit', help='Only so many images: a subset, never held against the paper.'),
]
BatchSize = Annotated[int, typer.Option('--batch-size', help='Images a batch, in each process.')]
Workers = Annotated[int, typer.Option('--workers', help='Processes that read images, for each.')]
Amp = Annotated[
    Precision | None, typer.Option('--amp', help='Autocast to this.  [default: fp32 throughout]')
]
OnDevice = Annotated[
    Device | None, typer.Option('--device', help='[default: cuda where there is one]')
]
Checkpoint = Annotated[
    str,
    typer.Option(
        '--checkpoint',
        help="A file, a folder with SYSTEM.safetensors (or .pth, ...), or a released checkpoint's "
        'name.',
    ),
]
OutputFormat = Annotated[
    Format,
    typer.Option('--format', help='json prints one JSON object, nothing else, to standard output.'),
]


def print_metrics(
    metrics: dict[str, float], intervals: dict[str, tuple[float, float]] | None = None
) -> None:
    """One line for each metric, in percent, with its 95 % interval where it has one."""
    width = max(map(len, metrics))
    for name, value in metrics.items():
        low, high = (intervals or {}).get(name, (None, None))
        told = '' if low is None else f'  (95 %: {low:.2f} to {high:.2f})'
        print(f'{name:{width}}  {value:6.2f} %{told}')


def extent(images: int, complete: bool, problems: tuple[str, ...]) -> str:
    """How much of a data set something was measured on, in words."""
    if complete:
        return f'the complete {images:,} images'
    return f'a subset of {images:,} images ({"; ".join(problems)})'


def print_classes(per_class: dict[str, dict[str, float]]) -> None:
    """A table of the metrics of single classes, in percent."""
    rows = [{'class': name, **values} for name, values in per_class.items()]
    print()
    print(tabulate(rows, 'keys', 'simple', floatfmt='.2f', missingval=''))
