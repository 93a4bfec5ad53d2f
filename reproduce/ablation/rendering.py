"""The outcomes of a study as Markdown and LaTeX."""

from collections.abc import Sequence

from tabulate import tabulate

from reproduce.ablation.outcomes import Outcomes, VariantLine
from reproduce.ablation.study import Study
from reproduce.statistics.significance import LEVEL, POWER, resolvable

HEADINGS = (
    *('claim', 'paper', 'measured', '95 % interval', 'p (Holm)', 'resolvable', 'seeds'),
    *('params M', 'FLOPs G', 'training s', 'verdict'),
)

METHOD = (
    'Differences are in percent of Top-1, better minus worse, paired by seed. The interval is of '
    'the claim alone; the verdict is by the p value that is corrected for all claims but the '
    f'controls (Holm, {LEVEL:g}). Resolvable is the smallest true difference that such a study '
    f'finds with a probability of {POWER:.0%}. Parameters, FLOPs and seconds of training are those '
    'of the better and the worse side. A control checks the study itself.'
)


def _signed(value: float | None) -> str:
    return '–' if value is None else f'{value:+.2f}'.replace('-', '−')


def rows(outcomes: Outcomes) -> list[list[str]]:
    """Return a row for each claim, under `HEADINGS`."""
    costs = {}
    for line in outcomes.variants:
        times = [t.train_cpu_seconds for t in outcomes.times if t.variant == line.variant]
        times = [seconds for seconds in times if seconds is not None]
        mean = f'{sum(times) / len(times):.0f}' if times else '–'
        costs[line.variant] = (f'{line.params / 1e6:.2f}', f'{line.total_flops / 1e9:.4f}', mean)
    return [
        [
            judged.says,
            _signed(float(judged.paper)) if judged.paper else '–',
            _signed(judged.mean),
            '–' if judged.low is None else f'{_signed(judged.low)} to {_signed(judged.high)}',
            '–' if judged.p_holm is None else f'{judged.p_holm:.3f}',
            '–' if judged.resolvable is None else f'{judged.resolvable:.2f}',
            str(judged.pairs),
            *map(' / '.join, zip(costs[judged.better], costs[judged.worse], strict=True)),
            judged.verdict.value,
        ]
        for judged in outcomes.judgements
    ]


def _accuracies(outcomes: Outcomes) -> tuple[list[list[str]], list[str]]:
    """Return a row for each variant, its Top-1 by seed and their mean; and the headings."""
    top1 = {(run.variant, run.seed): run.top1 for run in outcomes.runs}
    seeds, found = outcomes.study.seeds, []
    for variant in outcomes.study.variant:
        values = [top1.get((variant.name, seed)) for seed in seeds]
        there = [value for value in values if value is not None]
        mean = f'{sum(there) / len(there):.2f}' if there else '–'
        found.append([variant.name, mean, *('–' if v is None else f'{v:.2f}' for v in values)])
    return found, ['Top-1 (%)', 'mean', *(f'seed {seed}' for seed in seeds)]


def about(outcomes: Outcomes) -> str:
    """Return what the study is, on what it was measured, and whether that is all of it."""
    study, runs = outcomes.study, outcomes.runs
    if not runs:
        return f'{study.about} No run has ended yet.'
    seeds, planned = len({run.seed for run in runs}), len(study.seeds)
    of_all = f'{planned}' if seeds == planned else f'{seeds} of the planned {planned}'
    kinds = sorted({time.device for time in outcomes.times})
    run = runs[0]
    return (
        f'{study.about} {run.epochs} epochs on {run.train_images:,} training images '
        f'({run.train_data}), Top-1 on {run.val_images:,} validation images ({run.val_data}); '
        f'{len(runs)} runs with {of_all} seeds, which were fixed before any was run, on '
        f'{" and ".join(kinds)}. {study.data}'
    ).strip()


def plan(study: Study, variants: Sequence[VariantLine], seeds: int) -> str:
    """Return what a study would train with the first of its seeds, and what it could resolve."""
    networks = [
        [v.variant, f'{v.params / 1e6:.2f}', f'{v.total_flops / 1e9:.4f}', v.says] for v in variants
    ]
    family = sum(not claim.control for claim in study.claim)
    claims = [
        [claim.says, f'{resolvable(study.spread, seeds, 1 if claim.control else family):.2f}']
        for claim in study.claim
        if seeds > 1
    ]
    return '\n\n'.join(
        [
            f'{len(variants) * seeds} runs with {seeds} seeds. {study.about} {study.data}'.strip(),
            tabulate(networks, ('variant', 'params M', 'FLOPs G', ''), 'github'),
            tabulate(claims, ('claim', 'resolvable'), 'github'),
            f'Resolvable is the smallest true difference in Top-1 (%) that is found with a '
            f'probability of {POWER:.0%}, at a standard deviation of paired differences of '
            f'{study.spread:.2f}.',
            study.limits.strip(),
        ]
    )


def markdown(outcomes: Outcomes) -> str:
    """Return the claims as a Markdown table, with what they rest on."""
    notes = [f'* {judged.says}: {judged.note}' for judged in outcomes.judgements if judged.note]
    parts = [
        f'# Study `{outcomes.study.name}`',
        about(outcomes),
        _table(rows(outcomes), HEADINGS, 'github'),
        _table(*_accuracies(outcomes), 'github'),
        '\n'.join(notes),
        METHOD,
        outcomes.study.limits.strip(),
    ]
    return '\n\n'.join(part for part in parts if part) + '\n'


def latex(outcomes: Outcomes) -> str:
    """Return the claims as a LaTeX tabular (booktabs)."""
    return _table(rows(outcomes), HEADINGS, 'latex_booktabs').replace('−', '$-$') + '\n'


def _table(rows: Sequence[Sequence[str]], headings: Sequence[str], format: str) -> str:
    return tabulate(rows, headings, format, disable_numparse=True)
