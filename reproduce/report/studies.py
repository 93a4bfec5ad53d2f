"""Figures of the ablation studies: the differences that they measured, and learning curves."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.figure import Figure

from reproduce.ablation.outcomes import DesignVerdict, Outcomes, load_outcomes
from reproduce.report.plots import COLOURS, FAINT, INK, STYLE, SURFACE, Drawing

_VERDICTS = {
    DesignVerdict.SUPPORTED: (COLOURS['green'], 'o'),
    DesignVerdict.CONTRADICTED: (COLOURS['red'], 'X'),
    DesignVerdict.UNRESOLVED: (COLOURS['blue'], 's'),
}
_CURVES = {'loss': 'training loss', 'top1': 'Top-1 (%) of the averaged weights'}


def load_studies(results: Path) -> list[Outcomes]:
    """Return the studies under `results`, by name; none if there is none.

    Raises:
        UserError: if a file of one is missing or malformed.
    """
    return [load_outcomes(p.parent) for p in sorted(results.glob('ablations/*/study.toml'))]


def study_figures(outcomes: Outcomes) -> dict[str, Drawing]:
    """Return the figures of a study, by file name."""
    name, judged = outcomes.study.name, outcomes.judgements
    resolved = sum(one.verdict is not DesignVerdict.UNRESOLVED for one in judged)
    means = _means(outcomes)
    return {
        f'ablation-{name}-claims': Drawing(
            f'Study {name}: the measured differences, and those of the paper',
            f'{resolved} of {len(judged)} differences are significant at this size.',
            partial(_forest, outcomes),
        ),
        f'ablation-{name}-curves': Drawing(
            f'Study {name}: learning curves, means over the seeds',
            'Top-1 is of the averaged weights.' if means else 'No run has a curve.',
            partial(_curves, means),
        ),
    }


def _means(outcomes: Outcomes) -> dict[str, dict[str, list[float]]]:
    """Return the mean curves over the seeds of each variant: epochs, loss and Top-1."""
    found = {}
    for variant in outcomes.study.variant:
        lines = [line for line in outcomes.curves if line.variant == variant.name]
        if epochs := sorted({line.epoch for line in lines}):
            found[variant.name] = {'epoch': epochs} | {
                value: [fmean(getattr(x, value) for x in lines if x.epoch == e) for e in epochs]
                for value in _CURVES
            }
    return found


@matplotlib.rc_context(STYLE)
def _forest(outcomes: Outcomes) -> Figure:
    """Draw each claim's mean difference with its 95 % interval, and the paper's difference."""
    judged = outcomes.judgements
    figure = Figure((8, 1.2 + 0.34 * len(judged)), layout='constrained')
    axes = figure.subplots()
    axes.axvline(0, color=FAINT, lw=0.8)
    for place, one in enumerate(judged):
        if one.low is not None:
            colour, marker = _VERDICTS[one.verdict]
            around = [[one.mean - one.low], [one.high - one.mean]]
            axes.errorbar(one.mean, place, xerr=around, color=colour, fmt=marker, label=one.verdict)
        if one.paper:
            label = 'paper, ImageNet'
            axes.plot(float(one.paper), place, 'D', color=INK, mfc=SURFACE, ms=5, label=label)
    axes.set_yticks(range(len(judged)), [one.says for one in judged], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel('difference in Top-1 (%), better minus worse, with its 95 % interval')
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique, loc='outside upper center', ncols=len(unique) or 1)
    return figure


@matplotlib.rc_context(STYLE)
def _curves(means: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw loss and Top-1 over the epochs, the mean over the seeds of each variant."""
    figure = Figure((10, 3.8 + 0.08 * len(means)), layout='constrained')
    for axes, value in zip(figure.subplots(1, len(_CURVES)), _CURVES, strict=True):
        for index, (name, curves) in enumerate(means.items()):
            look = {'color': f'C{index % 10}', 'ls': ('-', '--', ':')[index // 10 % 3], 'lw': 1.2}
            axes.plot(curves['epoch'], curves[value], **look, label=name)
        axes.set(xlabel='epoch', ylabel=_CURVES[value])
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc='outside lower center', ncols=4)
    return figure
