"""A split of a data set, and the part of it that is asked for."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from datasets.stores import AnyPath
from reproduce.base.errors import UserError

Item = TypeVar('Item')


@dataclass(frozen=True)
class Split:
    """One split of a data set: its images, and why it is not the complete one.

    Attributes:
        root: the folder of the data set.
        split: 'val' or 'train'.
        samples: for each image, in a fixed order, its file and what belongs to it: the index of its
            class, its id, or the file of its label map.
        classes: the names of the classes, in the order of their indices.
        problems: a phrase for each thing that is missing, extra or left out; none when complete.
        fingerprint: 16 hex digits of a SHA-256 over what decides the numbers. It does not depend on
            where the files are, or on how they are packed. '' if the files were only listed.
        sources: the folder of the images, and that of what belongs to them.
    """

    root: AnyPath
    split: str
    samples: Sequence[tuple[AnyPath, Any]]
    classes: tuple[str, ...]
    problems: tuple[str, ...]
    fingerprint: str
    sources: tuple[AnyPath, ...]

    @property
    def complete(self) -> bool:
        """Whether this is the complete split as it was released."""
        return not self.problems


def check_request(
    name: str, root: Path, layout: str, split: str, splits: Collection[str], limit: int | None
) -> None:
    """Check what a caller asks of the data set `name`, before anything is searched for.

    Args:
        root: the folder that is said to hold the data set.
        layout: the files that belong into it, for the message.
        splits: the names that `split` may have.

    Raises:
        UserError: if there is no such split, the limit is below 1, or `root` is not a folder.
    """
    if split not in splits:
        raise UserError(f"{name} has no split '{split}': name {' or '.join(splits)}.")
    evenly_spaced((), limit)
    if not root.is_dir():
        raise UserError(f'{root} is not a folder: expected {name} with {layout} in it.')


def evenly_spaced(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """Return `limit` of the items, evenly spaced, the first one among them.

    All items are returned if the limit is None or exceeds their number.

    Raises:
        UserError: if the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f'a limit of {limit} images leaves nothing: give 1 or more.')
    if limit is None or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def left_out(taken: int, found: int) -> list[str]:
    """Return a phrase that says that a limit left images out; none if it did not."""
    return [f'{taken:,} of {found:,} images were asked for'] if taken < found else []
