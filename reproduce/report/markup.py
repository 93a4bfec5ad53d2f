"""The paper's tables as Markdown and as LaTeX."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from tabulate import tabulate

from reproduce.base.errors import UserError
from reproduce.base.wording import nearest
from reproduce.judge.cells import Cell
from reproduce.judge.verdict import Verdict
from reproduce.paper import TABLES
from reproduce.report.layout import (
    COLUMNS,
    CONVENTION_MARKS,
    CONVENTION_MEANINGS,
    DAGGER,
    Line,
    described,
    extras,
    group,
    heading,
    is_numeric,
    with_extras,
)


class Mark(StrEnum):
    """Where a value comes from."""

    MEASURED = 'measured'
    DEVIATING = 'deviating'
    CITED = 'cited'
    ADDED = 'added'
    STATED = 'stated'
    NONE = ''


@dataclass(frozen=True)
class Style:
    """How the cells are shown.

    Attributes:
        show: which value; where there is no measured one it is always the printed one.
        marks: whether it is marked where each value is from, and which FLOPs it counts.
        speed_note: how speeds were measured; '' where none are shown.
    """

    show: Literal['measured', 'printed', 'both'] = 'both'
    marks: bool = True
    speed_note: str = ''


@dataclass(frozen=True)
class Value:
    """What one cell shows.

    Attributes:
        text, beside: its number, and the printed one beside it.
        mark: where it is from.
        convention: which FLOPs it counts, 'layer' or 'total'; '' where both are the same, and for
            other metrics.
        best: whether it is the best of its block.
    """

    text: str
    beside: str
    mark: Mark
    convention: str = ''
    best: bool = False


_SYMBOLS = {
    Mark.MEASURED: '•',
    Mark.DEVIATING: '≠',
    Mark.CITED: '◦',
    Mark.ADDED: '⋆',
    Mark.STATED: '◇',
    Mark.NONE: '',
}
_MEANINGS = {
    Mark.MEASURED: 'measured, within the tolerance of the printed value',
    Mark.DEVIATING: 'measured, outside that tolerance',
    Mark.CITED: 'as printed: no implementation here',
    Mark.ADDED: 'added',
    Mark.STATED: 'added, as stated by the publisher of the weights',
    Mark.NONE: 'unmarked: as printed, not measured',
}
_LATEX_SYMBOLS = {
    Mark.MEASURED: r'$\bullet$',
    Mark.DEVIATING: r'$\neq$',
    Mark.CITED: r'$\circ$',
    Mark.ADDED: r'$\star$',
    Mark.STATED: r'$\diamond$',
}
_LATEX_CHARACTERS = str.maketrans(
    {
        '\\': r'\textbackslash{}',
        '~': r'\textasciitilde{}',
        '^': r'\textasciicircum{}',
        **{character: f'\\{character}' for character in '&%$#_{}'},
        '†': r'$^{\dagger}$',
        '²': r'$^{2}$',
        '×': r'$\times$',
    }
)
# A model may be called anything: its name parts no columns, and is no HTML, link, picture, formula,
# or emphasis.
_MARKDOWN_CHARACTERS = str.maketrans(
    {
        **{character: f'\\{character}' for character in '\\`*_~$|['},
        **{'&': '&amp;', '<': '&lt;', '>': '&gt;'},
    }
)
_LATEX_CONVENTIONS = {'layer': 'l', 'total': 't'}
_DOCUMENT = r"""% All tables beside this file: pdflatex tables.tex
\documentclass{article}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
TABLES
\end{document}
"""


def markdown(lines: Sequence[Line], columns: Sequence[str], style: Style) -> str:
    """Return one table in Markdown: a title, the table, and what its marks mean."""
    table = lines[0].table
    values = _values(lines, columns, style)
    plain = [heading(table, column) for column in columns]
    heads = [
        f'{group(table, column)}: {head}' if plain.count(head) > 1 else head
        for column, head in zip(columns, plain, strict=True)
    ]
    rows = _fields(lines, columns, values, _markdown_text, lambda _, value: _markdown(value), '–')
    aligned = ['right' if is_numeric(table, column) else 'left' for column in columns]
    body = tabulate(
        rows, ['Model', *heads], 'pipe', disable_numparse=True, colalign=['left', *aligned]
    )
    legend = _legend(
        lines,
        values.values(),
        style,
        lambda mark: _SYMBOLS[mark],
        lambda name: CONVENTION_MARKS[name],
        str,
    )
    return (
        '\n\n'.join(filter(None, (f'**Table {table}.** {TABLES[table].title}', body, legend)))
        + '\n'
    )


def latex(lines: Sequence[Line], columns: Sequence[str], style: Style) -> str:
    r"""Return one table in LaTeX, to be `\input`: a `table*` with caption, label and legend.

    It needs booktabs and graphicx. The marks are commands, which a document may define otherwise
    before it inputs the table.
    """
    table = lines[0].table
    values = _values(lines, columns, style)
    padding = {c: _Padding(v for (_, of), v in values.items() if of == c) for c in columns}
    rows = _fields(
        lines, columns, values, _escaped, lambda column, value: padding[column].latex(value), '--'
    )
    groups = ['', *(_escaped(group(table, column)) for column in columns)]
    heads = ['Model', *(_latex_heading(table, column) for column in columns)]
    import pandas as pd  # here: Markdown and `--help` need not wait for it

    frame = pd.DataFrame(rows, columns=pd.MultiIndex.from_arrays([groups, heads]))
    if not any(groups):
        frame.columns = heads
    aligned = ''.join('r' if is_numeric(table, column) else 'l' for column in columns)
    tabular = frame.to_latex(
        index=False, escape=False, column_format=f'l{aligned}', multicolumn_format='c'
    )
    legend = _legend(
        lines,
        values.values(),
        style,
        lambda mark: _LATEX_SYMBOLS.get(mark, ''),
        lambda name: rf'\textsubscript{{{_LATEX_CONVENTIONS[name]}}}',
        _escaped,
    )
    return '\n'.join(
        [
            f'% Table {table} of the MAFormer paper. Needs \\usepackage{{booktabs,graphicx}}.',
            *_commands(values.values()),
            r'\begin{table*}[htbp]',
            r'\centering',
            f'\\caption{{{_escaped(TABLES[table].title)}.}}',
            f'\\label{{tab:maformer-{table}}}',
            r'\small',
            # A table that is wider than the text is scaled down to it, others stay as they are.
            r'\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%',
            _ruled(tabular.rstrip(), groups, lines) + '}',
            *([rf'\par\smallskip{{\footnotesize {legend}}}'] if legend else []),
            r'\end{table*}',
            '',
        ]
    )


def document(names: Iterable[str]) -> str:
    r"""Return a LaTeX document that inputs the tables `names`."""
    return _DOCUMENT.replace('TABLES', '\n'.join(rf'\input{{{name}}}' for name in names))


def select_rows(lines: Mapping[int, Sequence[Line]], names: Sequence[str]) -> dict[int, list[Line]]:
    """Return the lines of each table with these printed names, labels or systems; all if none.

    Added lines always stay.

    Raises:
        UserError: if a name is that of no line.
    """
    everything = [line for of_table in lines.values() for line in of_table]
    existing = {n for line in everything for n in (line.model, line.label, *line.systems)}
    _check_names(names, existing, '--rows')
    return {
        table: [
            line
            for line in of_table
            if line.added or not names or {line.model, line.label, *line.systems} & set(names)
        ]
        for table, of_table in lines.items()
    }


def select_columns(
    tables: Iterable[int], names: Sequence[str], beside: Sequence[str] = ()
) -> dict[int, list[str]]:
    """Return the columns of each table that `names` names, in printed order; all if none.

    A metric's own name, such as 'miou', stands for those of both frameworks of Table 7.

    Args:
        beside: the names of columns that no table prints, which are shown as well where there are
            some, such as 'total_flops_g'.

    Raises:
        UserError: if a name is that of no column.
    """
    tables = list(tables)
    kinds = {n: extra.kind for table in tables for n, extra in extras(table).items()}
    _check_names(beside, {*kinds, *kinds.values()}, '--with')
    added = [name for name, kind in kinds.items() if {name, kind} & set(beside)]
    columns = {table: COLUMNS[table] for table in tables}
    called = {
        (table, column): {column, found.metric.name}
        if (found := TABLES[table].columns.get(column))
        else {column}
        for table, of_table in columns.items()
        for column in of_table
    }
    _check_names(names, set().union(*called.values()), '--columns')
    return {
        table: with_extras(
            table, [c for c in of_table if not names or called[table, c] & set(names)], added
        )
        for table, of_table in columns.items()
    }


def _check_names(names: Iterable[str], existing: set[str], option: str) -> None:
    for name in names:
        if name not in existing:
            raise UserError(
                f"{option}: nothing in these tables is called '{name}'; the nearest are "
                f'{", ".join(nearest(name, existing) or sorted(existing))}.'
            )


def _values(
    lines: Sequence[Line], columns: Sequence[str], style: Style
) -> dict[tuple[int, str], Value]:
    """Return what each cell shows, by its line and column, with the best of each block."""
    values = {
        (index, column): value
        for index, line in enumerate(lines)
        for column in columns
        if (value := _value(line, column, style)) is not None
    }
    for column in columns:
        found = TABLES[lines[0].table].columns.get(column)
        if found is None or found.metric.is_complexity:
            continue
        for block in {line.block for line in lines}:
            keys = [
                key
                for key in values
                if key[1] == column and lines[key[0]].block == block and not lines[key[0]].partial
            ]
            best = max((float(values[key].text) for key in keys), default=0)
            for key in keys:
                is_best = len(keys) > 1 and float(values[key].text) == best
                values[key] = replace(values[key], best=is_best)
    return values


def _value(line: Line, column: str, style: Style) -> Value | None:
    """Return what a line shows in a column of numbers; None if that is nothing."""
    if column in line.extras:
        return Value(_number(line.extras[column]), '', Mark.NONE)
    if column not in line.cells:
        return None
    shown = _shown(line.cells[column], line.added, style)
    return shown if shown.text else None


def _shown(cell: Cell, added: bool, style: Style) -> Value:
    measured = cell.measured is not None and (style.show != 'printed' or added)
    if added and not measured and cell.reference:
        stated = Mark.STATED if style.marks else Mark.NONE
        return Value(f'{float(cell.reference):.1f}', '', stated)
    mark = Mark.NONE
    if added:
        mark = Mark.ADDED
    elif cell.measured is not None:
        mark = Mark.DEVIATING if cell.deviates else Mark.MEASURED
    elif cell.verdict is Verdict.CITED:
        mark = Mark.CITED
    return Value(
        text=_number(cell.measured) if measured else cell.printed,
        beside=cell.printed if measured and style.show == 'both' else '',
        mark=mark if style.marks else Mark.NONE,
        convention=cell.distinct_convention if style.marks else '',
    )


def _number(value: float) -> str:
    """Return a number with one decimal, or with two digits where that would leave less."""
    return f'{value:.1f}' if value >= 0.95 else f'{value:.2g}'


def _fields(
    lines: Sequence[Line],
    columns: Sequence[str],
    values: Mapping[tuple[int, str], Value],
    text: Callable[[str], str],
    number: Callable[[str, Value], str],
    gap: str,
) -> list[list[str]]:
    """Return the fields of every line, its label first, as `text` and `number` write them."""
    rows = []
    for index, line in enumerate(lines):
        row = [text(_one_line(line.label))]
        for column in columns:
            if not is_numeric(line.table, column):
                row.append(text(_one_line(described(line, column))))
            elif (index, column) in values:
                row.append(number(column, values[index, column]))
            else:
                row.append(gap)
        rows.append(row)
    return rows


def _one_line(text: str) -> str:
    return ' '.join(text.split())


def _legend(
    lines: Sequence[Line],
    values: Iterable[Value],
    style: Style,
    symbol: Callable[[Mark], str],
    convention: Callable[[str], str],
    text: Callable[[str], str],
) -> str:
    values = list(values)
    parts = [f'{text(DAGGER)} with token labeling'] if any(x.is_labeled for x in lines) else []
    if style.marks:
        used = {value.mark for value in values}
        parts += [f'{symbol(mark)} {_MEANINGS[mark]}'.strip() for mark in Mark if mark in used]
        if style.show == 'both' and any(value.beside for value in values):
            parts.append('in parentheses: as printed')
        counted = {value.convention for value in values}
        parts += [
            f'{convention(name)} {meaning}'
            for name, meaning in CONVENTION_MEANINGS.items()
            if name in counted
        ]
    parts += [style.speed_note] if style.speed_note else []
    return '; '.join(parts) + '.' if parts else ''


def _markdown(value: Value) -> str:
    text = f'**{value.text}**' if value.best else value.text
    text += CONVENTION_MARKS.get(value.convention, '')
    return text + (f' ({value.beside})' if value.beside else '') + _SYMBOLS[value.mark]


class _Padding:
    """Puts the digits of a column below each other, by invisible ones where a number has less."""

    def __init__(self, values: Iterable[Value]) -> None:
        values = list(values)
        self.decimals = max((len(v.text.partition('.')[2]) for v in values), default=0)
        self.beside = max((v.beside for v in values), key=len, default='')
        self.conventions = any(v.convention for v in values)

    def latex(self, value: Value) -> str:
        missing = self.decimals - len(value.text.partition('.')[2])
        digits = '0' * missing if '.' in value.text else f'.{"0" * missing}'
        rest = rf'\phantom{{{digits}}}' if missing else ''
        text = rf'\textbf{{{value.text}}}' if value.best else value.text
        if self.conventions:
            # Empty where both counts are the same: the digits stay below each other.
            text += rf'\cellconvention{{{_LATEX_CONVENTIONS.get(value.convention, "")}}}'
        if value.beside:
            less = self.beside[: len(self.beside) - len(value.beside)]
            left = rf'\phantom{{{less}}}' if less else ''
            text, rest = rf'{text}{rest}{left}\cellprinted{{{value.beside}}}', ''
        elif self.beside:
            rest += rf'\phantom{{\cellprinted{{{self.beside}}}}}'
        return (rf'\cell{value.mark}{{{text}}}' if value.mark else text) + rest


def _markdown_text(text: str) -> str:
    return text.translate(_MARKDOWN_CHARACTERS)


def _escaped(text: str) -> str:
    return text.translate(_LATEX_CHARACTERS)


def _latex_heading(table: int, column: str) -> str:
    columns = TABLES[table].columns
    if column in columns:
        return columns[column].metric.latex_heading
    return _escaped(heading(table, column))


def _commands(values: Iterable[Value]) -> list[str]:
    r"""Definitions of the commands that the table uses, which may have been defined before."""
    values = list(values)
    used = {value.mark for value in values}
    commands = [
        rf'\providecommand{{\cell{mark}}}[1]{{#1\rlap{{\textsuperscript{{{symbol}}}}}}}'
        for mark, symbol in _LATEX_SYMBOLS.items()
        if mark in used
    ]
    if any(value.beside for value in values):
        commands.append(r'\providecommand{\cellprinted}[1]{ (#1)}')
    if any(value.convention for value in values):
        commands.append(
            r'\providecommand{\cellconvention}[1]{\makebox[.5em][l]{\textsubscript{#1}}}'
        )
    return commands


def _ruled(tabular: str, groups: Sequence[str], lines: Sequence[Line]) -> str:
    """pandas' tabular with a rule below each heading of a group and between the blocks."""
    head, middle, body = tabular.partition('\\midrule\n')
    if any(groups):
        rules = [
            rf'\cmidrule(lr){{{groups.index(name) + 1}-{len(groups) - groups[::-1].index(name)}}}'
            for name in dict.fromkeys(filter(None, groups))
        ]
        first, end, rest = head.partition('\\\\\n')
        head = f'{first}{end}{" ".join(rules)}\n{rest}'
    rows = body.splitlines()
    for index in range(len(lines) - 1, 0, -1):
        if lines[index].block != lines[index - 1].block:
            rows.insert(index, '\\midrule')
    return head + middle + '\n'.join(rows)
