"""Shown tables as Markdown, and as LaTeX for booktabs and siunitx."""

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from tabulate import tabulate

from reproduce.paper import FOLDER, PAPER, TABLES
from reproduce.report.layout import CONVENTIONS, MARKS, Field, ShownColumn, ShownTable

_LATEX = str.maketrans(
    {
        '\\': r'\textbackslash{}',
        '~': r'\textasciitilde{}',
        '^': r'\textasciicircum{}',
        **{character: f'\\{character}' for character in '&%$#_{}'},
        **{'†': r'$^{\dagger}$', '²': r'$^{2}$', '×': r'$\times$'},
        **{'•': r'$\bullet$', '≠': r'$\neq$', '◦': r'$\circ$', '⋆': r'$\star$'},
        **{'ᵇ': r'\textsuperscript{b}', 'ᵐ': r'\textsuperscript{m}'},
        **{digit: rf'\textsubscript{{{n}}}' for n, digit in zip('057', '₀₅₇', strict=True)},
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
_UNMARKED = {'', 'printed'}
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    trim_blocks=True,
    lstrip_blocks=True,
    block_start_string='<%',
    block_end_string='%>',
    variable_start_string='<<',
    variable_end_string='>>',
    comment_start_string='<#',
    comment_end_string='#>',
)


def markdown(table: ShownTable) -> str:
    """Return a table in Markdown: a title, the table, and the meaning of its marks."""
    is_number = [False, *(column.printed is not None for column in table.columns)]

    def written(field: Field, number: bool) -> str:
        if not number:
            return field.text.translate(_MARKDOWN)
        text = f'**{field.text}**' if field.best else field.text or '–'
        text += CONVENTIONS[field.convention][0]
        text += f' ({field.printed})' if field.printed else ''
        return text + (MARKS[field.mark][0] if field.mark else '')

    several = len({column.group for column in table.columns} - {''}) > 1
    heads = [f'{c.group}: {c.heading}' if several and c.group else c.heading for c in table.columns]
    body = tabulate(
        [list(map(written, row, is_number)) for row in table.rows],
        ['Model', *heads],
        'pipe',
        disable_numparse=True,
        colalign=['right' if number else 'left' for number in is_number],
    )
    title = f'**Table {table.number}.** {TABLES[table.number].title}'
    return '\n\n'.join(filter(None, (title, body, table.legend))) + '\n'


def latex(table: ShownTable) -> str:
    r"""Return a table in LaTeX, to be `\input`: a `table*` with caption, label and legend.

    It needs booktabs, graphicx and siunitx.
    """
    is_number = [False, *(column.printed is not None for column in table.columns)]

    def written(field: Field, number: bool) -> str:
        if not number:
            return field.text.translate(_LATEX)
        after = _after(field) + (rf'\cell{field.mark}' if field.mark not in _UNMARKED else '')
        text = field.text or '{--}'
        return (r'\bfseries ' if field.best else '') + text + f'{{{after}}}' * bool(after)

    written_rows = [list(map(written, row, is_number)) for row in table.rows]
    blocks = groupby(zip(table.lines, written_rows, strict=True), lambda item: item[0].row.block)
    groups, first = [], 2
    for name, members in groupby(table.columns, lambda column: column.group):
        last = first + len(list(members)) - 1
        groups.append((name.translate(_LATEX), first, last))
        first = last + 1
    marks = {field.mark for row in table.rows for field in row} - _UNMARKED
    return _ENVIRONMENT.get_template('table.tex.j2').render(
        number=table.number,
        paper=PAPER.title,
        label=FOLDER.name,
        title=TABLES[table.number].title.translate(_LATEX),
        marks=[(n, symbol.translate(_LATEX)) for n, (symbol, _) in MARKS.items() if n in marks],
        formats=[
            _format(column, [row[i] for row in table.rows])
            for i, column in enumerate(table.columns, 1)
        ],
        groups=groups if any(name for name, _, _ in groups) else [],
        headings=[column.heading.translate(_LATEX) for column in table.columns],
        blocks=[[row for _, row in block] for _, block in blocks],
        legend=table.legend.translate(_LATEX),
    )


def document(names: Iterable[str]) -> str:
    r"""Return a LaTeX document that inputs the tables `names`."""
    return _ENVIRONMENT.get_template('tables.tex.j2').render(names=names)


def _after(field: Field) -> str:
    """Return what follows a number in LaTeX, without the mark, which takes no space."""
    convention = rf'\cellconvention{{{field.convention[0]}}}' if field.convention else ''
    return convention + (rf'\cellprinted{{{field.printed}}}' if field.printed else '')


def _format(column: ShownColumn, fields: list[Field]) -> str:
    """Return the format of a column: S with the digits of its numbers, or l for text."""
    if column.printed is None:
        return 'l'
    parts = [field.text.partition('.') for field in fields]
    whole = max(len(number) for number, _, _ in parts) or 1
    decimals = max(len(digits) for _, _, digits in parts)
    after = max(map(_after, fields), key=len)
    space = f',table-space-text-post={{{after}}}' if after else ''
    return f'S[table-format={whole}.{decimals}{space}]'
