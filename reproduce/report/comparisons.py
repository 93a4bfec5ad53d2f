"""Comparisons on the same images, as text and as Markdown."""

from collections.abc import Sequence

from tabulate import tabulate

from reproduce.base.terminal import Part, TextTable
from reproduce.judge.comparison import Comparison
from reproduce.statistics.paired import Difference
from reproduce.statistics.significance import LEVEL

_CLASSES = 5  # named, besides those whose difference is significant


def render(comparison: Comparison, markdown: bool) -> list[Part]:
    """Return two systems' differences as tables, with a sentence that says what they show."""
    bullet = '- ' if markdown else ''
    rows = [[d.metric, *_numbers(d, 2)] for d in comparison.paired.metrics.values()]
    parts = [
        '\n'.join(
            f'{bullet}{place}: {c.name}' + (f' ({c.attestation})' if c.attestation else '')
            for place, c in (('first', comparison.first), ('second', comparison.second))
        ),
        _table(rows, ['metric', 'first', 'second', 'difference', '95 % interval', 'p'], markdown),
        '\n'.join(
            f'{d.metric}: the second is significantly {"better" if d.difference > 0 else "worse"} '
            f'(p {_p_value(d.p)}).'
            if d.significant
            else f'{d.metric}: the difference is not significant; these images would show one of '
            f'about {d.resolvable:.2f} in 80 % of cases.'
            for d in comparison.headlines
        ),
        *_classes(comparison, markdown),
    ]
    return parts


def render_several(found: Sequence[Comparison], markdown: bool) -> list[Part]:
    """Return a table for each headline: several systems, each compared with the first.

    p values are corrected by Holm for the number of systems.
    """
    bullet = '- ' if markdown else ''
    parts: list[Part] = [f'{bullet}first: {found[0].first.name}']
    for metric in found[0].corrected:
        rows = [
            [c.second.name, *_numbers(c.paired.metrics[metric], 2, c.corrected[metric])]
            for c in found
        ]
        heads = ['second', metric, 'second', 'difference', '95 % interval', "p (Holm's)"]
        parts.append(_table(rows, heads, markdown))
    return parts


def _table(rows: Sequence[Sequence[str]], heads: Sequence[str], markdown: bool) -> Part:
    if markdown:
        return tabulate(rows, heads, 'github', disable_numparse=True)
    return TextTable(heads, rows)


def _numbers(d: Difference, digits: int, p: float | None = None) -> list[str]:
    """Return both values, their difference, its interval where there is one, and its p value."""
    values = [f'{d.first:.{digits}f}', f'{d.second:.{digits}f}', f'{d.difference:+.{digits}f}']
    if d.interval is not None:
        values.append(f'{d.interval[0]:+.2f} to {d.interval[1]:+.2f}')
    return [*values, _p_value(d.p if p is None else p)]


def _p_value(p: float) -> str:
    return '< 0.001' if p < 0.001 else f'{p:.3f}'


def _classes(comparison: Comparison, markdown: bool) -> list[Part]:
    """Return the classes that differ significantly, and a few of the largest differences."""
    tested = [d for d in comparison.paired.classes if d.p is not None]
    tested.sort(key=lambda d: -abs(d.difference))
    significant = sum(d.p < LEVEL for d in tested)
    rows = [
        [comparison.class_name(d), d.metric, *_numbers(d, 1)]
        for place, d in enumerate(tested)
        if d.difference and (place < _CLASSES or d.p < LEVEL)
    ]
    if not rows:
        return []
    heads = ['class', 'metric', 'first', 'second', 'difference', "p (Holm's)"]
    note = f'{significant} of {len(tested)} differences of single classes are significant.'
    return [_table(rows, heads, markdown), note]
