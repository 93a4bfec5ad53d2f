"""The ablation studies, and the figure of the differences that one measured."""

from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from reproduce.ablation.outcomes import DesignVerdict, Outcomes, load_outcomes
from reproduce.report.plots import COLOURS, FAINT, INK, STYLE, SURFACE, Drawing

_VERDICTS = {
    DesignVerdict.SUPPORTED: (COLOURS['green'], 'o'),
    DesignVerdict.CONTRADICTED: (COLOURS['red'], 'X'),
    DesignVerdict.UNRESOLVED: (COLOURS['blue'], 's'),
}


def load_studies(results: Path) -> list[Outcomes]:
    """Return the studies under `results`, by name; none if there is none.

    Raises:
        UserError: if a file of one is missing or malformed.
    """
    return [load_outcomes(p.parent) for p in sorted(results.glob('ablations/*/study.toml'))]


def study_figure(outcomes: Outcomes) -> Drawing:
    """Return the figure of a study: what it measured of each claim."""
    judged = outcomes.judgements
    resolved = sum(one.verdict is not DesignVerdict.UNRESOLVED for one in judged)
    return Drawing(
        f'Study {outcomes.study.name}: the measured differences, and those of the paper',
        f'{resolved} of {len(judged)} differences are significant at this size.',
        partial(_forest, outcomes),
    )


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
