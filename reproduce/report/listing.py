"""The tables for a terminal: cells, deviations, what is missing, and one line of summary."""

from collections.abc import Collection, Iterable, Mapping

from reproduce.base.terminal import Part, Text, TextTable
from reproduce.evaluate.accuracies import NotRun
from reproduce.judge.assembly import count, count_published, printed_numbers
from reproduce.judge.cells import Cell
from reproduce.judge.verdict import Verdict
from reproduce.paper import TABLES
from reproduce.report.layout import (
    CONVENTIONS,
    Line,
    ShownColumn,
    all_lines,
    columns_with_totals,
    line_of_cells,
    off_by,
)

_MARKED = [v for v in Verdict if v.about.symbol and v is not Verdict.CITED]  # of measured cells
_LEGEND = (
    f'measured/paper {"  ".join(f"{v.about.symbol} {v}" for v in _MARKED)}  '
    '·/paper not measured (not-run or cited)\n'
    + '  '.join(f'{mark} {meaning}' for mark, meaning in CONVENTIONS.values() if mark)
    + '  (no mark: they are the same)'
)


def render(cells: Collection[Cell]) -> list[Part]:
    """Return the cells as tables, then deviations, what is missing, and the summary."""
    tables = all_lines(cells)
    names = {key: f'T{line.row.table} {line.name}' for key, line in line_of_cells(tables).items()}
    parts: list[Part] = []
    for number, of_table in tables.items():
        used = {cell.column for line in of_table for cell in line.cells.values()}
        shown = [c for c in columns_with_totals(number, of_table) if c.printed in used]
        heads = [
            f'{c.printed.framework.short_heading} '
            f'{"all total (G)" if c.is_total else c.heading}'.strip()
            for c in shown
        ]
        rows = [
            [line.name, *(_field(line, column) for column in shown), ', '.join(line.systems)]
            for line in of_table
        ]
        title = f'Table {number}. {TABLES[number].title}'
        parts += [title, TextTable(['row', *heads, 'system'], rows)]
    return [*parts, _LEGEND, *_judged(cells, names), *_missing(cells), summary(cells)]


def summary(cells: Collection[Cell]) -> str:
    """Return the tables, and how many printed numbers have each verdict and published value."""
    tables = ', '.join(map(str, sorted({cell.table for cell in cells})))
    counts, published = (
        ', '.join(f'{n} {name}' for name, n in of.items())
        for of in (count(cells), count_published(cells))
    )
    return (
        f'Table {tables}: {len(printed_numbers(cells))} printed numbers: {counts} ({len(cells)} '
        f'lines). Published accuracies and the paper: {published}.'
    )


def _field(line: Line, column: ShownColumn) -> str | Text:
    if column.is_total:
        total = line.total_flops(column)
        return '' if total is None else f'{total:.4g}'
    cell = line.cells.get(column.name)
    if cell is None:
        return ''
    if cell.measured is None:
        return Text(f'·/{cell.printed}' if cell.printed else '', 'bright_black')
    convention = CONVENTIONS[cell.distinct_convention][0]
    mark = (cell.verdict.about.symbol, cell.verdict.about.colour)
    return Text.assemble(f'{cell.measured:.4g}{convention}/{cell.printed or "–"} ', mark)


def _judged(cells: Collection[Cell], names: Mapping[tuple, str]) -> list[Part]:
    """Return the cells that deviate from the paper, and those that have a reference."""
    deviations: list[list[str | Text]] = [
        [
            *(names[cell.key], cell.metric, cell.convention, cell.paper),
            '' if cell.measured is None else f'{cell.measured:.4g}',
            off_by(cell),
            Text(cell.verdict, cell.verdict.about.colour),
            f'{cell.system}: {cell.reason}',
        ]
        for cell in cells
        if cell.verdict in _MARKED and cell.verdict is not Verdict.MATCH
    ]
    references: list[list[str | Text]] = [
        [
            *(names[c.key], c.metric, c.reference, f'{c.measured:.2f}'),
            Text(c.reference_verdict, c.reference_verdict.about.colour),
        ]
        for c in cells
        if c.reference and c.measured is not None
    ]
    heads = ['deviation', 'metric', '', 'paper', 'measured', 'off by', 'verdict', 'system: reason']
    of_weights = ['same weights', 'metric', 'reference', 'measured', 'verdict']
    tables = TextTable(heads, deviations), TextTable(of_weights, references)
    return [table for table in tables if table.rows]


def _missing(cells: Iterable[Cell]) -> list[str]:
    missing: dict[NotRun, list[str]] = {}
    for cell in printed_numbers(cells):
        if cell.missing is not None:
            missing.setdefault(cell.missing, []).append(cell.system)
    return [
        f'not-run, {len(of)} numbers of {len(set(of))} systems: {what.sentence("SYSTEM")}.'
        for what, of in missing.items()
    ]
