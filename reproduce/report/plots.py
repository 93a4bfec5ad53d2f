"""Figures of the cells: accuracy over cost, deviations from the paper, results by class.

Colours are close to Okabe and Ito's. Shapes and hatches say the same, for prints in grey.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

import matplotlib
import numpy as np

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
from reproduce.report.layout import Line, all_lines, line_of_cells, off_by
from reproduce.report.placement import place

# The colours of figures and of the page, which are in light and in dark; figures are in light. The
# colours of verdicts are among them, by the names that terminals have for them.
PALETTE = {
    'surface': ('#ffffff', '#16171a'),
    'raised': ('#f6f6f4', '#1f2125'),
    'ink': ('#1c1c1e', '#ececee'),
    'soft': ('#5c5c62', '#a9abb2'),
    'faint': ('#8a8a8e', '#84868e'),
    'line': ('#dcdcd8', '#34363c'),
    'blue': ('#0072b2', '#5ab2ea'),
    'red': ('#c25100', '#ff9150'),
    'green': ('#00805d', '#3cc79d'),
    'yellow': ('#e69f00', '#f0b429'),
    'cyan': ('#56b4e9', '#8ccbf2'),
    'magenta': ('#a3458b', '#e08ccb'),
    'white': ('#d8d8dc', '#44464d'),
}
COLOURS = {name: light for name, (light, _) in PALETTE.items()}
INK, FAINT, SURFACE = COLOURS['ink'], COLOURS['faint'], COLOURS['surface']
OWN, BASELINE = COLOURS['red'], COLOURS['blue']

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
    'grid.color': FAINT,
    'grid.alpha': 0.25,
    'grid.linewidth': 0.5,
    'axes.axisbelow': True,
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
_COSTS = ('flops_g', 'params_m')
_FLOPS = {
    'total': "FLOPs (G), all total: attention's products included",
    'layer': 'FLOPs (G), all of layers only: without the products of attention',
}
# Where an accuracy comes from: its marker and the meaning of that.
_KINDS = {
    'measured': ('o', 'measured'),
    'printed': ('o', 'accuracy as printed'),
    'cited': ('^', 'cited: no implementation here'),
}
_BAR = {'edgecolor': INK, 'linewidth': 0.4}


@dataclass(frozen=True)
class Drawing:
    """A figure, which can be drawn whole or panel by panel.

    Attributes:
        title: of the figure.
        says: what it shows, in one or two sentences.
        panels: the names of its panels.
        draw: returns a figure with those of its panels that are named, from left to right.
    """

    title: str
    says: str
    panels: tuple[str, ...]
    draw: Callable[[Sequence[str]], Figure]


@dataclass(frozen=True)
class Point:
    """One model in a figure.

    Attributes:
        line: the line of its table whose cost it is.
        label: its name.
        kind: where its accuracy is from, a key of `_KINDS`.
        fits: whether it is the variant of its row whose cost is nearest to the printed one.
        x, y: its cost and its accuracy.
        printed: the printed accuracy where `y` is a measured one.
    """

    line: Line
    label: str
    kind: str
    fits: bool
    x: float
    y: float
    printed: float | None = None


def figures(
    cells: Sequence[Cell], records: Iterable[Evaluation] = (), convention: str = 'total'
) -> dict[str, Drawing]:
    """Return all figures of cells and records, by file name.

    Args:
        records: of these, those with results by class are drawn.
        convention: which FLOPs are the cost of all models, 'total' or 'layer'.
    """
    tables = all_lines(cells)
    drawn: dict[str, Drawing] = {}
    for name, (number, framework, metric) in _ACCURACIES.items():
        if number in tables:
            column = TABLES[number].column(framework, metric)
            what = column.group or TABLES[number].title.rpartition(',')[2].strip()
            found = {c: points(tables[number], column, c, convention) for c in _COSTS}
            drawn[name if convention == 'total' else f'{name}-{convention}'] = Drawing(
                f'{what}: {column.metric.heading}',
                _of_accuracy(found, column, convention),
                _COSTS,
                partial(_accuracy, found, column, convention),
            )
    labels = {key: line.label for key, line in line_of_cells(tables).items()}
    drawn['deviations'] = Drawing(
        'Deviations from the paper, all cells',
        _of_deviations(cells, labels),
        tuple(_DEVIATIONS),
        partial(_deviations, cells, labels),
    )
    for record in records:
        for metric, values in by_class(record).items():
            best, worst = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
            drawn[f'classes-{record.stem}-{metric}'] = Drawing(
                f'{record.system or record.model}: {metric} by class',
                f'From {values[worst]:.1f} ({worst}) to {values[best]:.1f} ({best}), with a median '
                f'of {median(values.values()):.1f}.',
                ('classes',),
                partial(_classes, values, metric),
            )
    return drawn


@matplotlib.rc_context(STYLE)
def save(figure: Figure, path: Path | BinaryIO, format: str) -> None:
    """Write `figure` as 'pdf', 'png' or 'svg'; the same figure gives the same bytes."""
    undated = {'pdf': {'CreationDate': None}, 'svg': {'Date': None}}
    figure.savefig(path, format=format, dpi=200, metadata=undated.get(format))


def by_class(record: Evaluation) -> dict[str, dict[str, float]]:
    """Return a record's results of single classes in percent, by metric and class."""
    found: dict[str, dict[str, float]] = {}
    for name, metrics in record.per_class.items():
        for metric, value in metrics.items():
            found.setdefault(metric, {})[name] = value
    return found


def points(
    of_table: Sequence[Line], column: Column, cost: str, convention: str = 'total'
) -> list[Point]:
    """Return the models of a table that have both the accuracy in `column` and the cost `cost`.

    A printed accuracy is drawn once: of the variants of its row, at the cost of the one that is
    nearest to the printed cost. The others have a point only where their accuracy was measured.

    Args:
        convention: which FLOPs are the cost, 'total' or 'layer'; all models are counted alike.
    """
    found = []
    for _, members in groupby(of_table, key=lambda line: line.row):
        of_row = list(members)
        printed = of_row[0].cells.get(column.name)
        value = float(printed.paper) if printed and printed.paper else None
        fitting = min(of_row, key=lambda line: _misfit(line, column))
        for line in of_row:
            x, cell = _cost(line, column, cost, convention), line.cells.get(column.name)
            is_measured = cell is not None and cell.measured is not None
            if x is None or not (is_measured or (line is fitting and value is not None)):
                continue
            if is_measured:
                own = value if line is fitting else None
                found.append(
                    Point(line, line.label, 'measured', line is fitting, x, cell.measured, own)
                )
            else:
                kind = 'cited' if cell and cell.verdict is Verdict.CITED else 'printed'
                found.append(Point(line, of_row[0].label, kind, True, x, value))
    return found


def _misfit(line: Line, column: Column) -> float:
    """Return the distance of the cost of a line from the printed one, in tolerances."""
    return sum(
        abs(cell.difference) / cell.tolerance
        for cell in line.cells.values()
        if cell.column.framework is column.framework
        and cell.column.metric.is_complexity
        and cell.difference is not None
        and cell.tolerance
    )


def _cost(line: Line, column: Column, cost: str, convention: str) -> float | None:
    found = TABLES[line.row.table].column(column.framework.name, cost)
    cell = found and line.cells.get(found.name)
    if cell is None:
        return None
    # A printed value alone does not say which FLOPs it counts.
    return cell.flops(convention) if cost == 'flops_g' else cell.value


def frontier(found: Iterable[Point]) -> list[Point]:
    """Return the points that no other one beats: none is as accurate at the same cost or less."""
    edge: list[Point] = []
    for point in sorted(found, key=lambda p: (p.x, -p.y)):
        if not edge or point.y > edge[-1].y:
            edge.append(point)
    return edge


def _of_accuracy(found: Mapping[str, Sequence[Point]], column: Column, convention: str) -> str:
    """Return what the figure of an accuracy shows: the models on the frontier."""
    parts = [
        f'{name} {", ".join(point.label for point in edge)}'
        for cost, name in (('flops_g', f'by {convention} FLOPs'), ('params_m', 'by parameters'))
        if (edge := frontier(found[cost]))
    ]
    if not parts:
        return 'No model has both a cost and an accuracy.'
    drawn = found['params_m']
    measured = sum(point.kind == 'measured' for point in drawn)
    assumed = ''
    if convention == 'total' and column.framework.task != 'imagenet':
        assumed = ' MAFormer is counted with attention over the whole map in stages 3 and 4.'
    return (
        f'On the efficient frontier are, {"; ".join(parts)}. {measured or "None"} of the '
        f'{len(drawn)} accuracies {"are" if measured > 1 else "is"} measured here.{assumed}'
    )


@matplotlib.rc_context(STYLE)
def _accuracy(
    found: Mapping[str, Sequence[Point]], column: Column, convention: str, panels: Sequence[str]
) -> Figure:
    """Draw accuracies over costs, a panel for each cost."""
    rows = max(map(len, found.values()))
    height = 4.9 + 0.1 * max(0, rows - 20)
    figure, every = _empty((5 * len(panels), height), panels, left=0.6, bottom=0.7)
    every[0].set_ylabel(column.metric.heading)
    for axes, cost in zip(every, panels, strict=True):
        axes.set_xlabel(_FLOPS[convention] if cost == 'flops_g' else METRICS[cost].heading)
        values = [point.x for point in found[cost]]
        if values and max(values) > 10 * min(values):
            axes.set_xscale('log')
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.17, 0.08)
        _scatter(axes, found[cost])
    shown = [point for cost in panels for point in found[cost]]
    used = {p.kind for p in shown} | {'printed' for p in shown if p.printed is not None}
    handles = [
        Line2D([], [], color=OWN, lw=1, label='MAFormer'),
        *(
            Line2D([], [], label=text, **_marker(k, INK))
            for k, (_, text) in _KINDS.items()
            if k in used
        ),
        Line2D([], [], color=FAINT, lw=0.8, ls='--', label='efficient frontier'),
    ]
    figure.legend(handles=handles, loc='upper center', ncols=3 if len(panels) == 1 else 5)
    if remark := _remark(found, panels):
        figure.text(0.99, 0.012, remark, ha='right', fontsize=7, color=COLOURS['soft'])
    for axes, cost in zip(every, panels, strict=True):
        texts = [
            axes.text(
                *(point.x, point.y, point.label),
                fontsize=7,
                fontweight='bold' if point.line.row.own else 'normal',
                color=OWN if point.line.row.own else INK,
            )
            for point in found[cost]
        ]
        spots = [(p.x, p.y) for p in found[cost]]
        spots += [(p.x, p.printed) for p in found[cost] if p.printed is not None]
        axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
        lines = [line.get_xydata() for line in axes.lines if line.get_marker() == 'None']
        place(axes, texts, spots, lines, FAINT)
    return figure


def _remark(found: Mapping[str, Sequence[Point]], panels: Sequence[str]) -> str:
    """Return which variants are drawn, and which models have no FLOPs."""
    parts = [
        f'{p.line.row.model}: at the cost of depths {p.line.variant}, which fits the printed cost'
        for p in found['params_m']
        if p.fits and p.line.variant
    ]
    counted = {point.line.row.model for point in found['flops_g']}
    left = {p.line.row.model for p in found['params_m']} - counted
    if left and 'flops_g' in panels:
        parts.append(f'FLOPs not counted: {", ".join(sorted(left))}')
    return '; '.join(dict.fromkeys(parts))


def _marker(kind: str, colour: str) -> dict[str, Any]:
    fill = colour if kind == 'measured' else SURFACE
    return {'ls': '', 'marker': _KINDS[kind][0], 'mfc': fill, 'mec': colour, 'mew': 1.2, 'ms': 6}


def _scatter(axes: Axes, found: Sequence[Point]) -> None:
    for point in found:
        colour = OWN if point.line.row.own else BASELINE
        if point.printed is not None:
            axes.plot([point.x] * 2, [point.printed, point.y], color=colour, lw=0.7, ls=':')
            axes.plot(point.x, point.printed, **_marker('printed', colour))
        axes.plot(point.x, point.y, **_marker(point.kind, colour))
    # A line through the sizes of the own model, with token labeling where there are both.
    sizes = {p.line.row.model: (p.x, p.y) for p in found if p.line.row.own and p.fits}
    axes.plot(*zip(*sorted(sizes.values()), strict=True), color=OWN, lw=1, zorder=1)
    # The frontier is level up to the next model.
    x, y = np.transpose([(point.x, point.y) for point in frontier(found)])
    steps = np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]
    axes.plot(*steps, color=FAINT, lw=0.8, ls='--', zorder=0)


def _empty(
    size: tuple[float, float], panels: Sequence[str], left: float, bottom: float, **grid: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure and the axes of its panels; sizes and margins are in inches."""
    figure = Figure(size)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, **grid)[0]
    width, height = size
    figure.subplots_adjust(
        **{'left': left / width, 'right': 1 - 0.1 / width, 'wspace': 0.04},
        **{'bottom': bottom / height, 'top': 1 - 0.45 / height},
    )
    return figure, list(axes)


def _of_deviations(cells: Iterable[Cell], labels: Mapping[tuple, str]) -> str:
    """Return what the figure of the deviations shows: how many cells match, and the farthest."""
    judged = [cell for cell in cells if cell.difference is not None and cell.tolerance]
    if not judged:
        return 'No cell with a printed value is measured.'
    inside = sum(abs(cell.difference) <= cell.tolerance for cell in judged)
    farthest = max(judged, key=lambda cell: abs(cell.difference) / cell.tolerance)
    return (
        f'Of {len(judged)} measured cells {inside} are within the tolerance; farthest from it is '
        f'{labels[farthest.key]} in Table {farthest.table}, {farthest.column.metric.heading}: '
        f'{off_by(farthest)}.'
    )


@matplotlib.rc_context(STYLE)
def _deviations(
    cells: Sequence[Cell], labels: Mapping[tuple, str], panels: Sequence[str]
) -> Figure:
    """Draw every cell: how far it is from the printed value, and how many have which verdict."""
    kinds = list(dict.fromkeys((cell.table, cell.metric) for cell in cells))
    rows = {kind: index for index, kind in enumerate(kinds)}
    size = (6 if len(panels) == 1 else 10, 1.3 + 0.21 * len(kinds))
    ratios = [{'distances': 3, 'counts': 1}[name] for name in panels]
    figure, every = _empty(size, panels, left=1.6, bottom=0.55, width_ratios=ratios)
    every[0].set_yticks(range(len(kinds)), [_row_name(*kind) for kind in kinds], fontsize=7)
    every[0].set_ylim(len(kinds) - 0.4, -0.6)
    for axes in every:
        for earlier, later in pairwise(kinds):
            if earlier[0] != later[0]:
                axes.axhline(rows[later] - 0.5, color=FAINT, lw=0.6)
    used = list(dict.fromkeys(v for v in Verdict if any(cell.verdict is v for cell in cells)))
    figure.legend(
        [_handle(verdict) for verdict in used],
        map(str, used),
        loc='upper center',
        ncols=len(used),
        handler_map={tuple: HandlerTuple(ndivide=None)},
    )
    for axes, name in zip(every, panels, strict=True):
        _DEVIATIONS[name](axes, cells, rows, labels)
    return figure


def _distances(
    axes: Axes, cells: Iterable[Cell], rows: Mapping[tuple, int], labels: Mapping[tuple, str]
) -> None:
    """Draw how far each measured cell is from the printed value, in tolerances."""
    judged = [
        (cell, (cell.difference / cell.tolerance, rows[cell.table, cell.metric]))
        for cell in cells
        if cell.difference is not None and cell.tolerance
    ]
    axes.axvspan(-1, 1, color=COLOURS['green'], alpha=0.12, lw=0)
    axes.axvline(0, color=FAINT, lw=0.6)
    for verdict in Verdict:
        if spots := [spot for cell, spot in judged if cell.verdict is verdict]:
            axes.plot(*zip(*spots, strict=True), **_dot(verdict))
    limit = 1.3 * max([2.0, *(abs(x) for _, (x, _) in judged)])
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick < limit]
    axes.set_xscale('symlog', linthresh=2)
    axes.set_xticks([*(-tick for tick in ticks[::-1]), 0, *ticks])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(-limit, limit)
    axes.set_xlabel('measured − printed, in tolerances; in the band a cell matches')
    texts = [
        axes.text(*spot, labels[cell.key], fontsize=6)
        for cell, spot in judged
        if cell.verdict not in (Verdict.MATCH, Verdict.BETTER)
    ]
    place(axes, texts, [spot for _, spot in judged], colour=FAINT)


def _counts(
    axes: Axes, cells: Iterable[Cell], rows: Mapping[tuple, int], labels: Mapping[tuple, str]
) -> None:
    """Draw how many cells of each row have which verdict."""
    counts = Counter((cell.table, cell.metric, cell.verdict) for cell in cells)
    start = np.zeros(len(rows))
    for verdict in Verdict:
        widths = np.array([counts[*kind, verdict] for kind in rows])
        if widths.any():
            axes.barh(range(len(rows)), widths, 0.7, start, **_bar(verdict))
            start += widths
    axes.set_xlim(0, 1.05 * max(start))
    axes.set_xlabel('cells')
    axes.tick_params(axis='y', length=0)
    axes.grid(axis='y', visible=False)


_DEVIATIONS = {'distances': _distances, 'counts': _counts}


def _bar(verdict: Verdict) -> dict[str, Any]:
    colour = COLOURS.get(verdict.about.colour, SURFACE)
    return {'facecolor': colour, 'hatch': verdict.about.hatch, **_BAR}


def _dot(verdict: Verdict) -> dict[str, Any]:
    colour = COLOURS.get(verdict.about.colour, SURFACE)
    style = {'ms': 4.5, 'mfc': colour, 'mec': INK, 'mew': 0.4, 'ls': '', 'alpha': 0.9}
    return {'marker': verdict.about.marker, **style}


def _handle(verdict: Verdict) -> tuple[Any, ...]:
    patch = Patch(**_bar(verdict))
    return (patch, Line2D([], [], **_dot(verdict))) if verdict.about.marker else (patch,)


def _row_name(table: int, name: str) -> str:
    column = TABLES[table].columns[name]
    parts = (f'Table {table} ', column.framework.short_heading, column.metric.heading)
    return ' '.join(filter(None, parts))


@matplotlib.rc_context(STYLE)
def _classes(values: Mapping[str, float], metric: str, panels: Sequence[str]) -> Figure:
    """Draw one bar a class, the best on top."""
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    size = (5 if len(ordered) < 20 else 10, 1.1 + 0.16 * len(ordered))
    figure, (axes,) = _empty(size, panels, left=1.6, bottom=0.5)
    places = range(len(ordered))
    axes.barh(places, [value for _, value in ordered], 0.7, color=BASELINE)
    for spot, (_, value) in zip(places, ordered, strict=True):
        axes.text(value + 0.5, spot, f'{value:.1f}', va='center', fontsize=6)
    axes.set_yticks(places, [name for name, _ in ordered], fontsize=7)
    axes.set(xlim=(0, 105), ylim=(len(ordered) - 0.4, -0.6))
    axes.set_xlabel(f'{metric} (%)')
    axes.grid(axis='y', visible=False)
    return figure
