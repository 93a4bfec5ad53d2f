"""The command line: `python -m reproduce`."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reproduce import options
from reproduce.audit.command import audit_command
from reproduce.checkpoints_command import checkpoints_command
from reproduce.errors import UserError
from reproduce.evaluate import command as evaluation
from reproduce.gate_command import accept_command, show_command
from reproduce.options import RESULTS
from reproduce.quiet import quiet_libraries
from reproduce.report.command import figures_command, report_command, tables_command
from reproduce.score import command as scoring
from reproduce.train.command import labels_command, train_app

if TYPE_CHECKING:
    from reproduce.paper import Row
    from reproduce.systems import System


app = typer.Typer(
    help="Does the number in the paper's table hold? Reproduces Tables 1-7 of MAFormer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={'help_option_names': ['-h', '--help']},
)

app.add_typer(evaluation.app, name='evaluate')
app.add_typer(scoring.app, name='score')
app.add_typer(train_app, name='train')
app.command('checkpoints')(checkpoints_command)
app.command('regress')(evaluation.regress)
app.command('accept')(accept_command)
app.command('show')(show_command)
app.command('labels')(labels_command)
app.command('audit')(audit_command)
app.command('tables')(tables_command)
app.command('figures')(figures_command)
app.command('report')(report_command)


class Format(StrEnum):
    """How the result is printed."""

    TABLE = 'table'
    JSON = 'json'


Tables = Annotated[
    list[int] | None, typer.Argument(help='Tables of the paper, 1-7; all if none is named.')
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        '--models',
        help="Only these: printed names ('Swin-T') or systems ('maformer_base'), comma-separated "
        'or repeated. The CSVs are then written only where --output says so.',
    ),
]
Strict = Annotated[bool, typer.Option('--strict', help='Exit with 1 also when a cell is not-run.')]
Output = Annotated[
    Path | None,
    typer.Option(
        '--output', help=f'Folder for the CSVs.  [default: {RESULTS}]', show_default=False
    ),
]
OutputFormat = Annotated[
    Format,
    typer.Option(
        '--format', help='json prints one JSON object and nothing else to standard output.'
    ),
]

Data = Annotated[
    Path | None,
    typer.Option(
        '--data',
        help='Folder of ImageNet, COCO or ADE20K, or of several of them, to evaluate on.',
    ),
]
Checkpoints = Annotated[
    Path | None,
    typer.Option(
        '--checkpoints', help='Folder with the weights of each system, as SYSTEM.safetensors.'
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option('--batch-size', help="Images a batch, in each process.  [default: the task's]"),
]
Evaluations = Annotated[
    Path, typer.Option('--evaluations', help='Folder of the evaluation records.')
]


@app.callback()
def main() -> None:
    """Does the number in the paper's table hold? Reproduces Tables 1-7 of MAFormer."""


@app.command()
def table(
    tables: Tables = None,
    models: Models = None,
    strict: Strict = False,
    output: Output = None,
    data: Data = None,
    checkpoints: Checkpoints = None,
    processes: options.Processes = 1,
    limit: options.Limit = None,
    batch_size: BatchSize = None,
    workers: options.Workers = 4,
    amp: options.Amp = None,
    evaluations: Evaluations = evaluation.EVALUATIONS,
    format: OutputFormat = Format.TABLE,
) -> None:
    """Measure, judge and write every cell of the paper's tables.

    Accuracies come from the evaluation records; with --data and --checkpoints, every system whose
    weights are there is evaluated first.

    Exits with 0; with 1 if a cell is worse than its target allows; with 2 if one could not be
    measured, or on an error of the user's.
    """
    with quiet_libraries():
        from reproduce import cells as table_cells
        from reproduce import complexity, files, paper, results
        from reproduce.evaluate import tables as evaluated
        from reproduce.report import terminal

        numbers, rows, systems = _rows_and_systems(tables)
        folder = output or (None if models else RESULTS)
        if folder is not None:
            files.check_writable(folder)
        tolerances, known = paper.load_tolerances(), results.load_known()
        results.check_known(known, rows, systems)
        if models:
            rows, systems = _select(rows, systems, models)
        complexities = complexity.measure_systems(systems)
        request = evaluated.Request(
            data, checkpoints, evaluations, processes, limit, batch_size, workers, amp and amp.value
        )
        accuracies = evaluated.standing(systems, request)
        cells = results.assemble(rows, systems, complexities, tolerances, known, accuracies)
        written = table_cells.write(cells, folder) if folder is not None else []

    code = results.exit_code(cells, strict)
    if format is Format.JSON:
        result = {
            'tables': {n: [asdict(cell) for cell in cells if cell.table == n] for n in numbers},
            'summary': results.count(cells),
            'written': [str(path) for path in written],
            'exit_code': code,
        }
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print(terminal.render(cells))
        print(f'Written: {", ".join(map(str, written)) or "nothing; name a folder with --output"}.')
    raise typer.Exit(code)


@app.command()
def plan(
    tables: Tables = None,
    models: Models = None,
    data: Data = None,
    checkpoints: Checkpoints = None,
    processes: options.Processes = 1,
    limit: options.Limit = None,
    batch_size: BatchSize = None,
    amp: options.Amp = None,
    evaluations: Evaluations = evaluation.EVALUATIONS,
    device: Annotated[
        str | None,
        typer.Option(
            '--device',
            help='Estimate for these GPUs, such as 8xV100, A100 or 4xH100.  [default: this '
            'machine, whose speed is measured]',
            show_default=False,
        ),
    ] = None,
    format: OutputFormat = Format.TABLE,
) -> None:
    """Tell what `table` with the same options would evaluate, how long it takes, what is missing.

    Measures no accuracy and writes nothing.
    """
    with quiet_libraries():
        from reproduce import plan as planning
        from reproduce.evaluate.tables import Request

        _, rows, systems = _rows_and_systems(tables)
        if models:
            rows, systems = _select(rows, systems, models)
        request = Request(
            data=data,
            weights=checkpoints,
            folder=evaluations,
            processes=processes,
            limit=limit,
            batch_size=batch_size,
            amp=amp and amp.value,
        )
        drawn = planning.plan(rows, systems, request, device)
    if format is Format.JSON:
        print(json.dumps(drawn.as_dict(), indent=2, ensure_ascii=False))
    else:
        print(planning.render(drawn))


def _rows_and_systems(
    tables: Sequence[int] | None,
) -> 'tuple[list[int], list[Row], list[System]]':
    """The numbers of the named tables, or of all; their rows; the systems that stand for them."""
    from reproduce import paper
    from reproduce.systems import load_systems

    numbers = paper.table_numbers(tables)
    rows = [row for number in numbers for row in paper.load_table(number)]
    return numbers, rows, [s for s in load_systems() if any(s.stands_for(row) for row in rows)]


def _select(
    rows: 'Sequence[Row]', systems: 'Sequence[System]', models: Sequence[str]
) -> 'tuple[list[Row], list[System]]':
    """The rows and systems that `models` names, by printed name, system or timm model."""
    names = [name.strip() for entry in models for name in entry.split(',') if name.strip()]
    if not names:
        raise UserError('--models names nothing: give printed names or systems.')
    chosen = set()
    for name in names:
        found = {
            (row.table, row.model, system.name)
            for row in rows
            for system in systems
            if system.stands_for(row) and name in (row.model, system.name, system.model)
        }
        if not found:
            existing = {row.model for row in rows} | {s.name for s in systems}
            lower = {known.lower(): known for known in existing}
            near = [lower[n] for n in get_close_matches(name.lower(), lower, n=4, cutoff=0.3)]
            raise UserError(
                f"no row or system of these tables is called '{name}'; the nearest are "
                f'{", ".join(near) or ", ".join(sorted(existing))}.'
            )
        chosen |= found
    return (
        [row for row in rows if any((row.table, row.model) == key[:2] for key in chosen)],
        [system for system in systems if any(system.name == key[2] for key in chosen)],
    )


def run() -> None:
    """Entry point: errors of the user's in one line, no traceback."""
    sys.stdout.reconfigure(errors='replace')  # a terminal that cannot show ✓ shows ?
    try:
        app()
    except UserError as error:
        if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
            print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        # typer makes a silent exit with 130 of an interrupt.
        if isinstance(stop, SystemExit) and stop.code != 130:
            raise
        print('interrupted: earlier results are as they were', file=sys.stderr)
        sys.exit(130)
