"""The tables as text for a terminal: cells, deviations, what is missing, one line of summary."""

from collections.abc import Collection, Iterable

from tabulate import tabulate

from reproduce.judge.assembly import count
from reproduce.judge.cells import Cell
from reproduce.judge.verdict import COMPLEXITY_METRICS, Verdict
from reproduce.paper import TITLES, unprefixed

_MARKS = {
    Verdict.MATCH: '✓',
    Verdict.BETTER: '▲',
    Verdict.WORSE: '✗',
    Verdict.KNOWN: '≈',
    Verdict.ERROR: '!',
}
_LEGEND = (
    'measured/paper ✓ match  ▲ better  ✗ worse  ≈ known deviation  ! error  '
    '·/paper not measured (not-run or cited)'
)
_HEADS = {
    'params_m': 'params M',
    'flops_g': 'FLOPs G',
    'top1': 'top-1',
    'box_ap': 'APb',
    'box_ap50': 'APb50',
    'box_ap75': 'APb75',
    'mask_ap': 'APm',
    'mask_ap50': 'APm50',
    'mask_ap75': 'APm75',
    'miou': 'mIoU',
    'ms_miou': 'MS mIoU',
}


def render(cells: Collection[Cell]) -> str:
    """All of `cells` as text: a table each, then deviations, what is missing, and the summary."""
    parts = [_table([c for c in cells if c.table == n]) for n in sorted({c.table for c in cells})]
    return '\n\n'.join(
        [
            *parts,
            _LEGEND,
            *_deviations(cells),
            *_references(cells),
            *_missing(cells),
            summary(cells),
        ]
    )


def summary(cells: Collection[Cell]) -> str:
    """One line: the tables, and how many cells have each verdict."""
    tables = sorted({cell.table for cell in cells})
    counts = ', '.join(f'{n} {verdict}' for verdict, n in count(cells).items())
    return f'Table {", ".join(map(str, tables))}: {len(cells)} cells: {counts}.'


def _table(cells: list[Cell]) -> str:
    metrics: dict[str, str] = {}  # column to heading, in printed order
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells:
        metric = unprefixed(cell.metric)
        metrics.setdefault(metric, _HEADS[metric])
        lines.setdefault((cell.model, cell.system), {})[metric] = _cell(cell)
    rows = [
        [model, *(line.get(metric, '') for metric in metrics), system]
        for (model, system), line in lines.items()
    ]
    title = f'Table {cells[0].table}. {TITLES[cells[0].table]}'
    return f'{title}\n' + tabulate(rows, ['row', *metrics.values(), 'system'], 'simple')


def _cell(cell: Cell) -> str:
    if cell.measured is None:
        return f'·/{cell.paper}' if cell.paper else ''
    return f'{cell.measured:.4g}/{cell.paper or "–"} {_MARKS.get(cell.verdict, "")}'


def _off_by(cell: Cell) -> str:
    if cell.difference is None:
        return ''
    if unprefixed(cell.metric) in COMPLEXITY_METRICS:
        return f'{cell.difference / float(cell.paper):+.1%}'
    return f'{cell.difference:+.2f}'


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
            _off_by(cell),
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
        if c.reference
    ]
    heads = ['same weights', 'metric', 'reference', 'measured', 'verdict']
    return [tabulate(rows, heads, 'simple', disable_numparse=True)] if rows else []


def _missing(cells: Iterable[Cell]) -> list[str]:
    missing: dict[str, list[str]] = {}
    for cell in cells:
        if cell.verdict is Verdict.NOT_RUN:
            missing.setdefault(cell.reason.replace(cell.system, 'SYSTEM'), []).append(cell.system)
    return [
        f'not-run, {len(systems)} cells of {len(set(systems))} systems: {reason}.'
        for reason, systems in missing.items()
    ]
