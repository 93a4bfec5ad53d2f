"""`python -m reproduce table`: measure, judge and write the cells of the paper's tables."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from reproduce.base import files
from reproduce.base.folders import EVALUATIONS, RESULTS
from reproduce.base.job_options import Amp, Limit, Workers
from reproduce.base.quiet import quiet_libraries
from reproduce.commands import options
from reproduce.systems.selection import rows_and_systems, select


def table(
    tables: options.Tables = None,
    models: options.Models = None,
    strict: Annotated[
        bool, Option('--strict', help='Exit with 1 also when a cell is not-run.')
    ] = False,
    output: Annotated[
        Path | None,
        Option(
            help=f'Folder for the CSVs.  [default: {RESULTS}; with --models none is written]',
            show_default=False,
        ),
    ] = None,
    data: options.SomeData = None,
    checkpoints: options.Checkpoints = None,
    processes: options.Processes = 1,
    limit: Limit = None,
    workers: Workers = None,
    amp: Amp = 'off',
    evaluations: options.Evaluations = EVALUATIONS,
    format: options.Format = 'text',
) -> None:
    """Measure, judge and write every cell of the paper's tables.

    Accuracies come from the evaluation records; with --data and --checkpoints, every system whose
    weights are there is evaluated first.

    Exits with 0; with 1 if a cell is worse than its target allows; with 2 if a cell could not be
    measured, or an option or a file is wrong.
    """
    with quiet_libraries():
        # Imported here, so that `--help` waits for none of it.
        from reproduce.complexity import counts
        from reproduce.evaluate import accuracies
        from reproduce.judge import assembly, cells
        from reproduce.report import listing

        rows, systems = select(*rows_and_systems(tables), models)
        folder = output or (None if models else RESULTS)
        if folder is not None:
            files.check_writable(folder)
        complexities = counts.count(systems)
        measured = accuracies.measure(
            *(systems, data, checkpoints, evaluations),
            processes=processes,
            limit=limit,
            workers=workers,
            amp=amp,
        )
        judged = assembly.assemble(rows, systems, complexities, measured)
        written = cells.write(judged, folder) if folder is not None else []

    code = assembly.exit_code(judged, strict)
    by_table: dict[int, list[Any]] = {number: [] for number in sorted({r.table for r in rows})}
    for cell in judged:
        by_table[cell.table].append(cell.model_dump(mode='json'))
    names = [str(path) for path in written]
    result = {
        'tables': by_table,
        'summary': assembly.count(judged),
        'published': assembly.count_published(judged),
        'written': names,
        'exit_code': code,
    }
    shown = ', '.join(names) or 'nothing; name a folder with --output'
    options.show(format, result, *listing.render(judged), f'Written: {shown}.')
    raise typer.Exit(code)
