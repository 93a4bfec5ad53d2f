"""The terminal that a command prints to: how wide it is, and whether it shows colours."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

import click
from tabulate import tabulate

_BETWEEN = 2  # spaces between two columns
_LEAST_TEXT = 30  # the narrowest column that sentences are wrapped into, in characters
_TEXT = 72  # the widest, where the output is no terminal


@dataclass(frozen=True)
class Screen:
    """How text is shown.

    Attributes:
        width: in characters; None where the output is no terminal, which has no width.
        colours: whether there are colours.
    """

    width: int | None = None
    colours: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> 'Screen':
        """Return the screen behind `stream`.

        COLUMNS says another width than the terminal's, and NO_COLOR that there are no colours
        (https://no-color.org).
        """
        terminal = stream.isatty()
        width = None
        if terminal or os.environ.get('COLUMNS', '').isdecimal():
            width = shutil.get_terminal_size().columns
        plain = os.environ.get('NO_COLOR') or os.environ.get('TERM') == 'dumb'
        return cls(width, terminal and not plain)

    def coloured(self, text: str, colour: str | None) -> str:
        """Return `text` in a colour of the terminal, where it has colours."""
        return click.style(text, fg=colour) if self.colours and colour and text else text

    def table(
        self,
        rows: Sequence[Sequence[str]],
        heads: Sequence[str],
        align: Sequence[str] | None = None,
    ) -> str:
        """Return a table, in parts that repeat its first column where the screen is narrower.

        Args:
            align: 'left' or 'right' for each column; None sets all to the left.
        """
        align = align or ['left'] * len(heads)
        widths = _widths(rows, heads)
        parts: list[list[int]] = [[]]
        for column in range(1, len(heads)):
            taken = sum(widths[i] + _BETWEEN for i in (0, *parts[-1], column)) - _BETWEEN
            if parts[-1] and self.width is not None and taken > self.width:
                parts.append([])
            parts[-1].append(column)
        return '\n\n'.join(self._part(rows, heads, align, widths, part) for part in parts)

    def _part(
        self,
        rows: Sequence[Sequence[str]],
        heads: Sequence[str],
        align: Sequence[str],
        widths: Sequence[int],
        part: Sequence[int],
    ) -> str:
        shown = [[row[i] for i in (0, *part)] for row in rows]
        left = 0 if self.width is None else self.width - widths[0] - _BETWEEN
        if len(part) == 1 and 0 < left < widths[part[0]]:
            shown = [[first, _filled(second, left)] for first, second in shown]
        return tabulate(
            shown,
            [heads[i] for i in (0, *part)],
            'simple',
            colalign=[align[i] for i in (0, *part)] if rows else None,
            disable_numparse=True,
        )

    def columns(
        self,
        rows: Sequence[Sequence[str]],
        heads: Sequence[str] = (),
        widths: Sequence[int] | None = None,
    ) -> str:
        """Return a table whose cells are wrapped so that all columns fit side by side.

        Args:
            heads: none for a table without headings.
            widths: the widest that each column may be where the output is no terminal; None wraps
                nothing there.
        """
        if not rows:
            return tabulate(rows, heads, 'simple')
        if self.width is not None:
            widths = _shares(rows, heads, self.width)
            heads = [_filled(h, max(w - 2, 1)) for h, w in zip(heads, widths, strict=False)]
        if widths is not None:
            rows = [[_filled(*cell) for cell in zip(row, widths, strict=True)] for row in rows]
        return tabulate(rows, heads, 'simple' if heads else 'plain', disable_numparse=True)

    def explained(
        self, rows: Sequence[Sequence[str]], heads: Sequence[str], widest: int | None = _TEXT
    ) -> str:
        """Return rows that end with a sentence: a table, or entries where it has no space there.

        Args:
            widest: characters in a line of a sentence where the output is no terminal; None keeps
                each sentence on one line there.
        """
        left = widest
        if self.width is not None:
            left = self.width - sum(width + _BETWEEN for width in _widths(rows, heads)[:-1])
        if left is None or left >= _LEAST_TEXT:
            wrapped = [[*row[:-1], _filled(row[-1], left or sys.maxsize)] for row in rows]
            return tabulate(wrapped, heads, 'simple', disable_numparse=True)
        entries = []
        for first, *fields, sentence in rows:
            named = map(_named, heads[1:-1], fields)
            head = _plain(', '.join(filter(None, [first, *named])))
            entries.append(self.wrapped(f'{head}\n{sentence}'))
        return '\n'.join(entries)

    def paragraphs(self, texts: Iterable[str]) -> str:
        """Return texts below each other, each wrapped."""
        return '\n'.join(map(self.wrapped, texts))

    def wrapped(self, text: str) -> str:
        """Return `text` with its lines wrapped, the further ones indented."""
        if self.width is None:
            return text
        first, *others = text.splitlines()
        lines = [_filled(first, self.width, '', '    ')]
        lines += [_filled(line, self.width, '    ', '    ') for line in others]
        return '\n'.join(lines)


def _filled(text: str, width: int, first: str = '', others: str = '') -> str:
    """Return `text` in lines that begin with `first` and `others`; hyphens do not end one."""
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
    )


def _widths(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> list[int]:
    # tabulate makes a column wider than its heading by two spaces.
    least = [_shown(head) + 2 for head in heads]
    columns = zip(*rows, strict=True)
    return [max(width, *map(_shown, c)) for width, c in zip(least, columns, strict=True)]


def _shares(rows: Sequence[Sequence[str]], heads: Sequence[str], width: int) -> list[int]:
    """Return how wide each column may be in a table of `width`: the widest ones give way first."""
    columns = list(zip(*rows, strict=True))
    whole = _widths(rows, heads or [''] * len(columns))
    words = [[_longest_word(field) for field in column] for column in columns]
    least = [max(of) for of in words]
    for i, head in enumerate(heads):
        least[i] = max(least[i], _longest_word(head) + 2)
    left = width - _BETWEEN * (len(columns) - 1)
    if sum(least) > left:
        least = [1] * len(columns)  # there is no space for whole words
    for most in range(max(whole), 0, -1):
        shares = [max(low, min(high, most)) for low, high in zip(least, whole, strict=True)]
        if sum(shares) <= left:
            break
    return shares


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _shown(text: str) -> int:
    """Return how many characters wide a text is; escape sequences are not seen."""
    return max(map(len, _plain(text).splitlines()), default=0)


def _plain(text: str) -> str:
    return re.sub(r'\x1b\[[0-9;]*m', '', text)


def _named(head: str, field: str) -> str:
    return f'{head} {field}'.strip() if field else ''
