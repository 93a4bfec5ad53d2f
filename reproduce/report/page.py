"""One self-contained HTML page: every table, the origin of every cell, the figures."""

import base64
import io
from collections.abc import Collection, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reproduce.ablation import rendering
from reproduce.ablation.outcomes import Outcomes
from reproduce.audit.findings import Finding
from reproduce.base.folders import PAPER_OPTION, RESULTS
from reproduce.evaluate.records import Evaluation
from reproduce.judge.assembly import count, count_published, printed_numbers
from reproduce.judge.cells import Cell
from reproduce.judge.verdict import Agreement, Verdict
from reproduce.paper import PAPER, TABLES
from reproduce.report import plots
from reproduce.report.details import cell_facts, record_facts
from reproduce.report.layout import (
    CONVENTIONS,
    DAGGER,
    Line,
    all_lines,
    columns_with_totals,
    line_of_cells,
    off_by,
)
from reproduce.report.plots import PALETTE, Drawing
from reproduce.systems import load_systems


def render(
    cells: Sequence[Cell],
    records: Sequence[Evaluation] = (),
    findings: Sequence[Finding] = (),
    studies: Sequence[Outcomes] = (),
    origin: str = '',
) -> str:
    """Return the page as HTML; the same inputs give the same bytes.

    `records` are the evaluations that the cells come from, `findings` the ranked ones of the audit,
    `studies` the ablations, and `origin` says when the page was made, and from which commit.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies['json.dumps_kwargs'] = {'sort_keys': False}
    environment.filters |= {'key': _key, 'metric': _metric, 'number': _number, 'off_by': off_by}
    environment.filters['image'] = _image
    tables = all_lines(cells)
    lines, numbers = line_of_cells(tables), printed_numbers(cells)
    facts = {record.stem: record_facts(record) for record in records}
    return environment.get_template('page.html.j2').render(
        paper=PAPER,
        command=f'python -m reproduce{PAPER_OPTION} report',
        results=RESULTS,
        origin=origin,
        palette=PALETTE,
        verdicts=list(Verdict),
        counts=count(cells),
        numbers=_numbers(numbers),
        leads=[(n, f) for n, f in enumerate(findings, 1) if f.extent == 'main result'],
        tables=[_table(number, of_table) for number, of_table in tables.items()],
        lines=lines,
        deviations=[c for c in numbers if c.deviates or c.verdict is Verdict.ERROR],
        published=count_published(cells),
        differing=[c for c in cells if c.published and not c.published.agrees],
        systems={system.name: system for system in load_systems()},
        figures=plots.figures(cells).values(),
        records=[(record, facts[record.stem]) for record in records],
        findings=findings,
        studies=studies,
        of_studies=plots.studies_figure(studies),
        rendering=rendering,
        provenance={
            _key(cell): {
                'title': f'Table {cell.table} · {lines[cell.key].name} · {_metric(cell)}',
                'measured': _number(cell.measured),
                'paper': cell.paper,
                'reference': cell.reference,
                'verdict': cell.verdict,
                'reference_verdict': cell.reference_verdict,
                'facts': cell_facts(cell) | facts.get(cell.record, {}),
            }
            for cell in cells
        },
    )


def _numbers(numbers: Sequence[Cell]) -> list[tuple[int, int, str, str, str]]:
    """Return counts of numbers: how many, of how many, what, a note, and the section with them."""
    costs = [cell for cell in numbers if cell.column.metric.is_complexity]
    accuracies = [cell for cell in numbers if not cell.column.metric.is_complexity]
    counted, measured = ([c for c in of if c.measured is not None] for of in (costs, accuracies))
    published = [c.published for c in accuracies if c.published and c.measured is None]
    stated = 'accuracies published with public weights, but not measured here'
    agreeing = f'{sum(p.agrees for p in published)} agree with the paper' if published else ''
    found: list[tuple[Sequence[Any], Sequence[Any], tuple[str, str, str]]] = [
        (counted, costs, ('parameter counts and FLOPs measured', _phrases(costs), '#tables')),
        (measured, accuracies, ('accuracies measured', _phrases(measured), '#evaluations')),
        (published, accuracies, (stated, agreeing, '#published' if published else '#tables')),
    ]
    return [(len(some), len(every), *texts) for some, every, texts in found]


def _phrases(cells: Collection[Cell]) -> str:
    return ', '.join(f'{n} {v.about.phrase}' for v, n in count(cells).items() if v.about.phrase)


def _table(number: int, of_table: Sequence[Line]) -> dict[str, Any]:
    shown = columns_with_totals(number, of_table)
    cells = [cell for line in of_table for cell in line.cells.values()]
    spans = [(name, len(list(of))) for name, of in groupby(shown, lambda column: column.group)]
    keys = [(v.about.symbol, str(v)) for v in count(cells) if v.about.symbol]
    counted = {cell.published for cell in cells if cell.measured is None}
    keys += [(a.symbol, f'published, {a.meaning}') for a in Agreement if a in counted]
    conventions = {cell.distinct_convention for cell in cells}
    keys += [of for kind, of in CONVENTIONS.items() if kind and kind in conventions]
    keys += [(DAGGER, 'with token labeling')] * any(line.is_labeled for line in of_table)
    if variants := sorted({line.variant for line in of_table if line.variant}):
        keys.append((f'({", ".join(variants)})', 'depths that fit the paper’s own FLOPs better'))
    return {
        'number': number,
        'title': TABLES[number].title,
        'columns': shown,
        'spans': spans if any(name for name, _ in spans) else [],
        'lines': of_table,
        'keys': keys,
        'measured': {cell.metric for cell in cells if cell.measured is not None},
        'conventions': CONVENTIONS,
    }


def _key(cell: Cell) -> str:
    return '/'.join(map(str, cell.key))


def _metric(cell: Cell) -> str:
    column = cell.column
    several = len(TABLES[cell.table].frameworks) > 1
    return f'{column.group if several else ""} {column.metric.heading}'.strip()


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.2f}'


def _image(drawing: Drawing) -> str:
    """Return a figure as a data URI."""
    buffer = io.BytesIO()
    plots.save(drawing.draw(), buffer, 'svg')
    return f'data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}'
