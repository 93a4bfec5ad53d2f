"""`python -m reproduce show` and `accept`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from reproduce.errors import UserError
from reproduce.options import Format, OutputFormat

Names = Annotated[
    list[str],
    typer.Argument(
        help='A cell, such as table5/SYSTEM/box_ap or 4 Swin-T top1, or a record, by its file or '
        'stem.'
    ),
]
Tables = Annotated[Path, typer.Option('--results', help='Folder of the CSVs.')]
Evaluations = Annotated[
    Path, typer.Option('--evaluations', help='Folder of the evaluation records.')
]


def show_command(
    names: Names,
    results: Tables = Path('results'),
    evaluations: Evaluations = Path('results/evaluations'),
    format: OutputFormat = Format.TEXT,
) -> None:
    """Print a cell or a record with everything that it takes to repeat it; measures nothing."""
    from reproduce.show import find, render

    shown = find(names, results, evaluations)
    if format is Format.JSON:
        print(json.dumps(shown.as_dict(), indent=2, ensure_ascii=False))
    else:
        print(render(shown))


def accept_command(
    names: Names,
    reason: Annotated[
        str, typer.Option('--reason', help='Why the new value is right. [required]')
    ] = '',
    manifest: Annotated[
        Path | None, typer.Option('--manifest', help='Another manifest than the released one.')
    ] = None,
    name: Annotated[
        str | None,
        typer.Option('--name', help='The entry.  [default: the one with these weights]'),
    ] = None,
    licence: Annotated[
        str | None, typer.Option('--licence', help='Of weights that get an entry of their own.')
    ] = None,
    weights: Annotated[
        str | None, typer.Option('--weights', help='File or URL of such weights.')
    ] = None,
    results: Tables = Path('results'),
    evaluations: Evaluations = Path('results/evaluations'),
    format: OutputFormat = Format.TEXT,
) -> None:
    """Make a measured result the reference that the regression gate holds its weights to.

    With --name, --licence and --weights, it adds weights that the manifest does not have yet.
    """
    # Before libraries are imported, which takes seconds.
    if not reason.strip():
        raise UserError('a reference is not replaced without a reason: give --reason.')
    if (licence is None) != (weights is None) or (weights is not None and name is None):
        raise UserError(
            'weights get an entry of their own with all of --name, --licence and --weights: give '
            'the others, too.'
        )
    from reproduce import checkpoints
    from reproduce.accept import NewEntry, accept, render
    from reproduce.show import find

    found = find(names, results, evaluations).evaluations
    if len(found) != 1:
        told = ', '.join(path.stem for path in found) or 'none'
        raise UserError(f"'{' '.join(names)}' has these records: {told}; name the one to accept.")
    (evaluation,) = found.values()
    accepted = accept(
        evaluation,
        reason,
        manifest or checkpoints.MANIFEST,
        name,
        None if weights is None else NewEntry(name, licence, weights),
    )
    if format is Format.JSON:
        print(json.dumps(accepted.as_dict(), indent=2, ensure_ascii=False))
    else:
        print(render(accepted))
