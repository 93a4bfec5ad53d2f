"""Phrases that messages share: lists that are cut short, plurals."""

from collections.abc import Iterable, Sequence, Sized


def shortened(items: Sequence[object], most: int = 5) -> str:
    """Return the first `most` items separated by commas, and how many more there are.

    For example, `shortened(['a', 'b', 'c'], 1)` is 'a and 2 more'.
    """
    first = ', '.join(map(str, items[:most]))
    return f'{first} and {len(items) - most:,} more' if len(items) > most else first


def by_number(items: Sized, singular: str, plural: str) -> str:
    """Return `singular` if there is one item, and `plural` if there is none or several."""
    return singular if len(items) == 1 else plural


def extent(images: int, complete: bool, problems: Iterable[str]) -> str:
    """Return how much of a data set something was measured on, as a phrase."""
    if complete:
        return f'the complete {images:,} images'
    return f'a subset of {images:,} images ({"; ".join(problems)})'
