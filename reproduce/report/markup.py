"""The paper's tables as Markdown, and as LaTeX for booktabs and siunitx."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader
from tabulate import tabulate

from reproduce.judge.verdict import Verdict
from reproduce.paper import TABLES
from reproduce.report.layout import (
    CONVENTION_MARKS,
    CONVENTION_MEANINGS,
    DAGGER,
    Line,
    ShownColumn,
)

# Where a value comes from, by the name of its command in LaTeX: its symbol and its meaning.
_MARKS = {
    'measured': ('•', 'measured, within the tolerance of the printed value'),
    'deviating': ('≠', 'measured, outside that tolerance'),
    'cited': ('◦', 'as printed: no implementation here'),
    'added': ('⋆', 'added'),
    '': ('', 'unmarked: as printed, not measured'),
}

_LATEX = str.maketrans(
    {
        '\\': r'\textbackslash{}',
        '~': r'\textasciitilde{}',
        '^': r'\textasciicircum{}',
        **{character: f'\\{character}' for character in '&%$#_{}'},
        **{'†': r'$^{\dagger}$', '²': r'$^{2}$', '×': r'$\times$'},
        **{'•': r'$\bullet$', '≠': r'$\neq$', '◦': r'$\circ$', '⋆': r'$\star$'},
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


class Value(NamedTuple):
    """A number that a cell shows.

    Attributes:
        text, printed: the number, and the printed one in parentheses.
        mark: where it comes from, a key of `_MARKS`; None where this is not marked.
        convention: the FLOPs that it counts, 'layer' or 'total'; '' where both are the same.
        best: whether it is the best of its block.
    """

    text: str
    printed: str = ''
    mark: str | None = None
    convention: str = ''
    best: bool = False

    def markdown(self) -> str:
        text = f'**{self.text}**' if self.best else self.text
        printed = f' ({self.printed})' if self.printed else ''
        return text + CONVENTION_MARKS.get(self.convention, '') + printed + self._symbol

    def latex(self) -> str:
        after = self.after + (rf'\cell{self.mark}' if self.mark else '')
        return (r'\bfseries ' if self.best else '') + self.text + f'{{{after}}}' * bool(after)

    @property
    def after(self) -> str:
        """What follows the number in LaTeX, without the mark, which takes no space."""
        mark = rf'\cellconvention{{{self.convention[0]}}}' if self.convention else ''
        return mark + (rf'\cellprinted{{{self.printed}}}' if self.printed else '')

    @property
    def _symbol(self) -> str:
        return _MARKS[self.mark][0] if self.mark else ''


Field = Value | str | None  # a number, text, or nothing


def markdown(
    lines: Sequence[Line], shown: Sequence[ShownColumn], show: str = 'both', marks: bool = True
) -> str:
    """Return one table in Markdown: a title, the table, and the meaning of its marks.

    Args:
        show: which value, 'measured', 'printed' or 'both'; where there is no measured one it is
            always the printed one.
        marks: whether the origin of each value is marked, and which FLOPs it counts.
    """

    def written(field: Field) -> str:
        if isinstance(field, Value):
            return field.markdown()
        return '–' if field is None else field.translate(_MARKDOWN)

    table, rows = lines[0].row.table, _rows(lines, shown, show, marks)
    several = len({column.group for column in shown} - {''}) > 1
    body = tabulate(
        [list(map(written, row)) for row in rows],
        [
            'Model',
            *(f'{c.group}: {c.heading}' if several and c.group else c.heading for c in shown),
        ],
        'pipe',
        disable_numparse=True,
        colalign=['left', *('right' if column.printed else 'left' for column in shown)],
    )
    title = f'**Table {table}.** {TABLES[table].title}'
    return '\n\n'.join(filter(None, (title, body, _legend(lines, rows)))) + '\n'


def latex(
    lines: Sequence[Line], shown: Sequence[ShownColumn], show: str = 'both', marks: bool = True
) -> str:
    r"""Return one table in LaTeX, to be `\input`: a `table*` with caption, label and legend.

    It needs booktabs, graphicx and siunitx. The arguments are those of `markdown`.
    """

    def written(field: Field) -> str:
        if isinstance(field, Value):
            return field.latex()
        return '{--}' if field is None else field.translate(_LATEX)

    table, rows = lines[0].row.table, _rows(lines, shown, show, marks)
    blocks = groupby(zip(lines, rows, strict=True), key=lambda item: item[0].row.block)
    groups, first = [], 2
    for name, members in groupby(shown, key=lambda column: column.group):
        last = first + len(list(members)) - 1
        groups.append((name.translate(_LATEX), first, last))
        first = last + 1
    used = {value.mark for value in _values(rows)}
    return _ENVIRONMENT.get_template('table.tex.j2').render(
        number=table,
        title=TABLES[table].title.translate(_LATEX),
        marks=[(n, of[0].translate(_LATEX)) for n, of in _MARKS.items() if n and n in used],
        formats=[_format(column, [row[i] for row in rows]) for i, column in enumerate(shown, 1)],
        groups=groups if any(name for name, _, _ in groups) else [],
        headings=[
            c.heading.translate(_LATEX)
            if c.convention or c.printed is None
            else c.printed.metric.latex_heading
            for c in shown
        ],
        blocks=[[list(map(written, row)) for _, row in block] for _, block in blocks],
        legend=_legend(lines, rows).translate(_LATEX),
    )


def document(names: Iterable[str]) -> str:
    r"""Return a LaTeX document that inputs the tables `names`."""
    return _DOCUMENT.replace('TABLES', '\n'.join(rf'\input{{{name}}}' for name in names))


def _rows(
    lines: Sequence[Line], shown: Sequence[ShownColumn], show: str, marks: bool
) -> list[list[Field]]:
    """Return the fields of every line, its label first, with the best numbers of each block."""
    columns: list[list[Field]] = [[' '.join(line.label.split()) for line in lines]]
    for column in shown:
        if column.printed is None:
            columns.append([line.described(column.name) for line in lines])
            continue
        values = [_value(line, column, show, marks) for line in lines]
        for block in {line.row.block for line in lines}:
            numbers = {
                n: float(values[n].text)
                for n, line in enumerate(lines)
                if line.row.block == block and values[n] and not line.partial
            }
            if len(numbers) > 1 and not column.printed.metric.is_complexity:
                best = max(numbers.values())
                for n in (n for n, number in numbers.items() if number == best):
                    values[n] = values[n]._replace(best=True)
        columns.append(values)
    return [list(row) for row in zip(*columns, strict=True)]


def _value(line: Line, column: ShownColumn, show: str, marks: bool) -> Value | None:
    """Return what a line shows in a column of numbers; None if that is nothing."""
    if column.convention:
        flops = line.flops(column)
        return None if flops is None else Value(_number(flops))
    cell = line.cells.get(column.name)
    if cell is None:
        return None
    measured = cell.measured is not None and (show != 'printed' or line.added)
    text = _number(cell.measured) if measured else cell.printed
    if not text:
        return None
    printed = cell.printed if measured and show == 'both' else ''
    if not marks:
        return Value(text, printed)
    mark = 'cited' if cell.verdict is Verdict.CITED else ''
    if line.added:
        mark = 'added'
    elif cell.measured is not None:
        mark = 'deviating' if cell.deviates else 'measured'
    return Value(text, printed, mark, cell.distinct_convention)


def _number(value: float) -> str:
    """Return a number with one decimal, or with two digits where that would leave less."""
    return f'{value:.1f}' if value >= 0.95 or value == 0 else f'{value:.2g}'


def _values(rows: Sequence[Sequence[Field]]) -> list[Value]:
    return [field for row in rows for field in row if isinstance(field, Value)]


def _legend(lines: Sequence[Line], rows: Sequence[Sequence[Field]]) -> str:
    values = _values(rows)
    used, counted = {value.mark for value in values}, {value.convention for value in values}
    parts = [f'{DAGGER} with token labeling'] * any(line.is_labeled for line in lines)
    parts += [' '.join(of).strip() for name, of in _MARKS.items() if name in used]
    parts += ['in parentheses: as printed'] * any(v.printed and v.mark for v in values)
    parts += [f'{CONVENTION_MARKS[n]} {m}' for n, m in CONVENTION_MEANINGS.items() if n in counted]
    return '; '.join(parts) + '.' * bool(parts)


def _format(column: ShownColumn, fields: Sequence[Field]) -> str:
    """Return the format of a column: S with the digits of its numbers, or l for text."""
    if column.printed is None:
        return 'l'
    values = _values([fields])
    parts = [value.text.partition('.') for value in values]
    whole = max((len(number) for number, _, _ in parts), default=1)
    decimals = max((len(digits) for _, _, digits in parts), default=0)
    after = max((value.after for value in values), key=len, default='')
    space = f',table-space-text-post={{{after}}}' if after else ''
    return f'S[table-format={whole}.{decimals}{space}]'
