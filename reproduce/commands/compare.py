"""`python -m reproduce compare`: is the difference between two results real?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from reproduce.base.errors import UserError
from reproduce.base.folders import EVALUATIONS
from reproduce.base.terminal import Part, TextTable
from reproduce.commands import options
from reproduce.judge.comparison import Comparison, find_candidates
from reproduce.judge.comparison import compare as compare_candidates
from reproduce.statistics.paired import Difference

_VALUES = ('first', 'second', 'difference', '95 % interval', 'p')


def compare(
    names: Annotated[
        list[str],
        Argument(
            help='Two or more records (file, stem or key), systems or released weights (their '
            'latest record), or files of predictions.'
        ),
    ],
    data: Annotated[
        Path | None,
        Option(help="The data set's folder, for files of predictions."),
    ] = None,
    fail_if_worse: Annotated[
        bool,
        Option('--fail-if-worse', help='Exit with 1 if one is significantly worse than the first.'),
    ] = False,
    evaluations: options.Evaluations = EVALUATIONS,
    format: options.Format = 'text',
) -> None:
    """Compare two results on the same images, or several: is the difference real?

    Of several, each is compared with the first. Top-1 by McNemar's exact test; AP, AR and mIoU by
    the paired bootstrap over the images.

    Exits with 0, or with 1 for --fail-if-worse.
    """
    if len(names) < 2:
        raise UserError(f"'{' '.join(names)}' is one result: name two or more to compare.")
    found = compare_candidates(find_candidates(names, evaluations, data))
    worse = any(pair.worse for pair in found)
    if len(found) > 1:
        result = {'pairs': [pair.as_dict() for pair in found], 'worse': worse}
    else:
        result = found[0].as_dict()
    options.show(format, result, *(_several(found) if len(found) > 1 else _pair(found[0])))
    raise typer.Exit(int(fail_if_worse and worse))


def _pair(comparison: Comparison) -> list[Part]:
    """Return two systems' differences as tables, with a sentence that says what they show."""
    rows = [[d.metric, *_numbers(d, d.p)] for d in comparison.metrics.values()]
    names = [
        f'{place}: {c.name}' + (f' ({c.attestation})' if c.attestation else '')
        for place, c in (('first', comparison.first), ('second', comparison.second))
    ]
    sentences = [
        f'{d.metric}: the second is significantly {"better" if d.difference > 0 else "worse"} '
        f'(p {_p_value(d.p)}).'
        if d.significant
        else f'{d.metric}: the difference is not significant; these images would show one of '
        f'about {d.resolvable:.2f} in 80 % of cases.'
        for d in comparison.headlines
    ]
    return ['\n'.join(names), TextTable(['metric', *_VALUES], rows), '\n'.join(sentences)]


def _several(found: Sequence[Comparison]) -> list[Part]:
    """Return a table for each headline: several systems, each compared with the first.

    p values are corrected by Holm for the number of systems.
    """
    parts: list[Part] = [f'first: {found[0].first.name}']
    for metric in found[0].corrected:
        rows = [[c.second.name, *_numbers(c.metrics[metric], c.corrected[metric])] for c in found]
        parts.append(TextTable(['second', metric, *_VALUES[1:4], "p (Holm's)"], rows))
    return parts


def _numbers(d: Difference, p: float) -> list[str]:
    """Return both values, their difference, its interval, and its p value."""
    interval = '{:+.2f} to {:+.2f}'.format(*d.interval)
    return [f'{d.first:.2f}', f'{d.second:.2f}', f'{d.difference:+.2f}', interval, _p_value(p)]


def _p_value(p: float) -> str:
    return '< 0.001' if p < 0.001 else f'{p:.3f}'
