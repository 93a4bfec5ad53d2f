"""`python -m reproduce plan`: what the tables would evaluate, and how long it takes."""

from pathlib import Path
from typing import Annotated

import typer

from reproduce.base import terminal
from reproduce.base.errors import UserError
from reproduce.base.folders import ABLATIONS, EVALUATIONS
from reproduce.base.quiet import quiet_libraries
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, OutputFormat, Precision, print_json
from reproduce.systems.selection import rows_and_systems, select

app = typer.Typer(**SETTINGS)


@app.command()
def plan(
    context: typer.Context,
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
    study: Annotated[
        str | None,
        typer.Option(
            help='Plan this ablation study instead: micro, small, paper or a TOML file. Takes '
            '--data, --device and --format only.'
        ),
    ] = None,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Say what `table` with the same options would evaluate, and how long it takes.

    Also says which weights and data are missing. Measures no accuracy.
    """
    if study is not None:
        _check_study_options(context)
        return _plan_study(study, data, device, format)
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


def _check_study_options(context: typer.Context) -> None:
    """Raise a `UserError` about options that are for tables and not for studies."""
    given = {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) and source.name == 'COMMANDLINE'
    }
    if ignored := sorted(given - {'study', 'data', 'device', 'format'}):
        names = ', '.join(
            name if name == 'tables' else f'--{name.replace("_", "-")}' for name in ignored
        )
        raise UserError(f'a study is planned without {names}: leave out one or the other.')


def _plan_study(name: str, data: Path | None, device: str | None, format: OutputFormat) -> None:
    """Say what a study would cost and could resolve, as `ablation --dry-run` does."""
    # Imported here, so that `--help` does not wait for torch and scipy.
    from reproduce.ablation.budget import estimate, render
    from reproduce.ablation.execution import Execution
    from reproduce.ablation.outcomes import earlier_outcomes
    from reproduce.ablation.study import load_study

    study = load_study(name)
    folder = ABLATIONS / study.name
    with quiet_libraries():
        budget = estimate(Execution(study, folder, data), device, earlier_outcomes(study, folder))
    if format is OutputFormat.JSON:
        print_json(budget.as_dict())
    else:
        print(render(study, budget))
