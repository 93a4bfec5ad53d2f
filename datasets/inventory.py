"""The data sets in a folder: which are there, in which form, and whether they are complete."""

import csv
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from importlib import import_module
from pathlib import Path

from datasets.imagenet import DEVKIT_ARCHIVE
from datasets.stores import AnyPath, StoredPath
from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.files import naming_file

DATA_SETS = ('imagenet', 'coco', 'ade20k')
SPLITS = ('train', 'val')

_CHECKSUMS = Path(__file__).with_name('checksums.csv')


class DataState(StrEnum):
    """What is known of a split."""

    COMPLETE = 'complete'
    INCOMPLETE = 'incomplete'  # what is measured on it is marked as measured on a subset
    MISSING = 'missing'
    UNUSABLE = 'unusable'  # it is there, and cannot be read
    DAMAGED = 'damaged'  # an archive of it has another checksum than the published one


@dataclass(frozen=True)
class InventoryEntry:
    """A split of a data set in a folder."""

    data_set: str
    split: str
    state: DataState
    form: str | None = None  # such as 'folder', 'zip', or 'folder, with a zip'
    place: str | None = None  # the folder or archive of the images
    images: int | None = None
    expected: int | None = None  # the number of images of the complete split
    advice: str = ''  # a sentence on what to do, or on what a part is good for
    # If verified: the path, algorithm, source and published and found digest of each archive.
    archives: tuple[dict[str, str | None], ...] = ()


@cache
def published_checksums() -> dict[str, dict[str, str]]:
    """Return algorithm, digest and source of the published checksums by the name of the file."""
    with _CHECKSUMS.open(newline='') as file:
        return {row.pop('file'): row for row in csv.DictReader(file)}


def take_inventory(root: Path, verify: bool = False) -> list[InventoryEntry]:
    """Return what `root` holds of each split of each data set.

    With `verify`, archives are compared with their published checksums.

    Raises:
        UserError: if there is no such folder, or it holds none of the data sets.
    """
    if not root.is_dir():
        raise UserError(f'{root} is not a folder: name the one that holds the data sets.')
    found = [_look(root, data_set, split, verify) for data_set in DATA_SETS for split in SPLITS]
    if all(entry.state is DataState.MISSING for entry in found):
        raise DataNotFound(' '.join(entry.advice for entry in found if entry.split == 'val'))
    return found


def _look(root: Path, data_set: str, split: str, verify: bool) -> InventoryEntry:
    module = import_module(f'datasets.{data_set}')
    try:
        listed = module.survey(root, split)
    except (UserError, OSError) as error:
        missing = isinstance(error, DataNotFound)
        state = DataState.MISSING if missing else DataState.UNUSABLE
        return InventoryEntry(data_set, split, state, advice=str(error))
    state, advice = DataState.COMPLETE, ''
    if not listed.complete:
        state = DataState.INCOMPLETE
        advice = f'{"; ".join(listed.problems)}: what is measured on it is marked as of a subset.'
    first = listed.sources[0]
    forms = [s.store.form if isinstance(s, StoredPath) else 'folder' for s in listed.sources]
    entry = InventoryEntry(
        data_set,
        split,
        state,
        form=', with a '.join(dict.fromkeys(forms)),
        place=first.store.name if isinstance(first, StoredPath) else str(first),
        images=len(listed.samples),
        expected=module.NUM_IMAGES[split],
        advice=advice,
    )
    return _verified(entry, listed.sources) if verify else entry


def _verified(entry: InventoryEntry, sources: Sequence[AnyPath]) -> InventoryEntry:
    """Return the entry with the checksums of its archives."""
    stored = [source for source in sources if isinstance(source, StoredPath)]
    paths = [path for source in stored for path in source.store.paths]
    paths += [file for path in paths for file in path.parent.glob(DEVKIT_ARCHIVE)]
    entry = replace(entry, archives=tuple(map(_checksum, dict.fromkeys(paths))))
    for file in entry.archives:
        if file['found'] != file['published']:
            advice = (
                f'{file["path"]} has the {file["algorithm"]} {file["found"]}, and {file["source"]} '
                f'says {file["published"]}: download it again.'
            )
            return replace(entry, state=DataState.DAMAGED, advice=advice)
    return entry


def _checksum(path: Path) -> dict[str, str | None]:
    known = published_checksums().get(path.name)
    if known is None:
        return dict.fromkeys(('algorithm', 'published', 'source', 'found')) | {'path': str(path)}
    print(f'computing the {known["algorithm"]} of {path} ...', file=sys.stderr)
    with naming_file(path), path.open('rb') as file:
        found = hashlib.file_digest(file, known['algorithm']).hexdigest()
    expected = {'algorithm': known['algorithm'], 'published': known['digest']}
    return {'path': str(path), **expected, 'source': known['source'], 'found': found}
