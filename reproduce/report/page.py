"""One self-contained HTML page: every table, every cell's provenance, the figures."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from reproduce.ablation.outcomes import Outcomes
from reproduce.audit.findings import Finding
from reproduce.audit.misprints import load_misprints
from reproduce.evaluate.records import Evaluation
from reproduce.judge.assembly import count, count_published
from reproduce.judge.cells import Cell, as_csv
from reproduce.judge.verdict import Agreement, Verdict
from reproduce.paper import TABLES, load_tolerances
from reproduce.report import markup, plots
from reproduce.report.comparisons import SavedComparison
from reproduce.report.layout import (
    COLUMNS,
    CONVENTION_MARKS,
    CONVENTION_MEANINGS,
    Line,
    described,
    group,
    heading,
    is_numeric,
    lines,
    off_by,
    totals_beside_mixed,
    with_extras,
)
from reproduce.report.message import message
from reproduce.report.plots import Drawing
from reproduce.report.speeds import Speed, conditions
from reproduce.report.studies import section, study_figures
from reproduce.systems import System, load_systems
from reproduce.tasks import TASKS

PAPER = 'https://arxiv.org/abs/2209.01620'
# What the figures are drawn in, and the variables of the page's two palettes.
_COLOURS = {
    plots.INK: '--ink',
    plots.PALE: '--faint',
    plots.PAPER: '--surface',
    plots.BLUE: '--blue',
    plots.VERMILION: '--vermilion',
    plots.GREEN: '--green',
    plots.SKY: '--sky',
    plots.ORANGE: '--orange',
    plots.LIGHT: '--line',
}


def render(
    cells: Sequence[Cell],
    records: Sequence[Evaluation] = (),
    findings: Sequence[Finding] = (),
    studies: Sequence[Outcomes] = (),
    speeds: Mapping[str, Speed] | None = None,
    compared: Sequence[SavedComparison] = (),
    origin: str = '',
) -> str:
    """Return the page as HTML; the same inputs give the same bytes.

    Args:
        records: the evaluations that the cells' provenance is taken from.
        findings: what the audit found, ranked.
        studies: the ablations that were run.
        speeds: what the benchmark measured, by timm model.
        compared: results that were compared on the same images.
        origin: when the page was made, and from which commit.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    tables = {n: lines(cells, n) for n in sorted({cell.table for cell in cells})}
    labels = {
        _key(cell): line.name
        for of_table in tables.values()
        for line in of_table
        for cell in line.cells.values()
    }
    return environment.get_template('page.html.j2').render(
        message=message(cells, findings, studies),
        paper=PAPER,
        origin=origin,
        tables=[_table(number, of_table) for number, of_table in tables.items()],
        verdicts=list(count(cells).items()),
        meanings={verdict: verdict.about.meaning for verdict in Verdict},
        deviations=[
            {
                'key': _key(cell),
                'place': f'Table {cell.table}',
                'model': labels[_key(cell)],
                'metric': _metric(cell),
                'paper': cell.paper,
                'measured': _number(cell.measured),
                'off': off_by(cell),
                'verdict': cell.verdict,
                'reason': cell.reason,
            }
            for cell in cells
            if cell.deviates or cell.verdict is Verdict.ERROR
        ],
        figures=[_drawn(name, drawing) for name, drawing in plots.figures(cells).items()],
        published=_published(cells, labels),
        missing=_missing(cells),
        cited=_cited(cells),
        records=[_record(record) for record in records],
        findings=findings,
        studies=[
            {
                **section(study),
                'figures': [_drawn(*item) for item in study_figures(study).items()],
            }
            for study in studies
        ],
        speeds=_speeds(speeds or {}),
        compared=compared,
        provenance=_provenance(cells, labels, records),
        files=_files(cells, tables),
    )


def _table(number: int, of_table: Sequence[Line]) -> dict[str, Any]:
    # Where the printed FLOPs are of both conventions, all of them in one stand beside.
    shown = with_extras(number, COLUMNS[number], totals_beside_mixed(number, of_table))
    beside = {column: _beside(of_table, column) for column in shown}
    columns = [
        {
            'name': column,
            'heading': heading(number, column),
            'numeric': is_numeric(number, column),
            'group': group(number, column),
        }
        for column in shown
    ]
    slugs: Counter[str] = Counter()
    rows = [
        {
            'id': _slug(number, line, slugs),
            'label': line.label,
            'systems': ', '.join(line.systems),
            'ours': line.own,
            'first': bool(index) and of_table[index - 1].block != line.block,
            'fields': [_field(line, column, beside[column]) for column in shown],
        }
        for index, line in enumerate(of_table)
    ]
    spans = [(name, len(list(members))) for name, members in groupby(columns, lambda c: c['group'])]
    return {
        'number': number,
        'title': TABLES[number].title,
        'columns': columns,
        'spans': spans if any(name for name, _ in spans) else [],
        'rows': rows,
        'keys': _keys(of_table, rows),
    }


def _slug(number: int, line: Line, used: Counter[str]) -> str:
    """Return the row's place on the page, such as 't5-swin-t'; `used` keeps those given out."""
    words = re.findall('[a-z0-9]+', line.label.replace('†', ' tl').lower())
    slug = '-'.join([f't{number}', *words])
    used[slug] += 1
    return slug if used[slug] == 1 else f'{slug}-{used[slug]}'


def _keys(of_table: Sequence[Line], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the marks that a table has, each with its meaning."""
    cells = [cell for line in of_table for cell in line.cells.values()]
    marks = {field['mark'] for row in rows for field in row['fields'] if field['cell']}
    conventions = {cell.distinct_convention for cell in cells}
    named = [(verdict.about.symbol, str(verdict)) for verdict in Verdict]
    named += [(agreement.symbol, agreement.meaning) for agreement in Agreement]
    found = [(mark, meaning) for mark, meaning in named if mark and mark in marks]
    found += [
        (CONVENTION_MARKS[name], meaning)
        for name, meaning in CONVENTION_MEANINGS.items()
        if name in conventions
    ]
    if any('†' in line.label for line in of_table):
        found.append(('†', 'with token labeling'))
    if variants := {line.variant for line in of_table if line.variant}:
        found.append(
            (f'({", ".join(sorted(variants))})', 'depths that fit the paper’s own FLOPs better')
        )
    return found


def _beside(of_table: Iterable[Line], column: str) -> int:
    """Return how many characters the printed values of a column take beside its measured ones."""
    cells = (line.cells.get(column) for line in of_table)
    return max((len(c.printed) for c in cells if c and c.measured is not None), default=0)


def _field(line: Line, column: str, beside: int) -> dict[str, Any]:
    cell = line.cells.get(column)
    if cell is None:
        extra = line.extras.get(column)
        text = described(line, column) if extra is None else _number(extra)
        return {
            'cell': False,
            'text': text or '–',
            'numeric': is_numeric(line.table, column),
            'value': '' if extra is None else repr(extra),
        }
    return {
        'cell': True,
        'key': _key(cell),
        'value': '' if cell.value is None else repr(cell.value),
        'measured': _number(cell.measured),
        'paper': cell.printed,
        'verdict': cell.verdict,
        'convention': CONVENTION_MARKS.get(cell.distinct_convention, ''),
        'mark': cell.verdict.about.symbol or (cell.published and cell.published.symbol),
        'beside': beside,
        'spoken': _spoken(cell),
    }


def _spoken(cell: Cell) -> str:
    """Return what the marks and the looks of a cell say, for who hears the page."""
    if cell.measured is None:
        parts = [f'printed, {"cited" if cell.verdict is Verdict.CITED else "not measured"}']
        if cell.published:
            parts.append(f'published {cell.reference}')
        return ', '.join(parts) if cell.printed else 'not measured, not printed'
    return f'{cell.verdict}, printed' if cell.printed else str(cell.verdict)


def _published(cells: Sequence[Cell], labels: Mapping[str, str]) -> dict[str, Any]:
    """Return what publishers of weights state: how many values, and those unlike the paper's."""
    counts = count_published(cells)
    systems = {system.name: system for system in load_systems()}
    return {
        'total': sum(counts.values()),
        'counts': [(agreement, n) for agreement, n in counts.items() if n],
        'differing': [
            {
                'key': _key(cell),
                'place': f'Table {cell.table}',
                'model': labels[_key(cell)],
                'metric': _metric(cell),
                'paper': cell.paper,
                'reference': cell.reference,
                'published': cell.published,
                'source': _place(cell),
                'protocol': systems[cell.system].protocol,
            }
            for cell in cells
            if cell.published not in ('', Agreement.AGREES)
        ],
    }


def _missing(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Return the cells that were not run, by what is missing, with what would make them run."""
    systems = {system.name: system for system in load_systems()}
    found: dict[tuple[bool, str], list[Cell]] = {}
    for cell in cells:
        if cell.verdict is Verdict.NOT_RUN:
            system = systems[cell.system]
            found.setdefault((system.weights is not None, system.task), []).append(cell)
    return [
        {
            'reason': f'{"public weights" if public else "weights that nobody has released"} and '
            f'{TASKS[task].validation_set}',
            'cells': len(missing),
            'systems': list(dict.fromkeys(cell.system for cell in missing)),
            'commands': [
                command
                for table in dict.fromkeys(cell.table for cell in missing)
                for command in (
                    *([f'make checkpoints TABLE={table} CHECKPOINTS=/weights'] if public else []),
                    f'make reproduce-table{table} DATA=/data CHECKPOINTS=/weights',
                )
            ],
        }
        for (public, task), missing in sorted(found.items(), key=lambda item: not item[0][0])
    ]


def _cited(cells: Iterable[Cell]) -> list[tuple[str, int]]:
    """Return why cells are only cited, and how many."""
    return list(Counter(c.reason for c in cells if c.verdict is Verdict.CITED).items())


def _provenance(
    cells: Iterable[Cell], labels: Mapping[str, str], records: Sequence[Evaluation]
) -> dict[str, dict[str, Any]]:
    """Return what the page tells of each cell, by its key; what is empty is left out."""
    systems = {system.name: system for system in load_systems()}
    tolerances = load_tolerances()
    misprints = {misprint.key: misprint.reason for misprint in load_misprints()}
    by_stem = {record.stem: record for record in records}
    return {
        _key(cell): {
            'title': f'Table {cell.table} · {labels[_key(cell)]} · {_metric(cell)}',
            'measured': _number(cell.measured),
            'paper': cell.paper,
            'reference': cell.reference,
            'verdict': cell.verdict,
            'reference_verdict': cell.reference_verdict,
            'facts': [
                (name, text)
                for name, text in (
                    *_judged(cell, tolerances[cell.column.metric.name].reason),
                    ('Misprint', misprints.get((cell.table, cell.model, cell.metric), '')),
                    ('Published', _stated(cell)),
                    ('Depths', _variant(cell)),
                    *_built(systems[cell.system], cell.reason),
                    *_measured(cell, by_stem.get(cell.record)),
                    ('Again', _again(cell)),
                )
                if text
            ],
        }
        for cell in cells
    }


def _judged(cell: Cell, tolerance: str) -> list[tuple[str, str]]:
    flops = ''
    if cell.layer_flops_g is not None and cell.total_flops_g is not None:
        flops = (
            f'{_number(cell.layer_flops_g)} G in convolutions and linear layers, '
            f'{_number(cell.total_flops_g)} G with attention; the printed value counts the '
            f'{"former" if cell.convention == "layer" else "latter"} ({cell.convention})'
        )
    return [
        ('Off by', off_by(cell)),
        ('Tolerance', f'± {cell.tolerance:g}. {tolerance}' if cell.tolerance is not None else ''),
        (
            'Resolvable',
            ''
            if cell.resolvable is None
            else f'the data set shows differences of two networks from {cell.resolvable:.2f} on',
        ),
        ('Reason', cell.reason),
        ('FLOPs', flops),
    ]


def _stated(cell: Cell) -> str:
    """Return what the publisher of the weights states, against the paper, and where."""
    if not cell.reference:
        return ''
    against = f', {cell.published} against the paper' if cell.published else ''
    if cell.published == Agreement.AGREES:
        against = ', which agrees with the paper'
    return f'{cell.reference}{against}: {_place(cell)}'


def _place(cell: Cell) -> str:
    """Return where the reference stands; the page links to nothing, so an address has no scheme."""
    return cell.reference_source.removeprefix('https://')


def _variant(cell: Cell) -> str:
    if not cell.variant:
        return ''
    return (
        f'{cell.variant}, a variant that the paper does not print; its values are those of the row'
    )


def _built(system: System, reason: str) -> list[tuple[str, str]]:
    arguments = ', '.join(f'{name}={value}' for name, value in system.arguments.items())
    how = f'config {system.config}' if system.config else ''
    if system.model:
        how = f'timm model {system.model}' + (f' ({arguments})' if arguments else '')
    return [
        ('System', system.name),
        ('Built from', how),
        ('Source', system.source),
        ('Note', system.note if system.note not in reason else ''),
    ]


def _measured(cell: Cell, record: Evaluation | None) -> list[tuple[str, str]]:
    """Return what is on record about the evaluation that the cell comes from."""
    if record is None:
        return []
    metric, facts = cell.column.metric.name, _record(record)
    low, high = record.intervals.get(metric, ('', ''))
    return [
        ('Evaluated', f'{facts["date"]}, {facts["images"]}, {facts["precision"]}'),
        ('95 % interval', f'{low:.2f} to {high:.2f}' if metric in record.intervals else ''),
        ('Checkpoint', f'{record.checkpoint.file}, SHA-256 {record.checkpoint.sha256}'),
        ('Device', facts['device']),
        ('Versions', facts['versions']),
        ('Command', record.provenance.command),
        ('Record', record.stem),
    ]


def _speeds(speeds: Mapping[str, Speed]) -> dict[str, Any]:
    """Return what the benchmark measured, by size of the images, the fastest model first."""
    ordered = sorted(speeds.values(), key=lambda speed: (speed.size, -speed.images_per_s))
    return {'rows': ordered, 'conditions': conditions(ordered) if ordered else ''}


def _files(cells: Sequence[Cell], tables: Mapping[int, Sequence[Line]]) -> dict[str, str]:
    """Return the files that the page offers to save, by name."""
    style = markup.Style()
    files = {}
    for number, of_table in tables.items():
        columns = COLUMNS[number]
        files[f'table{number}.csv'] = as_csv([cell for cell in cells if cell.table == number])
        files[f'table{number}.md'] = markup.markdown(of_table, columns, style)
        files[f'table{number}.tex'] = markup.latex(of_table, columns, style)
    return files


def _record(record: Evaluation) -> dict[str, Any]:
    data, provenance = record.data, record.provenance
    extent = 'complete' if data.complete else f'a part: {"; ".join(data.problems)}'
    return {
        'name': record.system or record.model,
        'task': record.task,
        'metrics': ', '.join(f'{name} {value:.2f}' for name, value in record.metrics.items()),
        'images': f'{data.images:,} images of {data.split} ({extent})',
        'date': provenance.date[:10],
        'precision': record.precision,
        'device': f'{provenance.processes} × {provenance.device}',
        'sha256': record.checkpoint.sha256,
        'file': record.checkpoint.file,
        'versions': ', '.join(f'{name} {text}' for name, text in provenance.versions.items()),
        'classes': plots.by_class(record),
    }


def _again(cell: Cell) -> str:
    weights = ''
    if not cell.column.metric.is_complexity:
        weights = ' DATA=/data CHECKPOINTS=/weights'
    return f'make reproduce-table{cell.table} ARGS="--models {cell.system}"{weights}'


def _key(cell: Cell) -> str:
    return '/'.join(map(str, cell.key))


def _metric(cell: Cell) -> str:
    column = cell.column
    several = len(TABLES[cell.table].frameworks) > 1
    return f'{column.group if several else ""} {column.metric.heading}'.strip()


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.2f}'


def _drawn(name: str, drawing: Drawing) -> dict[str, Any]:
    title, figure, says = drawing
    return {'title': title, 'says': says, 'svg': _svg(figure, name, title)}


def _svg(figure: Figure, name: str, title: str) -> Markup:
    """Return the figure as an SVG element in the page's colours, its ids its own on the page."""
    buffer = io.BytesIO()
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    plots.save(figure, buffer, 'svg')
    text = buffer.getvalue().decode()
    text = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>', '', text, flags=re.DOTALL)
    # matplotlib's measures are for print; on the page a figure is as wide as its column.
    opening = re.compile(r'.*?<svg[^>]*(viewBox="[^"]*")[^>]*>', re.DOTALL)
    label = Markup.escape(title)
    text = opening.sub(rf'<svg role="img" aria-label="{label}" \1>', text, count=1)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'url\(#', f'url(#{name}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    for colour, variable in _COLOURS.items():
        text = re.sub(colour, f'var({variable})', text, flags=re.IGNORECASE)
    return Markup(text)
