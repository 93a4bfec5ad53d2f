"""`python -m reproduce checkpoints`: which weights are public, which are here; their download."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from reproduce.base import terminal
from reproduce.base.errors import UserError
from reproduce.base.wording import nearest
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, OutputFormat, print_json
from reproduce.paper import Row
from reproduce.systems import System
from reproduce.systems.selection import rows_and_systems
from reproduce.weights import registry
from reproduce.weights.registry import Public
from reproduce.weights.store import in_folder, obtain, state, stored

app = typer.Typer(**SETTINGS)


@app.command()
def checkpoints(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar='SYSTEM', help='Only those of these systems.'),
    ] = None,
    tables: Annotated[
        list[int] | None,
        typer.Option('--table', help='Only those of this table, 1-7; repeat for more.'),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option('--checkpoints', help='Folder of the weights, and of the downloads.'),
    ] = None,
    download: Annotated[
        bool,
        typer.Option(
            '--download', help='Fetch those that are absent, of the named systems or tables.'
        ),
    ] = False,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """List the public weights of the paper's systems, or fetch them.

    Exits with 2 if one cannot be downloaded, or is another file than the published one.
    """
    rows, systems = rows_and_systems(tables)
    chosen = _chosen(systems, names or [])
    if download and folder is None:
        raise UserError('--download needs a folder for the files: name it with --checkpoints.')
    if download and not (names or tables):
        raise UserError(
            f'--download would fetch all {len(chosen)} files, several GB: name systems, or tables '
            'with --table.'
        )
    if not download and folder is not None and not folder.is_dir():
        raise UserError(f'{folder} is not a folder: expected one with weights.')
    failures = _fetched(chosen, folder) if download else []
    of_system = {system.name: system for system in systems}
    listed = [_entry(public, of_system[public.system], rows, folder) for public in chosen]
    code = 2 if failures else 0
    if format is OutputFormat.JSON:
        print_json({'checkpoints': listed, 'failures': failures, 'exit_code': code})
    else:
        terminal.show(*_rendered(listed))
    raise typer.Exit(code)


def _chosen(systems: Sequence[System], names: Sequence[str]) -> list[Public]:
    """Return the public weights of `systems`, or of those of them that are named."""
    existing = {system.name for system in systems}
    available = {e.system: e for e in registry.load_public() if e.system in existing}
    for name in names:
        if name not in existing:
            near = ', '.join(nearest(name, available, 3) or available)
            raise UserError(
                f"there is no system '{name}' in these tables; the nearest with public weights are "
                f'{near}.'
            )
        if name not in available:
            raise UserError(f'{name} has no public weights.')
    return [entry for name, entry in available.items() if not names or name in names]


def _fetched(chosen: Sequence[Public], folder: Path) -> list[str]:
    """Fetch what is absent; return a line for each failure, which does not stop the others.

    An existing file is never replaced, whatever it is.
    """
    failures = []
    for public in chosen:
        try:
            if in_folder(folder, public.system) is None:
                obtain(public, folder=folder)
            else:
                stored(public, folder)
        except UserError as error:
            failures.append(str(error))
            print(f'error: {error}', file=sys.stderr)
    return failures


def _entry(
    public: Public, system: System, rows: Sequence[Row], folder: Path | None
) -> dict[str, Any]:
    """Return everything that is known about one, and the paper's values for it."""
    reference = public.reference[0]
    path = folder and in_folder(folder, public.system)
    of_system = [row for row in rows if system.stands_for(row)]
    printed = {
        column.metric.name: cell.text
        for row in of_system
        for column in system.columns(row.table)
        if (cell := row.cells[column.name]) and column.metric.name in reference.metrics
    }
    return {
        'system': public.system,
        'tables': sorted({row.table for row in of_system}),
        'weights': public.name,
        'state': state(public, path),
        'file': path and str(path),
        'size': path and path.stat().st_size,
        'url': public.url,
        'sha256': public.sha256,
        'licence': public.licence,
        'published': reference.metrics,
        'source': reference.source,
        'paper': printed,
        'protocol': public.protocol,
    }


def _rendered(listed: list[dict[str, Any]]) -> list[terminal.Part]:
    rows = [
        [
            ', '.join(map(str, entry['tables'])),
            entry['system'],
            entry['state'],
            ', '.join(
                f'{metric} {value:g} ({entry["paper"].get(metric, "–")})'
                for metric, value in entry['published'].items()
            ),
            entry['licence'],
        ]
        for entry in listed
    ]
    heads = ['table', 'system', 'state', 'published (paper)', 'licence']
    others = [f'{entry["system"]}: {entry["protocol"]}.' for entry in listed if entry['protocol']]
    parts: list[terminal.Part] = [terminal.TextTable(heads, rows)]
    if others:
        parts.append('\n'.join(['Trained or evaluated otherwise than the row:', *others]))
    return parts
