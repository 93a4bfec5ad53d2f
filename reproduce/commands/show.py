"""`python -m reproduce show`: a cell or a record, with what repeats it."""

import typer

from reproduce.base.folders import EVALUATIONS, RESULTS
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, OutputFormat, print_json
from reproduce.judge.lookup import find
from reproduce.report import details

app = typer.Typer(**SETTINGS)


@app.command()
def show(
    names: options.Names,
    results: options.Results = RESULTS,
    evaluations: options.Evaluations = EVALUATIONS,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Print a cell or a record, and the command that repeats it.

    Measures nothing.
    """
    shown = find(names, results, evaluations)
    if format is OutputFormat.JSON:
        print_json(details.as_dict(shown))
    else:
        print('\n\n'.join(details.render(shown)))
