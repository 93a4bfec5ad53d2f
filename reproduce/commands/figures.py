"""`python -m reproduce figures`: the figures as PDF and PNG."""

import io
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reproduce.base.files import check_writable, write_atomically
from reproduce.base.folders import RESULTS
from reproduce.base.worker_pool import worker_pool
from reproduce.commands import options
from reproduce.commands.options import SETTINGS
from reproduce.evaluate.records import load_all
from reproduce.judge.cells import load_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

app = typer.Typer(**SETTINGS)


class Convention(StrEnum):
    """Which FLOPs the models are drawn over."""

    TOTAL = 'total'
    LAYER = 'layer'


@app.command()
def figures(
    output: Annotated[
        Path, typer.Option('--output', help='Folder for the figures, each as PDF and PNG.')
    ] = RESULTS / 'figures',
    results: options.Results = RESULTS,
    flops: Annotated[
        Convention,
        typer.Option(
            '--flops',
            help="FLOPs that all models are drawn over: total includes attention's products, layer "
            'is convolutions and linear layers only, in figures called NAME-layer.',
        ),
    ] = Convention.TOTAL,
) -> None:
    """Draw accuracy over cost, the deviations from the paper, and results by class."""
    # Imported here, so that `--help` does not wait for matplotlib.
    from reproduce.report import plots

    check_writable(output)
    drawn = plots.figures(load_results(results), load_all(results / 'evaluations'), flops.value)
    files = {
        output / f'{name}.{format}': (drawing.figure, format)
        for (name, drawing), format in product(drawn.items(), ('pdf', 'png'))
    }
    with worker_pool() as pool:
        # The fonts of a PDF, cut to the characters in it, take most of the time.
        contents = pool.map(_content, *zip(*files.values(), strict=True))
        for path, content in zip(files, contents, strict=True):
            write_atomically(path, content)
    print(f'Written: {len(drawn)} figures, each as PDF and PNG, in {output}.')


def _content(figure: 'Figure', format: str) -> bytes:
    """Return the bytes of a figure's file."""
    from reproduce.report import plots

    content = io.BytesIO()
    plots.save(figure, content, format)
    return content.getvalue()
