"""Phrases that messages share: lists that are cut short, plurals, names that are nearly right."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, existing: Iterable[str], most: int = 4) -> list[str]:
    """Return up to `most` of the `existing` names that resemble `name`, whatever their case."""
    by_lower = {known.lower(): known for known in existing}
    found = get_close_matches(name.lower(), by_lower, n=most, cutoff=0.3)
    return [by_lower[lower] for lower in found]


def extent(images: int, complete: bool, problems: Iterable[str]) -> str:
    """Return how much of a data set something was measured on, as a phrase."""
    if complete:
        return f'the complete {images:,} images'
    return f'a subset of {images:,} images ({"; ".join(problems)})'
