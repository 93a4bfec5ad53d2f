"""A split of a data set, and the part of it that is asked for."""

import hashlib
from collections.abc import Sequence
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

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the images' files, with that of their folder where they repeat."""
        names = tuple(path.name for path, _ in self.samples)
        if len(set(names)) < len(names):
            return tuple(f'{path.parent.name}/{path.name}' for path, _ in self.samples)
        return names

    def hashes(self, images: Sequence[str] = ()) -> dict[str, str]:
        """Return the SHA-256 of each file that decides the numbers, by name; `images` are known."""
        known = dict(zip(self.names, images, strict=False))
        named = dict(zip(self.names, self.samples, strict=True))
        paths = {name: path for name, (path, _) in named.items()}
        paths |= {f'label map of {n}': m for n, (_, m) in named.items() if isinstance(m, AnyPath)}
        paths |= {path.name: path for path in self.sources[1:]}  # a file of annotations
        return {
            name: known.get(name) or hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in paths.items()
        }


def check_folder(root: Path, name: str, layout: str) -> None:
    """Check that `root` is a folder; else say that the data set `name` has this layout in it."""
    if not root.is_dir():
        raise UserError(f'{root} is not a folder: expected {name} with {layout} in it.')


def evenly_spaced(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """Return `limit` of the items, evenly spaced, the first one among them.

    All items are returned if the limit is None or exceeds their number.
    """
    if limit is None or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def left_out(taken: int, found: int) -> list[str]:
    """Return a phrase that says that a limit left images out; none if it did not."""
    return [f'{taken:,} of {found:,} images were asked for'] if taken < found else []
