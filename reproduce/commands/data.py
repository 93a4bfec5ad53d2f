"""`python -m reproduce data`: what a folder holds of the data sets, and in which form."""

from pathlib import Path
from typing import Annotated

import typer

from datasets.inventory import DataState, sentences, take_inventory
from reproduce.base import terminal
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, OutputFormat, print_json

app = typer.Typer(**SETTINGS)

_BAD = (DataState.UNUSABLE, DataState.DAMAGED)


@app.command()
def data(
    folder: Annotated[
        Path, typer.Argument(metavar='DATA', help='Folder of a data set, or of several.')
    ],
    verify: Annotated[
        bool,
        typer.Option(
            '--verify',
            help='Compare archives with their published checksums, and open all images of those '
            'that have none.',
        ),
    ] = False,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """List the data sets in a folder: in which form, how many images, complete or not.

    Archives, shards and folders are read as they are; docs/data.md lists the forms.

    Exits with 1 if something that is there cannot be used.
    """
    entries = take_inventory(folder, verify)
    code = int(any(entry.state in _BAD for entry in entries))
    if format is OutputFormat.JSON:
        splits = [entry.as_dict() for entry in entries]
        print_json({'data': str(folder), 'verified': verify, 'splits': splits, 'exit_code': code})
        raise typer.Exit(code)
    rows = []
    for entry in entries:
        survey = entry.survey
        found = (
            ['', '', '']
            if survey is None
            else [
                f'{len(survey.samples):,} of {survey.expected:,}',
                survey.form,
                survey.place,
            ]
        )
        rows.append([f'{entry.data_set} {entry.split}', entry.state.value, *found])
        if verify:
            rows[-1].append(entry.verification())
    heads = ['', '', 'images', 'form', 'where', *(['verified'] if verify else [])]
    terminal.show(terminal.TextTable(heads, rows), *sentences(entries))
    raise typer.Exit(code)
