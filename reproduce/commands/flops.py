"""`python -m reproduce flops`: parameters and FLOPs of any models, in one table."""

from typing import Annotated, Literal

from tabulate import tabulate
from typer import Argument, Option

from reproduce.base import terminal
from reproduce.base.errors import UserError
from reproduce.base.quiet import quiet_libraries
from reproduce.commands import options


def flops(
    names: Annotated[
        list[str],
        Argument(
            metavar='MODEL|CONFIG|MODULE:FACTORY...',
            help='timm models, systems of the tables, config files of mmdet or mmseg, or functions '
            'that return a module.',
        ),
    ],
    size: Annotated[
        str | None,
        Option(help='Pixels, as 384 or 800x1280; by default those that the papers count.'),
    ] = None,
    by_stage: Annotated[
        bool, Option('--by-stage', help='Also of the stages and the other parts of each model.')
    ] = False,
    format: Annotated[
        Literal['text', 'json', 'latex'], Option(help='json has parameters and multiply-adds.')
    ] = 'text',
) -> None:
    """Count the parameters and FLOPs of models, without weights and without computing.

    One FLOP is one multiply-add of one image. Layer FLOPs are those of convolutions and linear
    layers; total FLOPs add the two matrix products of every attention.
    """
    from reproduce.complexity.measuring import count_named, measure, measure_parts  # imports torch

    sides, count = _sides(size), measure_parts if by_stage else measure
    with quiet_libraries():
        counted = {name: count_named(name, sides, count) for name in names}
    found = {
        (name, part): c
        for name, of_model in counted.items()
        for part, c in (of_model if by_stage else {'': of_model}).items()
        if c.params or c.total_flops
    }
    if format == 'json':
        keys = ('params', 'layer_flops', 'total_flops')
        values = {' '.join(n).rstrip(): {k: getattr(c, k) for k in keys} for n, c in found.items()}
        options.print_json({'models': values})
        return
    heads = ['model', 'parameters (M)', 'layer FLOPs (G)', 'total FLOPs (G)']
    counts = [(c.params / 1e6, c.layer_flops / 1e9, c.total_flops / 1e9) for c in found.values()]
    rows = [
        [f'  {part}' if part else name, *(f'{x:.2f}' for x in of_part)]
        for (name, part), of_part in zip(found, counts, strict=True)
    ]
    if format == 'latex':
        alignment = ('left', 'right', 'right', 'right')
        print(tabulate(rows, heads, 'latex_booktabs', disable_numparse=True, colalign=alignment))
    else:
        terminal.show(terminal.TextTable(heads, rows, heads[1:]))


def _sides(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = size.split('x') if 'x' in size else [size, size]
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise UserError(f"--size is '{size}': expected pixels, as 384 or 800x1280.")
    return int(sides[0]), int(sides[1])
