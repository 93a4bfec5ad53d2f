"""Text and tables for the terminal, laid out by rich."""

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_SHORT = 14  # characters; a column of at most that width is never wrapped
_SENTENCE = 80  # characters; longer cells are wrapped, whatever the width of the terminal
_UNLIMITED = 1_000_000  # characters in a line where the output is not a terminal


class TextTable(NamedTuple):
    """A table to be printed."""

    heads: Sequence[str]  # the headings of the columns; empty for a table without headings
    rows: Sequence[Sequence[str | Text]]  # the cells, plain or with a style
    right: Sequence[str] = ()  # the headings of the columns that are aligned to the right


Part = str | TextTable


def show(*parts: Part) -> None:
    """Print parts to the standard output, with an empty line between them.

    On a terminal lines are wrapped and coloured; NO_COLOR and COLUMNS are respected. Elsewhere they
    are plain, and only long sentences in tables are wrapped. Tables that need more are wider.
    """
    known = sys.stdout.isatty() or os.environ.get('COLUMNS')
    width = None if known else _UNLIMITED
    console = Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
    unlimited = console.options.update(width=_UNLIMITED)
    texts, width = [], console.width
    for part in parts:
        console.width = width
        shown = _laid_out(part) if isinstance(part, TextTable) else part
        if isinstance(shown, Table):
            console.width = max(width, Measurement.get(console, unlimited, shown).minimum)
        with console.capture() as captured:
            console.print(shown)
        texts.append('\n'.join(line.rstrip() for line in captured.get().splitlines()))
    print('\n\n'.join(texts))


def _laid_out(of: TextTable) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=bool(of.heads))
    for i, cells in enumerate(zip(*of.rows, strict=True)):
        head = of.heads[i] if of.heads else ''
        words = [cell_len(word) for cell in cells for word in str(cell).split()]
        table.add_column(
            head,
            justify='right' if head in of.right else 'left',
            overflow='fold',
            no_wrap=max(cell_len(str(cell)) for cell in (head, *cells)) <= _SHORT,
            max_width=max(_SENTENCE, *words, 0),  # a path is not broken
        )
    for row in of.rows:
        table.add_row(*row)
    return table
