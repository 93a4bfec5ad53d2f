"""The part of a data set that is asked for: its folder, a split, and perhaps only some images."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

from reproduce.base.errors import UserError

Item = TypeVar('Item')


def check_request(
    name: str, root: Path, layout: str, split: str, splits: Collection[str], limit: int | None
) -> None:
    """Check what a caller asks of the data set `name`, before anything is searched for.

    Args:
        root: the folder that is said to hold the data set.
        layout: the files that belong into it, for the message.
        splits: the names that `split` may have.
        limit: the number of images that is asked for, or None for all of them.

    Raises:
        UserError: if there is no such split, the limit is below 1, or `root` is not a folder.
    """
    if split not in splits:
        raise UserError(f"{name} has no split '{split}': name {' or '.join(splits)}.")
    if limit is not None:
        _check_limit(limit)
    if not root.is_dir():
        raise UserError(
            f'{root} is not a folder: expected {name} with {layout} in it; name the folder that '
            'holds it.'
        )


def evenly_spaced(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """Return `limit` of the items, evenly spaced, the first one among them.

    All items are returned if the limit is None or exceeds their number.

    Raises:
        UserError: if the limit is below 1.
    """
    if limit is None:
        return items
    _check_limit(limit)
    n = min(limit, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise UserError(f'a limit of {limit} images leaves nothing: give 1 or more.')
