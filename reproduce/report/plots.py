"""Figures: accuracy over cost, and differences in the ablations.

Markers say the same as colours, for prints in grey.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import cycle, groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import matplotlib
import numpy as np

matplotlib.use('agg')

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from reproduce.ablation.outcomes import DesignVerdict, Judgement, Outcomes
from reproduce.audit.readings import flops_in_windows
from reproduce.audit.rows import family
from reproduce.base.files import read_toml
from reproduce.judge.cells import Cell
from reproduce.paper import METRICS, PAPER, TABLES, Column, comparisons
from reproduce.report.layout import DAGGER, Line, all_lines

PALETTE = read_toml(Path(__file__).with_name('palette.toml'), dict[str, tuple[str, str]])
COLOURS = {name: light for name, (light, _) in PALETTE.items()}
INK, FAINT, SURFACE, OWN = (COLOURS[name] for name in ('ink', 'faint', 'surface', 'red'))
STYLE = Path(__file__).with_name('figures.mplstyle')

# What is drawn over FLOPs and parameters.
_ACCURACIES = ('top1', 'box_ap', 'mask_ap', 'miou')
_COSTS = ('flops_g', 'params_m')
_TICKS = (1, 1.5, 2, 3, 4, 5, 7)
_ACCURACY = 'No model is as accurate as those of the efficient frontier at the same cost or less.'
_LOOKS = [  # the marker and colour of a family of models
    *(('o', COLOURS['blue']), ('s', COLOURS['green']), ('D', COLOURS['yellow'])),
    *(('^', COLOURS['cyan']), ('v', COLOURS['magenta']), ('P', INK), ('X', FAINT)),
]
_DESIGN_LOOKS = {
    DesignVerdict.SUPPORTED: (COLOURS['green'], 'o'),
    DesignVerdict.CONTRADICTED: (COLOURS['red'], 'X'),
    DesignVerdict.UNRESOLVED: (COLOURS['blue'], 's'),
}


class Drawing(NamedTuple):
    """A figure: its title, what it shows in a sentence or two, and the names of its models."""

    title: str
    says: str
    draw: Callable[[], Figure]
    names: Sequence[str] = ()


class Point(NamedTuple):
    """One model in a figure.

    Attributes:
        line: the line of its table whose cost it is.
        fits: whether it is the variant of its row whose cost is nearest to the printed one.
        x, y: its cost and its accuracy.
        low: its total FLOPs with attention in windows, where the paper's `in_windows` says that the
            tables do not exclude these; elsewhere the same as `x`.
        measured: whether the accuracy is measured, not printed.
    """

    line: Line
    fits: bool
    x: float
    y: float
    low: float
    measured: bool

    @property
    def family(self) -> str:
        return family(self.line.row) + DAGGER * self.line.is_labeled


def figures(cells: Sequence[Cell]) -> dict[str, Drawing]:
    """Return all figures of cells, by file name."""
    tables = all_lines(cells)
    drawn: dict[str, Drawing] = {}
    for number in (number for number in tables if number in comparisons().values()):
        for column in TABLES[number].columns.values():
            if column.metric.name not in _ACCURACIES:
                continue
            what = column.group or TABLES[number].title.rpartition(',')[2].strip()
            found = {cost: points(tables[number], column, cost) for cost in _COSTS}
            drawn[f'{column.framework.name}_{column.metric.name}'] = Drawing(
                f'{what}: {column.metric.heading}',
                f'{_ACCURACY} {PAPER.in_windows if in_windows(found["flops_g"]) else ""}'.strip(),
                partial(_accuracy, found, column),
                [point.line.label for point in found['params_m']],
            )
    return drawn


def save(figure: Figure, path: Path | BinaryIO, format: str) -> None:
    """Write `figure` as 'pdf', 'png' or 'svg'; the same figure gives the same bytes."""
    undated = {'pdf': {'CreationDate': None}, 'svg': {'Date': None}}
    with matplotlib.rc_context(fname=STYLE):
        figure.savefig(path, format=format, dpi=200, metadata=undated.get(format))


def points(of_table: Sequence[Line], column: Column, cost: str) -> list[Point]:
    """Return the models of a table that have both the accuracy in `column` and the cost `cost`.

    A printed accuracy is drawn once: of the variants of its row, at the cost of the one that is
    nearest to the printed FLOPs. The others have a point only where their accuracy was measured.
    FLOPs are total ones for all models.
    """
    table = TABLES[of_table[0].row.table]
    name, flops = (table.column(column.framework.name, metric).name for metric in (cost, 'flops_g'))

    def misfit(line: Line) -> float:
        cell = line.cells.get(flops)
        return np.inf if cell is None or cell.difference is None else abs(cell.difference)

    found = []
    for _, members in groupby(of_table, key=lambda line: line.row):
        of_row = list(members)
        fitting = min(of_row, key=misfit)
        for line in of_row:
            cell, of_cost = line.cells.get(column.name), line.cells.get(name)
            if cell is None or of_cost is None:
                continue
            y = cell.measured
            if y is None and line is fitting and cell.paper:
                y = float(cell.paper)
            # A printed value alone does not say which FLOPs it counts.
            x = of_cost.total_flops_g if cost == 'flops_g' else of_cost.value
            if x is not None and y is not None:
                is_open = PAPER.in_windows and line.row.own and cost == 'flops_g'
                low = flops_in_windows(of_cost) if is_open else x
                found.append(Point(line, line is fitting, x, y, low, cell.measured is not None))
    return found


def frontier(found: Iterable[Point]) -> list[Point]:
    """Return the points that no other one beats: none is as accurate at the same cost or less."""
    edge: list[Point] = []
    for point in sorted(found, key=lambda p: (p.x, -p.y)):
        if not edge or point.y > edge[-1].y:
            edge.append(point)
    return edge


def in_windows(found: Sequence[Point]) -> list[Point]:
    """Return the points with their lower costs; an empty list where all are the same."""
    lower = [point._replace(x=point.low) for point in found]
    return lower if lower != found else []


@matplotlib.rc_context(fname=STYLE)
def _accuracy(found: Mapping[str, Sequence[Point]], column: Column) -> Figure:
    """Draw accuracies over costs, a panel for each cost, with a line for each family of models."""
    figure = Figure((10, 5.4), layout='constrained')
    every = figure.subplots(1, len(found), sharey=True)
    every[0].set_ylabel(column.metric.heading)
    others = cycle(
        [{'color': c, 'marker': m, 'ms': 5, 'ls': ls} for ls in ('-', ':') for m, c in _LOOKS]
    )
    own = {point.family: point.line.row.own for point in found['params_m']}
    looks = {
        name: {'color': OWN, 'marker': '*', 'ms': 9} if own[name] else next(others) for name in own
    }
    for axes, cost in zip(every, found, strict=True):
        axes.set_xlabel('FLOPs (G), all total' if cost == 'flops_g' else METRICS[cost].heading)
        axes.set_xscale('log')
        costs = [point.x for point in found[cost]]
        is_wide = max(costs, default=1) > 30 * min(costs, default=1)  # more labels would overlap
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_wide else _TICKS))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        for name, look in looks.items():
            _family(axes, [point for point in found[cost] if point.family == name], look)
        for edge, style, label in (
            (frontier(found[cost]), '--', 'efficient frontier'),
            (frontier(in_windows(found[cost])), ':', f'the same, {PAPER.title} in windows'),
        ):
            if edge:
                steps = [p.x for p in edge], [p.y for p in edge]
                axes.step(*steps, where='post', color=FAINT, lw=0.9, ls=style, label=label)
    handles = _handles(every)
    handles['filled: measured'] = Line2D([], [], color=INK, marker='o', ls='')
    handles['hollow: as printed'] = Line2D([], [], color=INK, marker='o', mfc=SURFACE, ls='')
    figure.legend(handles.values(), handles, loc='outside lower center', ncols=6)
    return figure


def _family(axes: Axes, found: Sequence[Point], look: Mapping[str, Any]) -> None:
    """Draw a line through the sizes of a family of models; those of the paper are named."""
    found = sorted(found, key=lambda point: point.x)
    line = np.reshape([(p.x, p.y) for p in found if p.fits], (-1, 2))
    axes.plot(*line.T, **look, mfc=SURFACE, lw=0.8, label=found[0].family if found else '')
    for point in found:
        axes.plot(point.x, point.y, **look, mfc=None if point.measured else SURFACE, zorder=3)
        if point.low < point.x:
            axes.plot([point.low, point.x], [point.y] * 2, color=OWN, lw=3, alpha=0.4)
        if point.line.row.own:
            below: dict[str, Any] = {'textcoords': 'offset points', 'color': OWN, 'fontsize': 7}
            size = point.line.label.partition('-')[2]
            axes.annotate(size, (point.x, point.y), (5, -9), **below)


def studies_figure(studies: Sequence[Outcomes]) -> Drawing:
    """Return the figure of the ablation studies: what each measured of the design's claims."""
    judged = [one for outcomes in studies for one in outcomes.judgements]
    resolved = sum(one.verdict is not DesignVerdict.UNRESOLVED for one in judged)
    return Drawing(
        'The measured differences of all studies, and those of the paper',
        f'{resolved} of {len(judged)} differences are significant. Behind each is, from top to '
        'bottom, the difference after every epoch, on fewer images, with its standard deviation '
        'over seeds.',
        partial(_forests, studies),
    )


@matplotlib.rc_context(fname=STYLE)
def _forests(studies: Sequence[Outcomes]) -> Figure:
    """Draw a column for each study, the shortest training first, and a row for each claim."""
    studies = sorted(studies, key=lambda o: [(r.epochs * r.train_images) for r in o.runs[:1]])
    rows = list(dict.fromkeys(one.says for o in studies for one in o.judgements))
    figure = Figure((4 + 2.5 * len(studies), 1.6 + 0.34 * len(rows)), layout='constrained')
    columns = figure.subplots(1, len(studies), sharex=True, sharey=True, squeeze=False)[0]
    for axes, outcomes in zip(columns, studies, strict=True):
        axes.axvline(0, color=FAINT, lw=0.8)
        for one in outcomes.judgements:
            _claim(axes, rows.index(one.says), one, _by_epoch(outcomes, one))
        size = [f'{run.train_images:,} images x {run.epochs} epochs' for run in outcomes.runs[:1]]
        axes.set_title('\n'.join([outcomes.study.name, *size]), fontsize=8)
    columns[0].set_yticks(range(len(rows)), rows, fontsize=8)
    columns[0].invert_yaxis()
    figure.supxlabel('difference in Top-1 (%), better minus worse, with its 95 % interval', size=8)
    handles = _handles(columns)
    figure.legend(handles.values(), handles, loc='outside upper center', ncols=len(handles) or 1)
    return figure


def _claim(axes: Axes, place: int, judged: Judgement, by_epoch: np.ndarray) -> None:
    """Draw a claim's difference and the paper's, over the (seeds, epochs) ones of the training."""
    if by_epoch.size:
        mean, spread = by_epoch.mean(0), by_epoch.std(0)
        time = place + np.linspace(-0.4, 0.4, len(mean))
        axes.fill_betweenx(time, mean - spread, mean + spread, color=FAINT, alpha=0.2, lw=0)
        axes.plot(mean, time, color=FAINT, lw=0.8)
    if judged.low is not None:
        colour, marker = _DESIGN_LOOKS[judged.verdict]
        ends = [[judged.mean - judged.low], [judged.high - judged.mean]]
        axes.errorbar(judged.mean, place, xerr=ends, color=colour, fmt=marker, label=judged.verdict)
    if judged.paper:
        printed, label = float(judged.paper), 'paper, ImageNet'
        axes.plot(printed, place, 'D', color=INK, mfc=SURFACE, ms=5, label=label)


def _by_epoch(outcomes: Outcomes, judged: Judgement) -> np.ndarray:
    """Return the differences of the averaged weights after each epoch, (seeds, epochs)."""
    top1 = {(line.variant, line.seed, line.epoch): line.top1 for line in outcomes.curves}
    epochs = sorted({epoch for _, _, epoch in top1})
    seeds = sorted({s for v, s, _ in top1 if v == judged.better and (judged.worse, s, 1) in top1})
    differences = [
        [top1[judged.better, seed, epoch] - top1[judged.worse, seed, epoch] for epoch in epochs]
        for seed in seeds
    ]
    return np.array(differences)


def _handles(every: Iterable[Axes]) -> dict[str, Any]:
    """Return what a legend shows, once for each label."""
    found: dict[str, Any] = {}
    for axes in every:
        found |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    return found
