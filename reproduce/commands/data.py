"""`python -m reproduce data`: what a folder holds of the data sets, and in which form."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from datasets.inventory import DataState, take_inventory
from reproduce.base.terminal import TextTable
from reproduce.commands import options

_BAD = (DataState.UNUSABLE, DataState.DAMAGED)


def data(
    folder: Annotated[Path, Argument(metavar='DATA', help='Folder of a data set, or of several.')],
    verify: Annotated[
        bool, Option('--verify', help='Compare archives with their published checksums.')
    ] = False,
    format: options.Format = 'text',
) -> None:
    """List the data sets in a folder: in which form, how many images, complete or not.

    Archives, shards and folders are read as they are; docs/data.md lists the forms.

    Exits with 1 if something that is there cannot be used.
    """
    entries = take_inventory(folder, verify)
    code = int(any(entry.state in _BAD for entry in entries))
    splits = [asdict(entry) for entry in entries]
    result = {'data': str(folder), 'verified': verify, 'splits': splits, 'exit_code': code}
    heads = ['', '', 'images', 'form', 'where', *(['as published'] if verify else [])]
    rows = []
    for entry in entries:
        images = '' if entry.images is None else f'{entry.images:,} of {entry.expected:,}'
        found = [images, entry.form or '', entry.place or '']
        sound = [
            Path(f['path']).name
            for f in entry.archives
            if f['found'] and f['found'] == f['published']
        ]
        row = [f'{entry.data_set} {entry.split}', entry.state.value, *found, ', '.join(sound)]
        rows.append(row[: len(heads)])
    advice = [
        f'{e.data_set} {e.split}: {e.advice}'
        for e in entries
        if e.advice and (e.split == 'val' or e.state is not DataState.MISSING)
    ]
    options.show(format, result, TextTable(heads, rows), *advice)
    raise typer.Exit(code)
