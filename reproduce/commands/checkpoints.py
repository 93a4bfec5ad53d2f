"""`python -m reproduce checkpoints`: which weights are public, which are here; their download."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from reproduce.base import terminal
from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.commands import options
from reproduce.systems.selection import rows_and_systems, select
from reproduce.weights import registry
from reproduce.weights.download import receipt, write_receipt
from reproduce.weights.registry import Public
from reproduce.weights.store import in_folder, obtain, state, stored


def checkpoints(
    names: Annotated[
        list[str] | None, Argument(metavar='SYSTEM', help='Only those of these systems.')
    ] = None,
    tables: Annotated[
        list[int] | None, Option('--table', help='Only those of this table, 1-7; repeat for more.')
    ] = None,
    folder: Annotated[
        Path | None, Option('--checkpoints', help='Folder of the weights, and of the downloads.')
    ] = None,
    download: Annotated[
        bool,
        Option('--download', help='Fetch those that are absent, of the named systems or tables.'),
    ] = False,
    format: options.Format = 'text',
) -> None:
    """List the public weights of the paper's systems, or fetch them.

    Exits with 2 if one cannot be downloaded, or is another file than the published one.
    """
    if download and (folder is None or not (names or tables)):
        raise UserError(
            '--download needs a folder, --checkpoints FOLDER, and systems or tables: all weights '
            'together are many GB.'
        )
    if download:
        folder.mkdir(parents=True, exist_ok=True)
    rows, systems = select(*rows_and_systems(tables), names)
    of_system = {system.name: system for system in systems}
    listed, failures = [], []
    for public in registry.load_public():
        if public.system not in of_system:
            continue
        if download:
            try:
                _fetch(public, folder)
            except UserError as error:
                failures.append(str(error))
                print(f'error: {error}', file=sys.stderr)
        system, published = of_system[public.system], public.reference[0]
        path = folder and in_folder(folder, public.system)
        of_rows = [row for row in rows if system.stands_for(row)]
        listed.append(
            {
                **public.model_dump(include={'system', 'url', 'by_hand', 'sha256', 'licence'}),
                'tables': sorted({row.table for row in of_rows}),
                'weights': public.name,
                'state': state(public, path),
                'file': path and str(path),
                'size': path and path.stat().st_size,
                'published': published.metrics,
                'source': published.source,
                'paper': {
                    column.metric.name: cell.text
                    for row in of_rows
                    for column in system.columns(row.table)
                    if (cell := row.cells[column.name]) and column.metric.name in published.metrics
                },
                'protocol': public.protocol,
            }
        )
    if not listed:
        raise UserError(f'{", ".join(names or ["these tables"])}: no weights are public.')
    code = 2 if failures else 0
    result = {'checkpoints': listed, 'failures': failures, 'exit_code': code}
    options.show(format, result, *_rendered(listed))
    raise typer.Exit(code)


def _fetch(public: Public, folder: Path) -> None:
    """Download and verify a file; one that is there is verified, and never replaced."""
    path = in_folder(folder, public.system)
    if path is None:
        obtain(public, folder=folder)
        return
    if public.by_hand and receipt(path) is None:
        write_receipt(public.url, path, sha256_of(path))
    stored(public, folder)


def _rendered(listed: list[dict[str, Any]]) -> list[terminal.Part]:
    rows = []
    for entry in listed:
        published = ', '.join(
            f'{metric} {value:g} ({entry["paper"].get(metric, "–")})'
            for metric, value in entry['published'].items()
        )
        tables = ', '.join(map(str, entry['tables']))
        rows.append([tables, entry['system'], entry['state'], published, entry['licence']])
    heads = ['table', 'system', 'state', 'published (paper)', 'licence']
    others = [f'{entry["system"]}: {entry["protocol"]}.' for entry in listed if entry['protocol']]
    notes = ['\n'.join(['Trained or evaluated otherwise than the row:', *others])] if others else []
    return [terminal.TextTable(heads, rows), *notes]
