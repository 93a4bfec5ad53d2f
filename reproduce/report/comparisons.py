"""Comparisons on the same images, as text."""

from collections.abc import Sequence

from reproduce.base.terminal import Part, TextTable
from reproduce.judge.comparison import Comparison
from reproduce.statistics.paired import Difference
from reproduce.statistics.significance import LEVEL

_CLASSES = 5  # named, besides those whose difference is significant
_VALUES = ('first', 'second', 'difference', '95 % interval', 'p')


def render(comparison: Comparison) -> list[Part]:
    """Return two systems' differences as tables, with a sentence that says what they show."""
    rows = [[d.metric, *_numbers(d, d.p)] for d in comparison.paired.metrics.values()]
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
    parts = ['\n'.join(names), TextTable(['metric', *_VALUES], rows), '\n'.join(sentences)]
    parts += _classes(comparison)
    if comparison.images:
        rows = [[i.name, f'{i.first:.1f}', f'{i.second:.1f}'] for i in comparison.images]
        parts.append(TextTable(['images that differ most', 'first', 'second'], rows))
    return parts


def render_several(found: Sequence[Comparison]) -> list[Part]:
    """Return a table for each headline: several systems, each compared with the first.

    p values are corrected by Holm for the number of systems.
    """
    parts: list[Part] = [f'first: {found[0].first.name}']
    for metric in found[0].corrected:
        rows = [
            [c.second.name, *_numbers(c.paired.metrics[metric], c.corrected[metric])] for c in found
        ]
        parts.append(TextTable(['second', metric, *_VALUES[1:4], "p (Holm's)"], rows))
    return parts


def _numbers(d: Difference, p: float) -> list[str]:
    """Return both values, their difference, its interval, and its p value."""
    interval = '' if d.interval is None else '{:+.2f} to {:+.2f}'.format(*d.interval)
    return [f'{d.first:.2f}', f'{d.second:.2f}', f'{d.difference:+.2f}', interval, _p_value(p)]


def _p_value(p: float) -> str:
    return '< 0.001' if p < 0.001 else f'{p:.3f}'


def _classes(comparison: Comparison) -> list[Part]:
    """Return the classes that differ significantly, and a few of the largest differences."""
    tested = [d for d in comparison.paired.classes if d.p is not None]
    tested.sort(key=lambda d: -abs(d.difference))
    rows = [
        [comparison.class_name(d), d.metric, *_numbers(d, d.p)[:3], _p_value(d.p)]
        for place, d in enumerate(tested)
        if d.difference and (place < _CLASSES or d.p < LEVEL)
    ]
    if not rows:
        return []
    significant = sum(d.p < LEVEL for d in tested)
    note = f'{significant} of {len(tested)} differences of single classes are significant.'
    return [TextTable(['class', 'metric', *_VALUES[:3], "p (Holm's)"], rows), note]
