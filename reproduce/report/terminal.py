"""The tables as text for a terminal: cells, deviations, what is missing, one line of summary."""

from collections.abc import Collection, Iterable

from tabulate import tabulate

from reproduce.evaluate.unmeasured import NotRun
from reproduce.judge.assembly import count, count_published
from reproduce.judge.cells import Cell
from reproduce.judge.verdict import Agreement, Verdict
from reproduce.paper import TABLES
from reproduce.report.layout import CONVENTION_MARKS, CONVENTION_MEANINGS, off_by

_MARKS = {
    Verdict.MATCH: '✓',
    Verdict.BETTER: '▲',
    Verdict.WORSE: '✗',
    Verdict.KNOWN: '≈',
    Verdict.ERROR: '!',
}
_LEGEND = (
    'measured/paper ✓ match  ▲ better  ✗ worse  ≈ known deviation  ! error  '
    '·/paper not measured (not-run or cited)\n'
    + '  '.join(f'{CONVENTION_MARKS[name]} {text}' for name, text in CONVENTION_MEANINGS.items())
    + '  (no mark: they are the same)'
)


def render(cells: Collection[Cell]) -> str:
    """Return the cells as text: tables, then deviations, what is missing, and the summary."""
    parts = [_table([c for c in cells if c.table == n]) for n in sorted({c.table for c in cells})]
    return '\n\n'.join(
        [
            *parts,
            _LEGEND,
            *_deviations(cells),
            *_references(cells),
            *_published(cells),
            *_missing(cells),
            summary(cells),
        ]
    )


def summary(cells: Collection[Cell]) -> str:
    """Return one line: the tables, and how many cells have each verdict."""
    tables = sorted({cell.table for cell in cells})
    counts = ', '.join(f'{n} {verdict}' for verdict, n in count(cells).items())
    return f'Table {", ".join(map(str, tables))}: {len(cells)} cells: {counts}.'


def _table(cells: list[Cell]) -> str:
    metrics: dict[str, str] = {}  # column to heading, in printed order
    lines: dict[tuple[str, str], dict[str, str]] = {}
    mixed = {'layer', 'total'} <= {cell.distinct_convention for cell in cells}
    for cell in cells:
        metric = cell.column.metric
        metrics.setdefault(metric.name, metric.heading)
        line = lines.setdefault((cell.model, cell.system), {})
        line[metric.name] = _cell(cell)
        if metric.name == 'flops_g' and mixed and cell.total_flops_g is not None:
            metrics['total_flops_g'] = 'all total (G)'
            line['total_flops_g'] = f'{cell.total_flops_g:.4g}'
    rows = [
        [model, *(line.get(metric, '') for metric in metrics), system]
        for (model, system), line in lines.items()
    ]
    title = f'Table {cells[0].table}. {TABLES[cells[0].table].title}'
    return f'{title}\n' + tabulate(rows, ['row', *metrics.values(), 'system'], 'simple')


def _cell(cell: Cell) -> str:
    if cell.measured is None:
        return f'·/{cell.printed}' if cell.printed else ''
    convention = CONVENTION_MARKS.get(cell.distinct_convention, '')
    return f'{cell.measured:.4g}{convention}/{cell.printed or "–"} {_MARKS.get(cell.verdict, "")}'


def _deviations(cells: Iterable[Cell]) -> list[str]:
    deviating = [cell for cell in cells if cell.verdict in list(_MARKS)[1:]]
    if not deviating:
        return []
    rows = [
        [
            f'T{cell.table} {cell.model}',
            cell.metric + (f' ({cell.convention})' if cell.convention else ''),
            cell.paper,
            '' if cell.measured is None else f'{cell.measured:.4g}',
            off_by(cell),
            cell.verdict,
            f'{cell.system}: {cell.reason}',
        ]
        for cell in deviating
    ]
    heads = ['deviation', 'metric', 'paper', 'measured', 'off by', 'verdict', 'system: reason']
    widths = [None] * 6 + [72]
    return [tabulate(rows, heads, 'simple', maxcolwidths=widths, disable_numparse=True)]


def _references(cells: Iterable[Cell]) -> list[str]:
    rows = [
        [f'T{c.table} {c.model}', c.metric, c.reference, f'{c.measured:.2f}', c.reference_verdict]
        for c in cells
        if c.reference and c.measured is not None
    ]
    heads = ['same weights', 'metric', 'reference', 'measured', 'verdict']
    return [tabulate(rows, heads, 'simple', disable_numparse=True)] if rows else []


def _published(cells: Collection[Cell]) -> list[str]:
    """Return what publishers of public weights state otherwise than the paper, and the counts."""
    counts = count_published(cells)
    if not sum(counts.values()):
        return []
    rows = [
        [f'T{c.table} {c.model}', c.metric, c.paper, c.reference, c.published, c.reference_source]
        for c in cells
        if c.published not in ('', Agreement.AGREES)
    ]
    heads = ['published', 'metric', 'paper', 'published', '', 'where']
    sentence = (
        f'{sum(counts.values())} accuracies are published with public weights, of which '
        f'{counts[Agreement.AGREES]} agree with the paper, {counts[Agreement.HIGHER]} are higher '
        f'and {counts[Agreement.LOWER]} are lower.'
    )
    table = tabulate(rows, heads, 'simple', maxcolwidths=[None] * 5 + [72], disable_numparse=True)
    return [table, sentence] if rows else [sentence]


def _missing(cells: Iterable[Cell]) -> list[str]:
    missing: dict[NotRun, list[str]] = {}
    for cell in cells:
        if cell.missing is not None:
            missing.setdefault(cell.missing, []).append(cell.system)
    return [
        f'not-run, {len(systems)} cells of {len(set(systems))} systems: {what.sentence("SYSTEM")}.'
        for what, systems in missing.items()
    ]
