"""`python -m reproduce lint`: faults of a table of results."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from reproduce.audit import table_lint
from reproduce.commands import options


def lint(
    files: Annotated[list[Path], Argument(help='Tables as .csv, or documents as .tex.')],
    format: options.Format = 'text',
) -> None:
    """Find faults that a table of results shows by itself, of any paper.

    Finds bold numbers that are not the best, or lead by less than ImageNet, COCO or ADE20K
    resolve, changes such as +0.3 that the numbers do not give, FLOPs of two conventions in a group,
    rows of one description with different numbers, and neighbouring rows with the same digits. In a
    CSV, `block` names the group of a row.

    Exits with 0, or with 1 if it finds a fault.
    """
    found = [f'{path}: {fault}' for path in files for fault in table_lint.faults(path)]
    options.show(format, {'faults': found}, '\n'.join(found) or 'No fault was found.')
    raise typer.Exit(bool(found))
