"""The tables as text for a terminal: cells, deviations, what is missing, one line of summary."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

from reproduce.base.terminal import Part, Text, TextTable
from reproduce.evaluate.unmeasured import NotRun
from reproduce.judge.assembly import count, count_published
from reproduce.judge.cells import Cell
from reproduce.judge.verdict import Agreement, Verdict
from reproduce.paper import TABLES
from reproduce.report.layout import (
    CONVENTION_MARKS,
    CONVENTION_MEANINGS,
    Line,
    extras,
    lines,
    off_by,
    totals_beside_mixed,
    with_extras,
)

# Of a cell that was measured, or should have been.
_MARKED = [v for v in Verdict if v.about.symbol and v is not Verdict.CITED]
_LEGEND = (
    f'measured/paper {"  ".join(f"{v.about.symbol} {v}" for v in _MARKED)}  '
    '·/paper not measured (not-run or cited)\n'
    + '  '.join(f'{CONVENTION_MARKS[name]} {text}' for name, text in CONVENTION_MEANINGS.items())
    + '  (no mark: they are the same)'
)


def render(cells: Collection[Cell]) -> list[Part]:
    """Return the cells as text: tables, then deviations, what is missing, and the summary."""
    tables = {n: lines([*cells], n) for n in sorted({cell.table for cell in cells})}
    names = {
        cell.key: line.name
        for of_table in tables.values()
        for line in of_table
        for cell in line.cells.values()
    }
    return [
        *(part for number, of_table in tables.items() for part in _table(number, of_table)),
        _LEGEND,
        *_deviations(cells, names),
        *_references(cells, names),
        *_published(cells, names),
        *_missing(cells),
        summary(cells),
    ]


def summary(cells: Collection[Cell]) -> str:
    """Return one line: the tables, and how many cells have each verdict."""
    tables = sorted({cell.table for cell in cells})
    counts = ', '.join(f'{n} {verdict}' for verdict, n in count(cells).items())
    return f'Table {", ".join(map(str, tables))}: {len(cells)} cells: {counts}.'


def _table(number: int, of_table: Sequence[Line]) -> list[Part]:
    beside = totals_beside_mixed(number, of_table)
    used = {name for line in of_table for name in line.cells}
    columns = with_extras(number, [name for name in TABLES[number].columns if name in used], beside)
    rows = [
        [line.name, *(_field(line, column) for column in columns), ', '.join(line.systems)]
        for line in of_table
    ]
    several = len(TABLES[number].frameworks) > 1
    heads = [_heading(number, column, several) for column in columns]
    title = f'Table {number}. {TABLES[number].title}'
    return [title, TextTable(['row', *heads, 'system'], rows)]


def _heading(number: int, column: str, several: bool) -> str:
    extra = extras(number).get(column)
    of = extra.beside if extra else TABLES[number].columns[column]
    name = 'all total (G)' if extra else of.metric.heading
    return f'{of.framework.short_heading} {name}' if several else name


def _field(line: Line, column: str) -> str | Text:
    cell = line.cells.get(column)
    if cell is None:
        total = line.extras.get(column)
        return '' if total is None else f'{total:.4g}'
    if cell.measured is None:
        return Text(f'·/{cell.printed}' if cell.printed else '', 'bright_black')
    convention = CONVENTION_MARKS.get(cell.distinct_convention, '')
    mark = (cell.verdict.about.symbol, cell.verdict.about.colour)
    return Text.assemble(f'{cell.measured:.4g}{convention}/{cell.printed or "–"} ', mark)


def _deviations(cells: Iterable[Cell], names: Mapping[Hashable, str]) -> list[Part]:
    deviating = [cell for cell in cells if cell.verdict in _MARKED[1:]]
    if not deviating:
        return []
    rows = [
        [
            f'T{cell.table} {names[cell.key]}',
            cell.metric + (f' ({cell.convention})' if cell.convention else ''),
            cell.paper,
            '' if cell.measured is None else f'{cell.measured:.4g}',
            off_by(cell),
            Text(cell.verdict, cell.verdict.about.colour),
            f'{cell.system}: {cell.reason}',
        ]
        for cell in deviating
    ]
    heads = ['deviation', 'metric', 'paper', 'measured', 'off by', 'verdict', 'system: reason']
    return [TextTable(heads, rows)]


def _references(cells: Iterable[Cell], names: Mapping[Hashable, str]) -> list[Part]:
    rows = [
        [
            *(f'T{c.table} {names[c.key]}', c.metric, c.reference, f'{c.measured:.2f}'),
            Text(c.reference_verdict, c.reference_verdict.about.colour),
        ]
        for c in cells
        if c.reference and c.measured is not None
    ]
    heads = ['same weights', 'metric', 'reference', 'measured', 'verdict']
    return [TextTable(heads, rows)] if rows else []


def _published(cells: Collection[Cell], names: Mapping[Hashable, str]) -> list[Part]:
    """Return what publishers of public weights state otherwise than the paper, and the counts."""
    counts = count_published(cells)
    if not sum(counts.values()):
        return []
    rows = [
        [
            *(f'T{c.table} {names[c.key]}', c.metric, c.paper, c.reference, c.published),
            c.reference_source,
        ]
        for c in cells
        if c.published not in ('', Agreement.AGREES)
    ]
    heads = ['published', 'metric', 'paper', 'published', '', 'where']
    sentence = (
        f'{sum(counts.values())} accuracies are published with public weights, of which '
        f'{counts[Agreement.AGREES]} agree with the paper, {counts[Agreement.HIGHER]} are higher '
        f'and {counts[Agreement.LOWER]} are lower.'
    )
    return [*([TextTable(heads, rows)] if rows else []), sentence]


def _missing(cells: Iterable[Cell]) -> list[str]:
    missing: dict[NotRun, list[str]] = {}
    for cell in cells:
        if cell.missing is not None:
            missing.setdefault(cell.missing, []).append(cell.system)
    return [
        f'not-run, {len(systems)} cells of {len(set(systems))} systems: {what.sentence("SYSTEM")}.'
        for what, systems in missing.items()
    ]
