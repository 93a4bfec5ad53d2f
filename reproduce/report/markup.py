"""The paper's tables as Markdown, and as LaTeX for booktabs and siunitx."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader
from tabulate import tabulate

from reproduce.base.errors import UserError
from reproduce.base.wording import nearest
from reproduce.judge.verdict import Verdict
from reproduce.paper import TABLES
from reproduce.report.layout import (
    CONVENTION_MARKS,
    CONVENTION_MEANINGS,
    DAGGER,
    Line,
    ShownColumn,
    columns,
)

# Where a value comes from, by the name of its command in LaTeX: its symbol and its meaning.
_MARKS = {
    'measured': ('•', 'measured, within the tolerance of the printed value'),
    'deviating': ('≠', 'measured, outside that tolerance'),
    'cited': ('◦', 'as printed: no implementation here'),
    'added': ('⋆', 'added'),
    'stated': ('◇', 'added, as stated by the publisher of the weights'),
    '': ('', 'unmarked: as printed, not measured'),
}

_LATEX = str.maketrans(
    {
        '\\': r'\textbackslash{}',
        '~': r'\textasciitilde{}',
        '^': r'\textasciicircum{}',
        **{character: f'\\{character}' for character in '&%$#_{}'},
        **{'†': r'$^{\dagger}$', '²': r'$^{2}$', '×': r'$\times$'},
        **{'•': r'$\bullet$', '≠': r'$\neq$', '◦': r'$\circ$', '⋆': r'$\star$', '◇': r'$\diamond$'},
        **{'ˡ': r'\textsubscript{l}', 'ᵗ': r'\textsubscript{t}'},
    }
)
# Names of models must not separate columns, nor be read as HTML, links, formulas, or emphasis.
_MARKDOWN = str.maketrans(
    {
        **{character: f'\\{character}' for character in '\\`*_~$|['},
        **{'&': '&amp;', '<': '&lt;', '>': '&gt;'},
    }
)
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    trim_blocks=True,
    lstrip_blocks=True,
    **{'block_start_string': '<%', 'block_end_string': '%>'},
    **{'variable_start_string': '<<', 'variable_end_string': '>>'},
    **{'comment_start_string': '<#', 'comment_end_string': '#>'},
)
_DOCUMENT = r"""% All tables beside this file: pdflatex tables.tex
\documentclass{article}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage{booktabs,graphicx,siunitx}
\begin{document}
TABLES
\end{document}
"""


@dataclass(frozen=True)
class Style:
    """How the cells are shown.

    Attributes:
        show: which value; where there is no measured one it is always the printed one.
        marks: whether the origin of each value is marked, and which FLOPs it counts.
        speed_note: how speeds were measured; '' where none are shown.
    """

    show: Literal['measured', 'printed', 'both'] = 'both'
    marks: bool = True
    speed_note: str = ''


@dataclass(frozen=True)
class Value:
    """What one cell shows.

    Attributes:
        text, printed: its number, and the printed one in parentheses.
        mark: where it comes from, a key of `_MARKS`.
        convention: which FLOPs it counts, 'layer' or 'total'; '' where both are the same, and None
            for other metrics.
        best: whether it is the best of its block.
    """

    text: str
    printed: str = ''
    mark: str = ''
    convention: str | None = None
    best: bool = False

    @property
    def after(self) -> str:
        """What follows the number in LaTeX, without the mark, which takes no space."""
        mark = '' if self.convention is None else rf'\cellconvention{{{self.convention[:1]}}}'
        return mark + (rf'\cellprinted{{{self.printed}}}' if self.printed else '')


Field = Value | str | None  # a number, text, or nothing


def markdown(lines: Sequence[Line], shown: Sequence[ShownColumn], style: Style) -> str:
    """Return one table in Markdown: a title, the table, and the meaning of its marks."""

    def written(field: Field) -> str:
        if not isinstance(field, Value):
            return '–' if field is None else field.translate(_MARKDOWN)
        text = f'**{field.text}**' if field.best else field.text
        text += CONVENTION_MARKS.get(field.convention or '', '')
        return text + (f' ({field.printed})' if field.printed else '') + _MARKS[field.mark][0]

    table, rows = lines[0].row.table, _rows(lines, shown, style)
    several = len({column.group for column in shown} - {''}) > 1
    heads = [f'{c.group}: {c.heading}' if several and c.group else c.heading for c in shown]
    body = tabulate(
        [list(map(written, row)) for row in rows],
        ['Model', *heads],
        'pipe',
        disable_numparse=True,
        colalign=['left', *('right' if column.printed else 'left' for column in shown)],
    )
    legend = _legend(lines, rows, style)
    title = f'**Table {table}.** {TABLES[table].title}'
    return '\n\n'.join(filter(None, (title, body, legend))) + '\n'


def latex(lines: Sequence[Line], shown: Sequence[ShownColumn], style: Style) -> str:
    r"""Return one table in LaTeX, to be `\input`: a `table*` with caption, label and legend.

    It needs booktabs, graphicx and siunitx.
    """

    def written(field: Field) -> str:
        if not isinstance(field, Value):
            return '{--}' if field is None else field.translate(_LATEX)
        after = field.after + (rf'\cell{field.mark}' if field.mark else '')
        return (r'\bfseries ' if field.best else '') + field.text + f'{{{after}}}' * bool(after)

    table, rows = lines[0].row.table, _rows(lines, shown, style)
    blocks = groupby(zip(lines, rows, strict=True), key=lambda item: item[0].row.block)
    groups, first = [], 2
    for name, members in groupby(shown, key=lambda column: column.group):
        last = first + len(list(members)) - 1
        groups.append((name.translate(_LATEX), first, last))
        first = last + 1
    used = {field.mark for row in rows for field in row if isinstance(field, Value)}
    return _ENVIRONMENT.get_template('table.tex.j2').render(
        number=table,
        title=TABLES[table].title.translate(_LATEX),
        marks=[(n, of[0].translate(_LATEX)) for n, of in _MARKS.items() if n and n in used],
        formats=[_format(column, [row[i] for row in rows]) for i, column in enumerate(shown, 1)],
        groups=groups if any(name for name, _, _ in groups) else [],
        headings=[
            c.heading.translate(_LATEX)
            if c.extra or c.printed is None
            else c.printed.metric.latex_heading
            for c in shown
        ],
        blocks=[[list(map(written, row)) for _, row in block] for _, block in blocks],
        legend=_legend(lines, rows, style).translate(_LATEX),
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
    every = [line for of_table in lines.values() for line in of_table]
    _check_names(names, {name for line in every for name in line.names}, '--rows')
    return {
        table: [line for line in of_table if line.added or not names or line.names & set(names)]
        for table, of_table in lines.items()
    }


def select_columns(
    tables: Iterable[int], names: Sequence[str], extras: Sequence[str] = ()
) -> dict[int, list[ShownColumn]]:
    """Return the columns of each table that `names` names, in printed order; all if none.

    A metric's own name, such as 'miou', stands for those of both frameworks of Table 7.

    Args:
        extras: the names of columns that no table prints, which are shown as well, such as
            'total_flops_g'.

    Raises:
        UserError: if a name is that of no column.
    """
    found = {table: columns(table) for table in tables}
    every = [column for of_table in found.values() for column in of_table]
    _check_names(names, {n for c in every if not c.extra for n in c.names}, '--columns')
    _check_names(extras, {n for c in every if c.extra for n in c.names}, '--with')
    chosen = {*names, *extras}
    return {
        table: [c for c in of_table if c.names & chosen or not (c.extra or names)]
        for table, of_table in found.items()
    }


def _check_names(names: Iterable[str], existing: set[str], option: str) -> None:
    for name in names:
        if name not in existing:
            raise UserError(
                f"{option}: nothing in these tables is called '{name}'; the nearest are "
                f'{", ".join(nearest(name, existing) or sorted(existing))}.'
            )


def _rows(lines: Sequence[Line], shown: Sequence[ShownColumn], style: Style) -> list[list[Field]]:
    """Return the fields of every line, its label first, with the best numbers of each block."""
    columns = []
    for column in shown:
        if column.printed is None:
            columns.append([line.described(column.name) for line in lines])
            continue
        values = [_value(line, column, style) for line in lines]
        if not column.printed.metric.is_complexity:
            for block in {line.row.block for line in lines}:
                numbers = {
                    n: float(values[n].text)
                    for n, line in enumerate(lines)
                    if line.row.block == block and values[n] is not None and not line.partial
                }
                for n, number in numbers.items():
                    if len(numbers) > 1 and number == max(numbers.values()):
                        values[n] = replace(values[n], best=True)
        columns.append(values)
    labels = [' '.join(line.label.split()) for line in lines]
    return [list(row) for row in zip(labels, *columns, strict=True)]


def _value(line: Line, column: ShownColumn, style: Style) -> Value | None:
    """Return what a line shows in a column of numbers; None if that is nothing."""
    if column.extra:
        extra = line.extras.get(column.name)
        return None if extra is None else Value(_number(extra))
    cell = line.cells.get(column.name)
    if cell is None:
        return None
    measured = cell.measured is not None and (style.show != 'printed' or line.added)
    text, mark = _number(cell.measured) if measured else cell.printed, ''
    if line.added:
        mark = 'added' if measured else 'stated'
        text = text or f'{float(cell.reference):.1f}'
    elif cell.measured is not None:
        mark = 'deviating' if cell.deviates else 'measured'
    elif cell.verdict is Verdict.CITED:
        mark = 'cited'
    if not text:
        return None
    printed = cell.printed if measured and style.show == 'both' else ''
    if not style.marks:
        return Value(text, printed)
    flops = column.printed.metric.name == 'flops_g'
    return Value(text, printed, mark, cell.distinct_convention if flops else None)


def _number(value: float) -> str:
    """Return a number with one decimal, or with two digits where that would leave less."""
    return f'{value:.1f}' if value >= 0.95 or value == 0 else f'{value:.2g}'


def _legend(lines: Sequence[Line], rows: Sequence[Sequence[Field]], style: Style) -> str:
    values = [field for row in rows for field in row if isinstance(field, Value)]
    parts = [f'{DAGGER} with token labeling'] if any(x.is_labeled for x in lines) else []
    if style.marks:
        used, counted = {v.mark for v in values}, {v.convention for v in values}
        parts += [' '.join(of).strip() for name, of in _MARKS.items() if name in used]
        parts += ['in parentheses: as printed'] * any(v.printed for v in values)
        meanings = CONVENTION_MEANINGS.items()
        parts += [f'{CONVENTION_MARKS[n]} {text}' for n, text in meanings if n in counted]
    parts += [style.speed_note] * bool(style.speed_note)
    return '; '.join(parts) + '.' if parts else ''


def _format(column: ShownColumn, fields: Sequence[Field]) -> str:
    """Return the format of a column: S with the digits of its numbers, or l for text."""
    if column.printed is None:
        return 'l'
    values = [field for field in fields if isinstance(field, Value)]
    parts = [value.text.partition('.') for value in values]
    whole = max((len(number) for number, _, _ in parts), default=1)
    decimals = max((len(digits) for _, _, digits in parts), default=0)
    after = max((value.after for value in values), key=len, default='')
    space = f',table-space-text-post={{{after}}}' if after else ''
    return f'S[table-format={whole}.{decimals}{space}]'
