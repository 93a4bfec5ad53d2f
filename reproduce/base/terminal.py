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
_UNLIMITED = 1_000_000  # characters in a line where the output is not a terminal
_GAP = 3  # spaces between two columns
_ASCII = str.maketrans(
    {
        **{'✓': 'v', '▲': '^', '✗': 'x', '≈': '~', '·': '.', '◦': 'o', '†': '+', '─': '-'},
        **{'ˡ': '(l)', 'ᵗ': '(t)', 'ᵇ': 'b', 'ᵐ': 'm', '₅': '5', '₀': '0', '₇': '7', '²': '^2'},
        **{'–': '-', '−': '-', '×': 'x', '’': "'", '“': '"', '”': '"', '…': '...'},
    }
)


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
    are plain and as long as they are. Where the output is ASCII, other characters are replaced.
    """
    print(as_text(*parts, stream=sys.stdout))


def as_text(*parts: Part, width: int | None = None, stream: TextIO | None = None) -> str:
    """Return what `show` prints.

    Args:
        width: of the lines in characters. None: that of `stream`, if it is a terminal; otherwise
            only long sentences in tables are wrapped.
        stream: where the text is to be printed; without one the text is plain.
    """
    stream = StringIO() if stream is None else stream
    if width is None and not stream.isatty() and not os.environ.get('COLUMNS'):
        width = _UNLIMITED
    console = Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
    texts = []
    for part in parts:
        for shown in _laid_out(part, console.width) if isinstance(part, TextTable) else [part]:
            with console.capture() as captured:
                console.print(shown)
            texts.append('\n'.join(line.rstrip() for line in captured.get().splitlines()))
    text = '\n\n'.join(texts)
    is_unicode = (stream.encoding or 'utf-8').lower().startswith('utf')
    return text if is_unicode else text.translate(_ASCII)


def _laid_out(of: TextTable, width: int) -> list[Table]:
    """Return a table in as many parts as it takes to fit `width`; each repeats the first column."""
    rows = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in of.rows]
    heads = of.heads or [''] * len(rows[0])
    columns = [[Text(head), *(row[i] for row in rows)] for i, head in enumerate(heads)]
    needed = [_needed(column) for column in columns]
    parts: list[list[int]] = []
    for i in range(1, len(columns)):
        if not parts or sum(needed[j] + _GAP for j in (0, *parts[-1])) + needed[i] > width:
            parts.append([])
        parts[-1].append(i)
    made = []
    for part in parts:
        shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        shown.show_header = bool(of.heads)
        for i in (0, *part):
            longest = max(cell.cell_len for cell in columns[i])
            side = 'right' if heads[i] in of.right else 'left'
            shown.add_column(
                columns[i][0],
                justify=side,
                overflow='fold',
                width=longest if longest <= _SHORT else None,
                max_width=max(_SENTENCE, _longest_word(columns[i])),
            )
        for row in rows:
            shown.add_row(*(row[i] for i in (0, *part)))
        made.append(shown)
    return made


def _needed(column: Sequence[Text]) -> int:
    """Return the width in characters below which a column becomes hard to read."""
    longest = max(cell.cell_len for cell in column)
    return min(longest, max(_SHORT, min(_longest_word(column), _LONG_WORD)))


def _longest_word(column: Sequence[Text]) -> int:
    return max((cell_len(word) for cell in column for word in cell.plain.split()), default=0)
