"""`python -m reproduce figures`: the figures as PDF and PNG."""

import io
from pathlib import Path
from typing import Annotated

from typer import Option

from reproduce.base.files import check_writable, write_atomically
from reproduce.base.folders import RESULTS
from reproduce.commands import options
from reproduce.judge.cells import load_results


def figures(
    output: Annotated[Path, Option(help='Folder for the figures, each as PDF and PNG.')] = RESULTS
    / 'figures',
    results: options.Results = RESULTS,
) -> None:
    """Draw accuracy over cost, and the differences that the ablations measured."""
    # Imported here, so that `--help` does not wait for matplotlib.
    from reproduce.ablation.outcomes import load_studies
    from reproduce.report import plots

    check_writable(output)
    drawn = plots.figures(load_results(results))
    if studies := load_studies(results):
        drawn['ablations'] = plots.studies_figure(studies)
    for name, drawing in drawn.items():
        figure = drawing.draw()
        for format in ('pdf', 'png'):
            content = io.BytesIO()
            plots.save(figure, content, format)
            write_atomically(output / f'{name}.{format}', content.getvalue())
    print(f'Written: {len(drawn)} figures, each as PDF and PNG, in {output}.')
