"""`python -m reproduce compare`: is the difference between two results real?"""

from collections.abc import Mapping, Sequence
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
from reproduce.statistics.significance import LEVEL, holm
from reproduce.tasks import DETECTION, TASKS


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
    the paired bootstrap over the images. Of detectors, also the kinds of error that explain it.

    Exits with 0, or with 1 for --fail-if-worse.
    """
    if len(names) < 2:
        raise UserError(f"'{' '.join(names)}' is one result: name two or more to compare.")
    found = compare_candidates(find_candidates(names, evaluations, data))
    worse = any(pair.worse for pair in found)
    result = found[0].as_dict()
    if len(found) > 1:
        result = {'pairs': [pair.as_dict() for pair in found], 'worse': worse}
    options.show(format, result, *_rendered(found))
    raise typer.Exit(int(fail_if_worse and worse))


def _rendered(found: Sequence[Comparison]) -> list[Part]:
    """Return the differences of systems from the first as a table, and what they show.

    p values of the metrics that say which is better are corrected by Holm for several systems.
    """
    systems = [found[0].first, *(comparison.second for comparison in found)]
    names = [
        f'{i}: {c.name}' + (f' ({c.attestation})' if c.attestation else '')
        for i, c in enumerate(systems, 1)
    ]
    rows, sentences = [], []
    for i, comparison in enumerate(found, 2):
        costs = {f'lost to {name}': d for name, d in comparison.errors.items()}
        for metric, d in (comparison.metrics | costs).items():
            p = comparison.corrected.get(metric, d.p)
            p_value = '< 0.001' if p < 0.001 else f'{p:.3f}'
            values = f'{d.first:.2f}', f'{d.second:.2f}', f'{d.difference:+.2f}'
            interval = '{:+.2f} to {:+.2f}'.format(*d.interval)
            rows.append([metric, str(i), *values, interval, p_value])
            if metric in comparison.corrected and p < LEVEL:
                better = 'better' if d.difference > 0 else 'worse'
                sentences.append(f'{metric}: {i} is significantly {better} than 1 (p {p_value}).')
            elif metric in comparison.corrected:
                sentences.append(
                    f'{metric}: the difference of {i} from 1 is not significant; these images '
                    f'would show one of about {d.resolvable:.2f} in 80 % of cases.'
                )
        if TASKS[comparison.first.task].kind is DETECTION:
            sentences.append(_reason(i, comparison.errors))
    heads = ['metric', 'system', '1', 'value', 'difference', '95 % interval', 'p']
    return ['\n'.join(names), TextTable(heads, rows), '\n'.join(sentences)]


def _reason(system: int, errors: Mapping[str, Difference]) -> str:
    """Return which kinds of error differ, by p values that Holm corrects for all of them."""
    ps = holm([d.p for d in errors.values()])
    real = [d for d, p in zip(errors.values(), ps, strict=True) if p < LEVEL]
    listed = [
        f'{d.metric} {d.difference:+.2f}' for d in sorted(real, key=lambda d: -abs(d.difference))
    ]
    return (
        f'AP50 that errors cost {system}, where it differs significantly from 1: '
        f'{", ".join(listed) or "none"}.'
    )
