"""What lies in a folder of one split of a data set, and in which form; nothing of it is decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.stores import AnyPath, StoredPath


@dataclass(frozen=True)
class Survey:
    """What lies there of one split.

    Attributes:
        split: 'val' or 'train'.
        place: the folder or the archive of the images.
        form: what that is, such as 'class folders', 'tar' or 'parquet shards'.
        samples: a tuple for each image that begins with its file, in the order in which an archive
            has them.
        expected: how many the split has.
        problems: a phrase for each thing that is seen to be missing, extra or left out.
        archives: the files of the archives in which images and annotations lie.
        notes: a sentence for what was left out and says nothing about the images.
    """

    split: str
    place: Path
    form: str
    samples: Sequence[tuple[AnyPath, ...]]
    expected: int
    problems: tuple[str, ...]
    archives: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def place_of(path: AnyPath) -> Path:
    """Return the archive that `path` is in, or `path` if it is in none."""
    return path.store.path if isinstance(path, StoredPath) else path


def form_of(images: AnyPath, *others: AnyPath) -> str:
    """Return the form of the folder `images`, and of `others` that belong to it where it differs.

    For example 'folder', 'zip', or 'folder, with a zip'.
    """
    form, *more = [
        p.store.form if isinstance(p, StoredPath) else 'folder' for p in (images, *others)
    ]
    different = sorted(set(more) - {form})
    return f'{form}, with a {" and a ".join(different)}' if different else form


def source(form: str) -> str:
    """Return the form with an article where it is one thing: 'a zip', 'parquet shards'."""
    return form if form.endswith('s') else f'a {form}'


def archives_of(*paths: AnyPath) -> tuple[Path, ...]:
    """Return the files of the archives that `paths` are in, each once."""
    found = [file for path in paths if isinstance(path, StoredPath) for file in path.store.paths]
    return tuple(dict.fromkeys(found))
