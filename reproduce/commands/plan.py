"""`python -m reproduce plan`: what the tables would evaluate, and how long it takes."""

from typing import Annotated

import typer

from reproduce.base import terminal
from reproduce.base.folders import EVALUATIONS
from reproduce.base.quiet import quiet_libraries
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, OutputFormat, Precision, print_json
from reproduce.systems.selection import rows_and_systems, select

app = typer.Typer(**SETTINGS)


@app.command()
def plan(
    tables: options.Tables = None,
    models: options.Models = None,
    data: options.SomeData = None,
    checkpoints: options.Checkpoints = None,
    processes: options.Processes = 1,
    limit: options.Limit = None,
    batch_size: options.BatchSize = None,
    amp: options.Amp = Precision.OFF,
    evaluations: options.Evaluations = EVALUATIONS,
    device: Annotated[
        str | None,
        typer.Option(
            '--device',
            help='Estimate for these GPUs, such as 8xV100, A100 or 4xH100.  [default: this '
            'machine, whose speed is measured]',
            show_default=False,
        ),
    ] = None,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Say what `table` with the same options would evaluate, and how long it takes.

    Also says which weights and data are missing. Measures no accuracy.
    """
    with quiet_libraries():
        # Imported here, so that `--help` waits for none of it.
        from reproduce.evaluate import planning
        from reproduce.evaluate.accuracies import Request

        rows, systems = rows_and_systems(tables)
        if models:
            rows, systems = select(rows, systems, models)
        request = Request(
            data=data,
            weights=checkpoints,
            folder=evaluations,
            processes=processes,
            limit=limit,
            batch_size=batch_size,
            amp=amp.autocast,
        )
        drawn = planning.plan(rows, systems, request, device)
    if format is OutputFormat.JSON:
        print_json(drawn.as_dict())
    else:
        terminal.show(*planning.render(drawn))
