"""Text and tables for the terminal, laid out by rich."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_SHORT = 14  # characters; a column of at most that width is never wrapped
_LONG_WORD = 40  # characters; up to that length, words are not broken
_SENTENCE = 80  # characters; sentences are wrapped at that width, whatever the terminal's
_GAP = 3  # spaces between two columns
_UNLIMITED = 1_000_000  # characters in a line where the output is not a terminal


@dataclass(frozen=True)
class TextTable:
    """A table to be printed.

    Attributes:
        heads: the headings of the columns; empty for a table without headings.
        rows: the cells, plain or with a style.
        right: the headings of the columns that are aligned to the right.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Text]]
    right: Sequence[str] = ()


Part = str | TextTable


def show(*parts: Part) -> None:
    """Print parts to the standard output, with an empty line between them.

    On a terminal lines are wrapped and coloured; NO_COLOR and COLUMNS are respected. Elsewhere they
    are plain and as long as they are.
    """
    print(as_text(*parts, stream=sys.stdout))


def as_text(*parts: Part, width: int | None = None, stream: TextIO | None = None) -> str:
    """Return what `show` prints.

    Args:
        width: of the lines in characters; tables that need more are wider. None: that of `stream`,
            if it is a terminal; otherwise only long sentences in tables are wrapped.
        stream: where the text is to be printed; without one the text is plain.
    """
    stream = StringIO() if stream is None else stream
    if width is None and not stream.isatty() and not os.environ.get('COLUMNS'):
        width = _UNLIMITED
    console = Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
    texts, width = [], console.width
    for part in parts:
        with console.capture() as captured:
            if isinstance(part, TextTable):
                console.width, table = _laid_out(part, width)
                console.print(table)
            else:
                console.width = width
                console.print(part)
        texts.append('\n'.join(line.rstrip() for line in captured.get().splitlines()))
    return '\n\n'.join(texts)


def _laid_out(of: TextTable, width: int) -> tuple[int, Table]:
    """Return a table and its width; long columns are wrapped for it to fit in `width`."""
    rows = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in of.rows]
    heads = of.heads or [''] * len(rows[0])
    columns = [[Text(head), *(row[i] for row in rows)] for i, head in enumerate(heads)]
    words = [
        max(cell_len(word) for cell in cells for word in cell.plain.split() or [''])
        for cells in columns
    ]
    widths = [
        min(max(cell.cell_len for cell in cells), max(_SENTENCE, word))
        for cells, word in zip(columns, words, strict=True)
    ]
    for i in sorted(range(len(widths)), key=widths.__getitem__, reverse=True):
        excess = sum(widths) + _GAP * len(widths) - width
        least = min(widths[i], max(_SHORT, min(words[i], _LONG_WORD)))
        widths[i] = max(least, widths[i] - max(excess, 0))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=bool(of.heads))
    for head, column_width in zip(heads, widths, strict=True):
        side = 'right' if head in of.right else 'left'
        table.add_column(head, justify=side, overflow='fold', width=column_width)
    for row in rows:
        table.add_row(*row)
    return max(width, sum(widths) + _GAP * len(widths)), table
