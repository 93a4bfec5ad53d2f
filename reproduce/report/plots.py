"""Figures of the cells: accuracy over cost, deviations from the paper, results by class.

Colours are Okabe and Ito's; shape and filling say the same, so that grey print loses nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO, NamedTuple

import matplotlib

matplotlib.use('agg')

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter

from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell
from reproduce.judge.verdict import Verdict
from reproduce.paper import METRICS, TABLES, Column
from reproduce.report.layout import Line, lines, off_by
from reproduce.report.placement import place

BLUE, VERMILION, GREEN, SKY, ORANGE = '#0072b2', '#d55e00', '#009e73', '#56b4e9', '#e69f00'
INK, PALE, LIGHT, PAPER = '#1c1c1e', '#8a8a8e', '#d8d8dc', '#ffffff'

STYLE: dict[str, Any] = {
    'font.family': 'DejaVu Sans',
    'font.size': 9,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': INK,
    'axes.labelcolor': INK,
    'text.color': INK,
    'xtick.color': INK,
    'ytick.color': INK,
    'axes.linewidth': 0.6,
    'axes.grid': True,
    'grid.color': PALE,
    'grid.alpha': 0.25,
    'grid.linewidth': 0.5,
    'axes.axisbelow': True,
    'axes.titlesize': 9,
    'legend.frameon': False,
    'pdf.fonttype': 42,
    'svg.fonttype': 'none',
    'svg.hashsalt': 'maformer',
}

# The accuracies that are drawn over FLOPs and parameters: table, framework, metric.
_ACCURACIES = {
    'imagenet_top1': (4, 'classifier', 'top1'),
    'mask_rcnn_box_ap': (5, 'mask_rcnn', 'box_ap'),
    'mask_rcnn_mask_ap': (5, 'mask_rcnn', 'mask_ap'),
    'cascade_box_ap': (6, 'cascade_mask_rcnn', 'box_ap'),
    'cascade_mask_ap': (6, 'cascade_mask_rcnn', 'mask_ap'),
    'sem_fpn_miou': (7, 'sem_fpn', 'miou'),
    'upernet_miou': (7, 'upernet', 'miou'),
}
_MARKERS = {'measured': 'o', 'printed': 'o', 'cited': '^'}
_MEANINGS = {
    'measured': 'measured',
    'printed': 'accuracy as printed',
    'cited': 'cited: no implementation here',
}
# The colours of verdicts in figures.
_PALETTE = {
    **{'green': GREEN, 'blue': BLUE, 'red': VERMILION, 'yellow': ORANGE, 'cyan': SKY},
    **{'magenta': INK, 'white': LIGHT, '': PAPER},
}
_BAR = {'edgecolor': INK, 'linewidth': 0.4}


_FLOPS_HEADINGS = {
    'total': "FLOPs (G), all total: attention's products included",
    'layer': 'FLOPs (G), all of layers only: without the products of attention',
}


class Drawing(NamedTuple):
    """A figure, its title, and one sentence that says what it shows."""

    title: str
    figure: Figure
    says: str


@dataclass(frozen=True)
class Point:
    """One model in a figure.

    Attributes:
        label, model: what it is called, and the printed row's name.
        variant: the variant whose cost it is, where that is not the one that the row prints.
        kind: where its accuracy is from, a key of `_MEANINGS`.
        ours: whether it is one of the paper's own models.
        fits: whether it stands for its row: of a row's variants, the one whose cost is nearest to
            the printed cost.
        x, y: its cost and its accuracy.
        printed: the printed accuracy where `y` is a measured one.
    """

    label: str
    model: str
    variant: str
    kind: str
    ours: bool
    fits: bool
    x: float
    y: float
    printed: float | None = None


@matplotlib.rc_context(STYLE)
def figures(
    cells: Sequence[Cell], records: Iterable[Evaluation] = (), convention: str = 'total'
) -> dict[str, Drawing]:
    """Return all figures that cells and records allow, by file name.

    Args:
        records: of these, those with results by class are drawn.
        convention: which FLOPs all models are drawn over, 'total' or 'layer'.
    """
    tables = {n: lines(cells, n) for n in sorted({cell.table for cell in cells})}
    drawn: dict[str, Drawing] = {}
    for name, (number, framework, metric) in _ACCURACIES.items():
        if number in tables:
            column = TABLES[number].column(framework, metric)
            key = name if convention == 'total' else f'{name}-{convention}'
            drawn[key] = Drawing(
                _title(number, column),
                accuracy(tables[number], column, convention),
                _of_accuracy(tables[number], column, convention),
            )
    labels = _labels(tables)
    drawn['deviations'] = Drawing(
        'Deviations from the paper, all cells',
        _deviations(cells, labels),
        _of_deviations(cells, labels),
    )
    for record in records:
        for metric, values in by_class(record).items():
            title = f'{record.system or record.model}: {metric} by class'
            drawn[f'classes-{record.stem}-{metric}'] = Drawing(
                title, _classes(values, metric), _of_classes(values)
            )
    return drawn


@matplotlib.rc_context(STYLE)
def save(figure: Figure, path: Path | BinaryIO, format: str) -> None:
    """Write `figure` as 'pdf', 'png' or 'svg'; the same figure gives the same bytes."""
    undated = {'pdf': {'CreationDate': None}, 'svg': {'Date': None}}
    figure.savefig(path, format=format, dpi=200, metadata=undated.get(format))


def points(
    of_table: Sequence[Line], column: Column, cost: str, convention: str = 'total'
) -> list[Point]:
    """Return the models of a table that have both the accuracy in `column` and the cost `cost`.

    A row's accuracy is drawn once: of its variants, at the cost of the one that fits the printed
    cost. The others have a point only where their own accuracy was measured.

    Args:
        convention: which FLOPs are the cost, 'total' or 'layer'; all models are counted alike.
    """
    found = []
    for of_row in _rows(of_table):
        fitting = min(of_row, key=lambda line: _misfit(line, column))
        for line in of_row:
            x = _cost(line, column, cost, convention)
            y = line.cells.get(column.name)
            # The printed accuracy is that of the row: which depths it is of is not known.
            printed = of_row[0].cells.get(column.name) if line is fitting else None
            value = float(printed.paper) if printed and printed.paper else None
            kind = 'cited' if y and y.verdict is Verdict.CITED else 'printed'
            if y is not None and y.measured is not None:
                kind = 'measured'
            shown = y.measured if kind == 'measured' else value
            if x is None or shown is None:
                continue
            found.append(
                Point(
                    # A printed accuracy is the row's, and not that of the variant.
                    label=(line if kind == 'measured' else of_row[0]).label,
                    model=line.model,
                    variant=line.variant,
                    kind=kind,
                    ours=line.own,
                    fits=line is fitting,
                    x=x,
                    y=shown,
                    printed=value if kind == 'measured' else None,
                )
            )
    return found


def _rows(of_table: Sequence[Line]) -> list[list[Line]]:
    """Return the lines of each printed row: one, or one for each of its variants."""
    rows: list[list[Line]] = []
    for line in of_table:
        if line.variant and rows and rows[-1][0].model == line.model:
            rows[-1].append(line)
        else:
            rows.append([line])
    return rows


def _misfit(line: Line, column: Column) -> float:
    """Return how far the cost of a line is from the printed one, in tolerances."""
    return sum(
        abs(cell.difference) / cell.tolerance
        for cell in line.cells.values()
        if cell.column.framework is column.framework
        and cell.column.metric.is_complexity
        and cell.difference is not None
        and cell.tolerance
    )


def _cost(line: Line, column: Column, cost: str, convention: str) -> float | None:
    of_table = TABLES[line.table]
    found = of_table.column(column.framework.name, cost)
    cell = found and line.cells.get(found.name)
    if cell is None:
        return None
    # A printed value alone does not tell which FLOPs it counts.
    return cell.flops(convention) if cost == 'flops_g' else cell.value


def by_class(record: Evaluation) -> dict[str, dict[str, float]]:
    """Return a record's results of single classes in percent, by metric and class."""
    found: dict[str, dict[str, float]] = {}
    for name, metrics in record.per_class.items():
        for metric, value in metrics.items():
            found.setdefault(metric, {})[name] = value
    return found


def _title(table: int, column: Column) -> str:
    name = column.group or TABLES[table].title.rpartition(',')[2].strip()
    return f'{name}: {column.metric.heading}'


@matplotlib.rc_context(STYLE)
def accuracy(of_table: Sequence[Line], column: Column, convention: str = 'total') -> Figure:
    """Draw the accuracy in `column` of a table's models over their FLOPs and their parameters.

    Args:
        convention: which FLOPs, 'total' or 'layer'; all models are counted alike.
    """
    figure = Figure(figsize=(10, 4.6 + 0.16 * max(0, len(of_table) - 20)))
    axes = figure.subplots(1, 2, sharey=True)
    # Labels are placed in the axes as they stay: no layout may move them afterwards.
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.135, top=0.91, wspace=0.04)
    drawn = []
    for axis, cost in zip(axes, ('flops_g', 'params_m'), strict=True):
        found = points(of_table, column, cost, convention)
        heading = METRICS[cost].heading
        axis.set_xlabel(_FLOPS_HEADINGS[convention] if cost == 'flops_g' else heading)
        values = [point.x for point in found]
        if values and max(values) > 10 * min(values):
            axis.set_xscale('log')
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.margins(0.12, 0.08)
        _scatter(axis, found)
        if steps := _steps(frontier(found)):
            axis.plot(*zip(*steps, strict=True), color=PALE, lw=0.8, ls='--', zorder=0)
        drawn.append(found)
    for axis, found in zip(axes, drawn, strict=True):
        axis.set(xlim=axis.get_xlim(), ylim=axis.get_ylim())  # labels do not move them any more
        _label(axis, found)
    axes[0].set_ylabel(column.metric.heading)
    used = {point.kind for found in drawn for point in found}
    if any(point.printed is not None for found in drawn for point in found):
        used.add('printed')
    kinds = [kind for kind in _MEANINGS if kind in used]
    handles = [
        Line2D([], [], ls='', marker=_MARKERS[k], **_filling(k, INK), label=_MEANINGS[k])
        for k in kinds
    ]
    ours = Line2D([], [], color=VERMILION, lw=1, label='MAFormer')
    efficient = Line2D([], [], color=PALE, lw=0.8, ls='--', label='efficient frontier')
    figure.legend(handles=[ours, *handles, efficient], loc='upper center', ncols=5)
    if remark := _remark(drawn):
        figure.text(0.99, 0.012, remark, ha='right', fontsize=7, color=PALE)
    return figure


def _remark(drawn: Sequence[Sequence[Point]]) -> str:
    """Return what has to be known about the points of a figure's two halves."""
    by_flops, by_params = drawn
    parts = []
    for point in by_params:
        if point.fits and point.variant:
            parts.append(
                f'{point.model}: at the cost of depths {point.variant}, which fits the printed cost'
            )
    if left := sorted({p.model for p in by_params} - {p.model for p in by_flops}):
        parts.append(f'not counted, so not on the left: {", ".join(left)}')
    return '; '.join(dict.fromkeys(parts))


def _filling(kind: str, colour: str) -> dict[str, Any]:
    filled = colour if kind == 'measured' else PAPER
    return {'mfc': filled, 'mec': colour, 'mew': 1.2, 'ms': 6}


def _scatter(axis: Axes, found: Sequence[Point]) -> None:
    for ours, kind in product((False, True), _MARKERS):
        colour = VERMILION if ours else BLUE
        chosen = [point for point in found if point.ours is ours and point.kind == kind]
        for point in chosen:
            if point.printed is not None:
                axis.plot([point.x] * 2, [point.printed, point.y], color=colour, lw=0.7, ls=':')
        both = [(point.x, point.printed) for point in chosen if point.printed is not None]
        _markers(axis, both, 'printed', colour)
        _markers(axis, [(point.x, point.y) for point in chosen], kind, colour)
    line = _line(found)
    axis.plot([x for x, _ in line], [y for _, y in line], color=VERMILION, lw=1, zorder=1)


def _markers(axis: Axes, spots: Sequence[tuple[float, float]], kind: str, colour: str) -> None:
    if spots:
        axis.plot(*zip(*spots, strict=True), ls='', marker=_MARKERS[kind], **_filling(kind, colour))


def frontier(found: Iterable[Point]) -> list[Point]:
    """Return the points that no other one beats: none is as accurate at the same cost or less."""
    edge: list[Point] = []
    for point in sorted(found, key=lambda p: (p.x, -p.y)):
        if not edge or point.y > edge[-1].y:
            edge.append(point)
    return edge


def _steps(edge: Sequence[Point]) -> list[tuple[float, float]]:
    """Return the vertices of the frontier: level up to the next model, and up to its accuracy."""
    corners = [(later.x, earlier.y) for earlier, later in pairwise(edge)]
    ends = [(point.x, point.y) for point in edge]
    return [spot for pair in zip(ends, [*corners, None], strict=True) for spot in pair if spot]


def _of_accuracy(of_table: Sequence[Line], column: Column, convention: str) -> str:
    """Return what the figure of an accuracy shows: which models are efficient."""
    parts = []
    for cost, name in (('flops_g', f'{convention} FLOPs'), ('params_m', 'parameters')):
        edge = frontier(points(of_table, column, cost, convention))
        if edge:
            parts.append(f'{_listed(point.label for point in edge)} for their {name}')
    drawn = points(of_table, column, 'params_m', convention)
    measured = sum(point.kind == 'measured' for point in drawn)
    source = (
        f'{measured} of {len(drawn)} are measured here' if measured else 'none is measured here'
    )
    if not parts:
        return 'No model has both a cost and an accuracy.'
    best = ' and '.join(parts)
    return f'By the accuracies shown, of which {source}, the best are {best}.'


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f'{", ".join(first)} and {last}' if first else last


def _of_deviations(cells: Iterable[Cell], labels: Mapping[tuple[int, str], str]) -> str:
    """Return what the figure of the deviations shows: how many cells match, and the farthest."""
    judged = [cell for cell in cells if cell.difference is not None and cell.tolerance]
    if not judged:
        return 'No cell with a printed value is measured.'
    inside = sum(abs(cell.difference) <= cell.tolerance for cell in judged)
    farthest = max(judged, key=lambda cell: abs(cell.difference) / cell.tolerance)
    return (
        f'Of {len(judged)} measured cells {inside} lie within the tolerance; farthest from it is '
        f'{labels[farthest.table, farthest.system]} in Table {farthest.table}, '
        f'{farthest.column.metric.heading}: {off_by(farthest)}.'
    )


def _of_classes(values: Mapping[str, float]) -> str:
    best, worst = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
    return (
        f'From {values[worst]:.1f} ({worst}) to {values[best]:.1f} ({best}), with a median of '
        f'{median(values.values()):.1f}.'
    )


def _line(found: Iterable[Point]) -> list[tuple[float, float]]:
    """Return one point for each size of MAFormer, with token labeling where there are both."""
    sizes = {point.model: (point.x, point.y) for point in found if point.ours and point.fits}
    return sorted(sizes.values())


def _label(axis: Axes, found: Sequence[Point]) -> None:
    texts = [
        axis.text(
            point.x,
            point.y,
            point.label,
            fontsize=7,
            fontweight='bold' if point.ours else 'normal',
            color=VERMILION if point.ours else INK,
        )
        for point in found
    ]
    markers = [(p.x, p.y) for p in found]
    markers += [(p.x, p.printed) for p in found if p.printed is not None]
    place(axis, texts, markers, [_line(found), _steps(frontier(found))], PALE)


def _labels(tables: Mapping[int, Sequence[Line]]) -> dict[tuple[int, str], str]:
    """Return what each system is called in each table."""
    return {
        (table, system): line.label
        for table, of_table in tables.items()
        for line in of_table
        for system in line.systems
    }


def _deviations(cells: Sequence[Cell], labels: Mapping[tuple[int, str], str]) -> Figure:
    """Return every cell: left how far from the printed value, right how many have which verdict."""
    kinds = list(dict.fromkeys((cell.table, cell.metric) for cell in cells))
    rows = {kind: index for index, kind in enumerate(kinds)}
    figure = Figure(figsize=(10, 1.3 + 0.21 * len(kinds)))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    inch = 1 / figure.get_figheight()
    figure.subplots_adjust(
        left=0.17, right=0.99, bottom=0.55 * inch, top=1 - 0.55 * inch, wspace=0.05
    )
    left.set_yticks(range(len(kinds)), [_row_name(*kind) for kind in kinds], fontsize=7)
    left.set_ylim(len(kinds) - 0.4, -0.6)
    for earlier, later in pairwise(kinds):
        if earlier[0] != later[0]:
            for axis in (left, right):
                axis.axhline(rows[later] - 0.5, color=PALE, lw=0.6)
    _distances(left, cells, rows, labels)
    used = _counts(right, cells, rows)
    figure.legend(
        [_handle(verdict) for verdict in used],
        map(str, used),
        loc='upper center',
        ncols=len(used),
        handler_map={tuple: HandlerTuple(ndivide=None)},
    )
    return figure


def _distances(
    axis: Axes,
    cells: Iterable[Cell],
    rows: Mapping[tuple[int, str], int],
    labels: Mapping[tuple[int, str], str],
) -> None:
    judged = [
        (cell, (cell.difference / cell.tolerance, rows[cell.table, cell.metric]))
        for cell in cells
        if cell.difference is not None and cell.tolerance
    ]
    axis.axvspan(-1, 1, color=GREEN, alpha=0.12, lw=0)
    axis.axvline(0, color=PALE, lw=0.6)
    for verdict in Verdict:
        if spots := [spot for cell, spot in judged if cell.verdict is verdict]:
            axis.plot(*zip(*spots, strict=True), **_dot(verdict))
    limit = 1.3 * max([2.0, *(abs(x) for _, (x, _) in judged)])
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick < limit]
    axis.set_xscale('symlog', linthresh=2)
    axis.set_xticks([*(-tick for tick in ticks[::-1]), 0, *ticks])
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(-limit, limit)
    axis.set_xlabel(
        'measured − printed, in tolerances; in the band a cell matches; FLOPs as each row counts'
    )
    texts = [
        axis.text(*spot, labels[cell.table, cell.system], fontsize=6)
        for cell, spot in judged
        if cell.verdict not in (Verdict.MATCH, Verdict.BETTER)
    ]
    place(axis, texts, [spot for _, spot in judged], [], PALE, apart=8)


def _counts(
    axis: Axes, cells: Iterable[Cell], rows: Mapping[tuple[int, str], int]
) -> list[Verdict]:
    """Draw how many cells of each row have which verdict; returns the verdicts that occur."""
    counts = Counter((cell.table, cell.metric, cell.verdict) for cell in cells)
    used = [verdict for verdict in Verdict if any(key[2] is verdict for key in counts)]
    start = [0] * len(rows)
    for verdict in used:
        colour, hatch = _PALETTE[verdict.about.colour], verdict.about.hatch
        widths = [counts[*kind, verdict] for kind in rows]
        axis.barh(range(len(rows)), widths, 0.7, start, color=colour, hatch=hatch, **_BAR)
        start = [a + b for a, b in zip(start, widths, strict=True)]
    axis.set_xlabel('cells')
    axis.tick_params(axis='y', length=0)
    axis.grid(axis='y', visible=False)
    return used


def _handle(verdict: Verdict) -> tuple[Any, ...]:
    about = verdict.about
    patch = Patch(facecolor=_PALETTE[about.colour], hatch=about.hatch, **_BAR)
    return (patch, Line2D([], [], **_dot(verdict))) if about.marker else (patch,)


def _dot(verdict: Verdict) -> dict[str, Any]:
    colour, marker = _PALETTE[verdict.about.colour], verdict.about.marker
    return {
        'marker': marker,
        'ms': 4.5,
        'mfc': colour,
        'mec': INK,
        'mew': 0.4,
        'ls': '',
        'alpha': 0.9,
    }


def _row_name(table: int, name: str) -> str:
    column = TABLES[table].columns[name]
    return ' '.join(
        filter(None, (f'Table {table} ', column.framework.short_heading, column.metric.heading))
    )


def _classes(values: Mapping[str, float], metric: str) -> Figure:
    """Return one bar a class, the best on top."""
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    figure = Figure(figsize=(10, 1.0 + 0.16 * len(ordered)))
    axis = figure.subplots()
    inch = 1 / figure.get_figheight()
    figure.subplots_adjust(left=0.2, right=0.97, bottom=0.5 * inch, top=1 - 0.15 * inch)
    places = range(len(ordered))
    axis.barh(places, [value for _, value in ordered], 0.7, color=BLUE)
    for spot, (_, value) in zip(places, ordered, strict=True):
        axis.text(value + 0.5, spot, f'{value:.1f}', va='center', fontsize=6)
    axis.set_yticks(places, [name for name, _ in ordered], fontsize=7)
    axis.set(xlim=(0, 105), ylim=(len(ordered) - 0.4, -0.6))
    axis.set_xlabel(f'{metric} (%)')
    axis.grid(axis='y', visible=False)
    return figure
