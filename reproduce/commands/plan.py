"""`python -m reproduce plan`: what the tables would evaluate, what is missing, where to get it."""

from dataclasses import asdict
from typing import Annotated

import typer

from reproduce.base import terminal
from reproduce.base.folders import EVALUATIONS
from reproduce.base.job_options import Limit
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, OutputFormat, print_json
from reproduce.systems.selection import rows_and_systems, select

app = typer.Typer(**SETTINGS)


@app.command()
def plan(
    tables: options.Tables = None,
    models: options.Models = None,
    data: options.SomeData = None,
    checkpoints: options.Checkpoints = None,
    limit: Limit = None,
    evaluations: options.Evaluations = EVALUATIONS,
    systems: Annotated[
        bool, typer.Option('--systems', help='List every system: its cells and what they need.')
    ] = False,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Say what `table` with the same options would evaluate, and what is missing for the rest.

    Measures nothing. How long an evaluation takes is what `make benchmark` measures.
    """
    # Imported here, so that `--help` does not wait for it.
    from reproduce.evaluate import planning, records
    from reproduce.evaluate.accuracies import find_inputs

    rows, chosen = rows_and_systems(tables)
    if models:
        rows, chosen = select(rows, chosen, models)
    inputs = find_inputs(chosen, data, checkpoints, limit)
    cells = planning.plan(rows, chosen, inputs, records.load_all(evaluations))
    if format is OutputFormat.JSON:
        print_json({'cells': [asdict(cell) for cell in cells]})
    elif systems:
        terminal.show(planning.by_system(cells))
    else:
        terminal.show(*planning.by_table(cells, inputs))
