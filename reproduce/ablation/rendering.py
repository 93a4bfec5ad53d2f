"""A study's outcomes and its budget as text, Markdown and LaTeX."""

from math import isnan

from tabulate import tabulate

from reproduce.ablation.judging import LEVEL, POWER, DesignVerdict, Judgement
from reproduce.ablation.outcomes import Outcomes
from reproduce.base.terminal import Part, TextTable

HEADINGS = (
    *('claim', 'paper', 'measured', '95 % interval', 'p (Holm)', 'resolvable', 'seeds'),
    *('params M', 'FLOPs G', 'training s', 'verdict'),
)

METHOD = (
    'Differences are in percent of Top-1, better minus worse, paired by seed. The interval is of '
    'the claim alone; the verdict is by the p value that is corrected for all claims of the paper '
    f'(Holm, {LEVEL:g}). Resolvable is the smallest true difference that such a study finds in '
    f'{POWER:.0%} of cases. Parameters, FLOPs and seconds of training are of the better and the '
    'worse side. A control checks the study itself, and is no claim of the paper.'
)

_SAYS = {
    DesignVerdict.SUPPORTED: 'supported here',
    DesignVerdict.CONTRADICTED: 'contradicted here: the other design is better',
    DesignVerdict.UNRESOLVED: 'unresolved here',
}


def signed(value: float) -> str:
    """Return a difference with its sign and two digits; a dash for none."""
    return '–' if isnan(value) else f'{value:+.2f}'.replace('-', '−')


def interval(judged: Judgement) -> str:
    """Return the 95 % interval of a claim."""
    if isnan(judged.low):
        return '–'
    return f'{signed(judged.low)} to {signed(judged.high)}'


def sentence(judged: Judgement) -> str:
    """Return what the study says about a claim, in one sentence."""
    claim = judged.claim
    says = f'{claim.says[0].upper()}{claim.says[1:]}'
    if judged.pairs < 2:
        return f'{says}: {judged.pairs} pairs of runs do not tell.'
    printed = f' (paper {signed(float(claim.paper))})' if claim.paper else ''
    what = (
        f'{says}: {signed(judged.mean)} ({interval(judged)}) over {judged.pairs} seeds{printed}, '
        f'{_SAYS[judged.verdict]}'
    )
    if judged.verdict is DesignVerdict.UNRESOLVED:
        what += (
            f'; a true difference of {judged.resolvable:.1f} would have been found in four of five '
            'studies'
        )
    return f'{what}.'


def rows(outcomes: Outcomes) -> list[list[str]]:
    """Return a row for each claim, under `HEADINGS`."""
    variants = {line.variant: line for line in outcomes.variants}
    seconds: dict[str, list[float]] = {}
    for line in outcomes.times:
        if line.train_cpu_seconds is not None:
            seconds.setdefault(line.variant, []).append(line.train_cpu_seconds)

    def cost(name: str) -> list[str]:
        of, took = variants[name], seconds.get(name)
        mean = f'{sum(took) / len(took):.0f}' if took else '–'
        return [f'{of.params / 1e6:.2f}', f'{of.total_flops / 1e9:.3f}', mean]

    return [
        [
            judged.claim.says,
            signed(float(judged.claim.paper)) if judged.claim.paper else '–',
            signed(judged.mean),
            interval(judged),
            f'{judged.p_holm:.3f}',
            '–' if isnan(judged.resolvable) else f'{judged.resolvable:.2f}',
            str(judged.pairs),
            *(
                f'{a} / {b}'
                for a, b in zip(cost(judged.claim.better), cost(judged.claim.worse), strict=True)
            ),
            judged.verdict.value,
        ]
        for judged in outcomes.judgements
    ]


def _accuracies(outcomes: Outcomes) -> list[list[str]]:
    """Return a row for each variant: its Top-1 by seed, and their mean."""
    top1 = {(run.variant, run.seed): run.top1 for run in outcomes.runs}
    found = []
    for variant in outcomes.study.variant:
        of = [top1.get((variant.name, seed)) for seed in outcomes.study.seeds]
        there = [value for value in of if value is not None]
        mean = f'{sum(there) / len(there):.2f}' if there else '–'
        found.append([variant.name, mean, *('–' if v is None else f'{v:.2f}' for v in of)])
    return found


def _data(outcomes: Outcomes) -> str:
    if not outcomes.runs:
        return 'No run has ended yet.'
    run, study = outcomes.runs[0], outcomes.study
    return (
        f'{run.epochs} epochs on {run.train_images:,} training images ({run.train_data}), Top-1 on '
        f'{run.val_images:,} validation images ({run.val_data}), {len(outcomes.runs)} runs. '
        f'{study.data}'.strip()
    )


def about(outcomes: Outcomes) -> str:
    """Return what the study is, and on what it was measured."""
    return f'{outcomes.study.about} {_data(outcomes)}'


def text(outcomes: Outcomes) -> list[Part]:
    """Return the outcomes for a terminal."""
    study = outcomes.study
    seeds = (f'seed {seed}' for seed in study.seeds)
    return [
        f'Study {study.name}: {about(outcomes)}',
        TextTable(['variant', 'mean', *seeds], _accuracies(outcomes)),
        TextTable(HEADINGS, rows(outcomes)),
        '\n'.join(map(sentence, outcomes.judgements)),
        METHOD,
        study.limits.strip(),
    ]


def markdown(outcomes: Outcomes) -> str:
    """Return the claims as a Markdown table, with what they rest on."""
    study = outcomes.study
    notes = [f'* {j.claim.says}: {j.claim.note}' for j in outcomes.judgements if j.claim.note]
    parts = [
        f'# Study `{study.name}`',
        about(outcomes),
        tabulate(rows(outcomes), HEADINGS, 'github', disable_numparse=True),
        tabulate(
            _accuracies(outcomes),
            ['Top-1 (%)', 'mean', *(f'seed {seed}' for seed in study.seeds)],
            'github',
            disable_numparse=True,
        ),
        '\n'.join(notes),
        METHOD,
        study.limits.strip(),
    ]
    return '\n\n'.join(part for part in parts if part) + '\n'


def latex(outcomes: Outcomes) -> str:
    """Return the claims as a LaTeX table (booktabs), with what they rest on as its caption."""
    study = outcomes.study
    escaped = [[_escaped(field) for field in row] for row in rows(outcomes)]
    caption = f'{about(outcomes)} {METHOD} {study.limits.strip()}'
    lines = [
        r'\begin{table}',
        rf'\caption{{{_escaped(caption)}}}',
        rf'\begin{{tabular}}{{l{"r" * (len(HEADINGS) - 2)}l}}',
        r'\toprule',
        ' & '.join(map(_escaped, HEADINGS)) + r' \\',
        r'\midrule',
        *(' & '.join(row) + r' \\' for row in escaped),
        r'\bottomrule',
        r'\end{tabular}',
        r'\end{table}',
    ]
    return '\n'.join(lines) + '\n'


def _escaped(field: str) -> str:
    for character in '&%_#$':
        field = field.replace(character, f'\\{character}')
    return field.replace('−', '$-$').replace('×', r'$\times$').replace('–', '--')


def as_dict(outcomes: Outcomes) -> dict[str, object]:
    """Return the judged claims as JSON takes them, with what they rest on."""
    study = outcomes.study
    return {
        'study': study.name,
        'about': about(outcomes),
        'claims': [_judgement(judged) for judged in outcomes.judgements],
        'method': METHOD,
        'limits': study.limits.strip(),
    }


def _judgement(judged: Judgement) -> dict[str, object]:
    claim = judged.claim
    numbers = ('mean', 'low', 'high', 'spread', 'p', 'p_holm', 'resolvable')
    values = {name: getattr(judged, name) for name in numbers}
    return {
        'claim': claim.name,
        **claim.model_dump(include={'says', 'better', 'worse', 'control', 'note'}),
        'paper': float(claim.paper) if claim.paper else None,
        'seeds': judged.pairs,
        **{name: None if isnan(value) else value for name, value in values.items()},
        'verdict': judged.verdict.value,
    }
