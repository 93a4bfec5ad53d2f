"""Comparisons on the same images: as text, as Markdown, and as `compare --save` keeps them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from tabulate import tabulate

from reproduce.base.errors import UserError
from reproduce.base.files import first_error
from reproduce.base.terminal import Part, TextTable
from reproduce.judge.comparison import Comparison
from reproduce.statistics.paired import Difference
from reproduce.statistics.significance import LEVEL

_CLASSES = 5  # named, besides those whose difference is significant


class ComparedMetric(BaseModel):
    """A metric of both systems in percent, and the second less the first with its 95 % interval."""

    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    p: float
    significant: bool


class SavedComparison(BaseModel):
    """Two systems on the same images; each has a `name`."""

    first: dict[str, Any]
    second: dict[str, Any]
    metrics: dict[str, ComparedMetric]


class SavedMatrix(BaseModel):
    """Several systems on the same images, compared in pairs."""

    pairs: list[SavedComparison]


def load_comparisons(results: Path) -> list[SavedComparison]:
    """Return the comparisons under `results`, by file name; none where there is no folder.

    Raises:
        UserError: if a file cannot be read, or was not written by `compare --save`.
    """
    adapter = TypeAdapter(SavedMatrix | SavedComparison)
    found: list[SavedComparison] = []
    for path in sorted(results.glob('comparisons/*.json')):
        try:
            kept = adapter.validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f'{path} cannot be read: {error.strerror}.') from None
        except ValidationError as error:
            raise UserError(
                f'{path} is no comparison ({": ".join(first_error(error))}): write it with '
                f'`python -m reproduce compare ... --save {path}`, or remove it.'
            ) from None
        found += kept.pairs if isinstance(kept, SavedMatrix) else [kept]
    return found


def render(comparison: Comparison, markdown: bool = False) -> list[Part]:
    """Return two systems' differences as tables, with a sentence that says what they show."""
    bullet = '- ' if markdown else ''
    heads = ['metric', 'first', 'second', 'difference', '95 % interval', 'p']
    rows = [_row(d) for d in comparison.paired.metrics.values()]
    parts = [
        '\n'.join(
            f'{bullet}{place}: {c.name}' + (f' ({c.attestation})' if c.attestation else '')
            for place, c in (('first', comparison.first), ('second', comparison.second))
        ),
        _table(rows, heads, markdown),
        '\n'.join(_sentence(d) for d in comparison.headlines),
        *_classes(comparison, markdown),
    ]
    if comparison.images:
        rows = [[i.name, f'{i.first:.1f}', f'{i.second:.1f}'] for i in comparison.images]
        heads = ['images that differ most', 'first', 'second']
        parts.append(_table(rows, heads, markdown))
    return parts


def _table(rows: Sequence[Sequence[str]], heads: Sequence[str], markdown: bool) -> Part:
    if markdown:
        return tabulate(rows, heads, 'github', disable_numparse=True)
    return TextTable(heads, rows)


def _row(d: Difference) -> list[str]:
    low, high = d.interval
    return [
        d.metric,
        f'{d.first:.2f}',
        f'{d.second:.2f}',
        f'{d.difference:+.2f}',
        f'{low:+.2f} to {high:+.2f}',
        p_value(d.p),
    ]


def p_value(p: float) -> str:
    """Return a p value with as many digits as it is good for."""
    return '< 0.001' if p < 0.001 else f'{p:.3f}'


def _sentence(d: Difference) -> str:
    if not d.significant:
        return (
            f'{d.metric}: the difference is not significant; these images would show one of about '
            f'{d.resolvable:.2f} in 80 % of cases.'
        )
    which = 'better' if d.difference > 0 else 'worse'
    return f'{d.metric}: the second is significantly {which} (p {p_value(d.p)}).'


def _classes(comparison: Comparison, markdown: bool) -> list[Part]:
    """Return the classes that differ significantly, and a few of the largest differences."""
    tested = [d for d in comparison.paired.classes if d.p is not None]
    if not tested:
        return []
    significant = [d for d in tested if d.p < LEVEL]
    largest = sorted(tested, key=lambda d: -abs(d.difference))[:_CLASSES]
    shown = sorted({id(d): d for d in [*significant, *largest]}.values(), key=_size)
    rows = [
        [
            comparison.class_name(d),
            d.metric,
            f'{d.first:.1f}',
            f'{d.second:.1f}',
            f'{d.difference:+.1f}',
            p_value(d.p),
        ]
        for d in shown
        if d.difference
    ]
    if not rows:
        return []
    heads = ['class', 'metric', 'first', 'second', 'difference', "p (Holm's)"]
    note = f'{len(significant)} of {len(tested)} differences of single classes are significant.'
    return [_table(rows, heads, markdown), note]


def _size(d: Difference) -> float:
    return -abs(d.difference)


def render_several(found: Sequence[Comparison], markdown: bool = False) -> list[Part]:
    """Return a table for each headline: several systems, each compared with the first.

    p values are corrected by Holm for the number of systems.
    """
    bullet = '- ' if markdown else ''
    first = found[0].first.name
    parts: list[Part] = [f'{bullet}first: {first}']
    for metric in found[0].corrected:
        rows = []
        for comparison in found:
            _, *row = _row(comparison.paired.metrics[metric])
            rows.append([comparison.second.name, *row[:-1], p_value(comparison.corrected[metric])])
        heads = ['second', metric, 'second', 'difference', '95 % interval', "p (Holm's)"]
        parts.append(_table(rows, heads, markdown))
    return parts
