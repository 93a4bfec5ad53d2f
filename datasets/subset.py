"""What is asked for of a data set, and what is there of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from datasets.stores import AnyPath, StoredPath
from reproduce.base.errors import UserError

Item = TypeVar('Item')


@dataclass(frozen=True)
class Survey:
    """What is there of one split. No image was decoded.

    Attributes:
        samples: a tuple for each image that begins with its file.
        expected: how many the complete split has.
        problems: a phrase for each thing that is seen to be missing, extra or left out.
        sources: the folder of the images, and that of what belongs to them.
    """

    samples: Sequence[tuple[AnyPath, ...]]
    expected: int
    problems: tuple[str, ...]
    sources: tuple[AnyPath, ...]

    @property
    def place(self) -> str:
        """The folder or the archive of the images."""
        source = self.sources[0]
        return source.store.name if isinstance(source, StoredPath) else str(source)

    @property
    def form(self) -> str:
        """Such as 'folder', 'zip', or 'folder, with a zip'."""
        forms = [
            path.store.form if isinstance(path, StoredPath) else 'folder' for path in self.sources
        ]
        return ', with a '.join(dict.fromkeys(forms))

    @property
    def archives(self) -> tuple[Path, ...]:
        """The files of the archives that it is in, each once."""
        stored = [path for path in self.sources if isinstance(path, StoredPath)]
        return tuple(dict.fromkeys(file for path in stored for file in path.store.paths))


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
    evenly_spaced((), limit)
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
    if limit is not None and limit < 1:
        raise UserError(f'a limit of {limit} images leaves nothing: give 1 or more.')
    if limit is None or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]
