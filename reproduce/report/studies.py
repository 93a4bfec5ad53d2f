"""Figures and tables of the ablation studies: a forest plot of the claims, and learning curves."""

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reproduce.ablation import rendering
from reproduce.ablation.judging import DesignVerdict
from reproduce.ablation.outcomes import Outcomes, load_outcomes
from reproduce.report.plots import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PAPER,
    SKY,
    STYLE,
    VERMILION,
    Drawing,
)

_VERDICTS = {
    DesignVerdict.SUPPORTED: (GREEN, 'o'),
    DesignVerdict.CONTRADICTED: (VERMILION, 'X'),
    DesignVerdict.UNRESOLVED: (BLUE, 's'),
}
_LINES = [(colour, style) for style in ('-', '--', ':') for colour in (BLUE, GREEN, ORANGE, SKY)]


def load_studies(results: Path) -> list[Outcomes]:
    """Return the studies under `results`, by name; none if there is none.

    Raises:
        UserError: if a file of one is missing or malformed.
    """
    return [load_outcomes(p.parent) for p in sorted(results.glob('ablations/*/study.toml'))]


def section(outcomes: Outcomes) -> dict[str, Any]:
    """Return what the page tells of a study."""
    study = outcomes.study
    return {
        'name': study.name,
        'about': rendering.about(outcomes),
        'limits': study.limits.strip(),
        'headings': rendering.HEADINGS,
        'rows': rendering.rows(outcomes),
        'sentences': [rendering.sentence(judged) for judged in outcomes.judgements],
        'method': rendering.METHOD,
    }


def study_figures(outcomes: Outcomes) -> dict[str, Drawing]:
    """Return the figures of a study, by file name."""
    name, judged = outcomes.study.name, outcomes.judgements
    resolved = sum(one.verdict is not DesignVerdict.UNRESOLVED for one in judged)
    return {
        f'ablation-{name}-claims': Drawing(
            f'Study {name}: the measured differences, and those of the paper',
            _forest(outcomes),
            f'{resolved} of {len(judged)} differences are significant at this size.',
        ),
        f'ablation-{name}-curves': Drawing(
            f'Study {name}: learning curves, means over the seeds',
            _curves(outcomes),
            _of_curves(outcomes),
        ),
    }


def _of_curves(outcomes: Outcomes) -> str:
    last = max((line.epoch for line in outcomes.curves), default=0)
    ends: dict[str, list[float]] = {}
    for line in outcomes.curves:
        if line.epoch == last:
            ends.setdefault(line.variant, []).append(line.top1)
    means = {variant: float(np.mean(values)) for variant, values in ends.items()}
    if not means:
        return 'No run has a curve.'
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return (
        f'After {last} epochs Top-1 is between {means[worst]:.1f} % ({worst}) and '
        f'{means[best]:.1f} % ({best}).'
    )


@matplotlib.rc_context(STYLE)
def _forest(outcomes: Outcomes) -> Figure:
    """Draw each claim's mean difference with its 95 % interval, and the paper's difference."""
    judged = outcomes.judgements
    figure = Figure(figsize=(10, 1.2 + 0.34 * len(judged)))
    axes = figure.subplots()
    inch = 1 / figure.get_figheight()
    figure.subplots_adjust(left=0.33, right=0.98, bottom=0.5 * inch, top=1 - 0.4 * inch)
    axes.axvline(0, color=PALE, lw=0.8)
    for place, one in enumerate(judged):
        colour, marker = _VERDICTS[one.verdict]
        if one.low is not None:
            axes.plot([one.low, one.high], [place] * 2, color=colour, lw=1.6)
        if one.mean is not None:
            axes.plot(one.mean, place, marker=marker, ms=6, mfc=colour, mec=INK, mew=0.4, ls='')
        if one.paper:
            axes.plot(float(one.paper), place, marker='D', ms=5, mfc=PAPER, mec=INK, ls='')
    axes.set_yticks(range(len(judged)), [one.says for one in judged], fontsize=8)
    axes.set_ylim(len(judged) - 0.5, -0.5)
    axes.set_xlabel('difference in Top-1 (%), better minus worse, with its 95 % interval')
    used = dict.fromkeys(one.verdict for one in judged)
    handles = [
        Line2D([], [], color=_VERDICTS[v][0], marker=_VERDICTS[v][1], mec=INK, mew=0.4, label=v)
        for v in used
    ]
    handles.append(Line2D([], [], marker='D', mfc=PAPER, mec=INK, ls='', label='paper, ImageNet'))
    figure.legend(handles=handles, loc='upper center', ncols=len(handles))
    return figure


@matplotlib.rc_context(STYLE)
def _curves(outcomes: Outcomes) -> Figure:
    """Draw loss and Top-1 over the epochs, the mean over the seeds of each variant."""
    figure = Figure(figsize=(10, 3.8))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.8, bottom=0.13, top=0.96, wspace=0.22)
    for variant, (colour, style) in zip(outcomes.study.variant, cycle(_LINES), strict=False):
        lines = [line for line in outcomes.curves if line.variant == variant.name]
        epochs = sorted({line.epoch for line in lines})
        for axis, value in ((left, 'loss'), (right, 'top1')):
            means = [np.mean([getattr(x, value) for x in lines if x.epoch == e]) for e in epochs]
            own = VERMILION if variant is outcomes.study.variant[0] else colour
            axis.plot(epochs, means, color=own, ls=style, lw=1.2, label=variant.name)
    left.set(xlabel='epoch', ylabel='training loss')
    right.set(xlabel='epoch', ylabel='Top-1 (%) of the averaged weights')
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*right.get_legend_handles_labels(), loc='center right', fontsize=7)
    return figure
