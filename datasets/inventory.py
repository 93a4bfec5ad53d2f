"""The data sets in a folder: which are there, in which form, and whether they are complete."""

import csv
import hashlib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets import load
from datasets.reading import check_whole
from datasets.stores import AnyPath, StoredPath
from datasets.subset import Split
from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.wording import shortened

DATA_SETS = ('imagenet', 'coco', 'ade20k')
SPLITS = ('train', 'val')

_CHECKSUMS = Path(__file__).with_name('checksums.csv')

# The labels of flat images may come from it.
_DEVKIT = 'ILSVRC2012_devkit_t12.tar.gz'

# Images that wait for the threads that decode them.
_AT_A_TIME = 4096


class DataState(StrEnum):
    """What is known of a split."""

    COMPLETE = 'complete'
    INCOMPLETE = 'incomplete'  # what is measured on it is marked as measured on a subset
    MISSING = 'missing'
    UNUSABLE = 'unusable'  # it is there, and cannot be read
    DAMAGED = 'damaged'  # it is there, and its verification failed


@dataclass(frozen=True)
class InventoryEntry:
    """A split of a data set in a folder.

    Attributes:
        data_set: one of `DATA_SETS`.
        split: one of `SPLITS`.
        state: what is known of it.
        listed: what is there; None if that is nothing, or unusable.
        advice: a sentence on what to do, or on what a part is good for; '' if all is well.
        archives: if they were verified, for each file of its archives a dictionary with its path,
            the algorithm of the published checksum, the published digest, its source, and the
            digest found; None where no checksum is published.
        opened: the number of images that were opened and decoded, if they were.
        verified: what a verification found to be right, as a phrase.
    """

    data_set: str
    split: str
    state: DataState
    listed: Split | None = None
    advice: str = ''
    archives: tuple[dict[str, str | None], ...] = ()
    opened: int | None = None
    verified: str = ''

    @property
    def expected(self) -> int:
        """The number of images of the complete split."""
        return import_module(f'datasets.{self.data_set}').NUM_IMAGES[self.split]

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as JSON has it."""
        listed = self.listed
        return {
            'data_set': self.data_set,
            'split': self.split,
            'state': self.state.value,
            'form': listed and listed.form,
            'place': listed and listed.place,
            'images': listed and len(listed.samples),
            'expected': listed and self.expected,
            'problems': list(listed.problems) if listed else [],
            'advice': self.advice,
            'archives': list(self.archives),
            'opened': self.opened,
        }


@cache
def published_checksums() -> dict[str, dict[str, str]]:
    """Return algorithm, digest and source of the published checksums by the name of the file."""
    with _CHECKSUMS.open(newline='') as file:
        return {row.pop('file'): row for row in csv.DictReader(file)}


def take_inventory(root: Path, verify: bool = False) -> list[InventoryEntry]:
    """Return what `root` holds of each split of each data set.

    Args:
        root: the folder of a data set, or of several.
        verify: compare archives with their published checksums; of all else, check what is checked
            before an evaluation, and decode every image.

    Raises:
        UserError: if there is no such folder, or it holds none of the data sets.
    """
    if not root.is_dir():
        raise UserError(f'{root} is not a folder: name the one that holds the data sets.')
    entries = [_look(root, data_set, split) for data_set in DATA_SETS for split in SPLITS]
    if all(entry.state is DataState.MISSING for entry in entries):
        raise DataNotFound(' '.join(e.advice for e in entries if e.split == 'val'))
    _checksum.cache_clear()
    return [_verified(root, entry) if verify and entry.listed else entry for entry in entries]


def _look(root: Path, data_set: str, split: str) -> InventoryEntry:
    try:
        listed = import_module(f'datasets.{data_set}').survey(root, split)
    except DataNotFound as error:
        return InventoryEntry(data_set, split, DataState.MISSING, advice=str(error))
    except UserError as error:
        return InventoryEntry(data_set, split, DataState.UNUSABLE, advice=str(error))
    if listed.complete:
        return InventoryEntry(data_set, split, DataState.COMPLETE, listed)
    advice = f'{"; ".join(listed.problems)}: what is measured on it is marked as of a subset.'
    return InventoryEntry(data_set, split, DataState.INCOMPLETE, listed, advice)


def _verified(root: Path, entry: InventoryEntry) -> InventoryEntry:
    """Return the entry with the results of its verification."""
    archives = list(entry.listed.archives)
    if archives and entry.data_set == 'imagenet':
        archives += [devkit for devkit in archives[0].parent.glob(_DEVKIT) if devkit.is_file()]
    entry = replace(entry, archives=tuple(_checksum(path) for path in archives))
    for file in entry.archives:
        if file['found'] != file['published']:
            advice = (
                f'{file["path"]} has the {file["algorithm"]} {file["found"]}, and {file["source"]} '
                f'says {file["published"]}: download it again.'
            )
            return replace(entry, state=DataState.DAMAGED, advice=advice)
    published = [Path(file['path']).name for file in entry.archives if file['published']]
    verified = f'{shortened(published)} as published' if published else ''
    if archives and len(published) == len(archives):
        return replace(entry, verified=verified)
    try:
        load(entry.data_set, root, entry.split)
    except UserError as error:
        return replace(entry, state=DataState.DAMAGED, advice=str(error))
    unreadable = _unreadable(f'opening {entry.data_set} {entry.split}', entry.listed.samples)
    entry = replace(entry, opened=len(entry.listed.samples))
    if not unreadable:
        opened = f'{entry.opened:,} images opened'
        return replace(entry, verified=f'{verified}, {opened}' if verified else opened)
    advice = f'{len(unreadable):,} of {entry.opened:,} images cannot be read: {unreadable[0]}'
    return replace(entry, state=DataState.DAMAGED, advice=advice)


@cache  # an archive may hold both splits
def _checksum(path: Path) -> dict[str, str | None]:
    known = published_checksums().get(path.name)
    if known is None:
        return dict.fromkeys(('algorithm', 'published', 'source', 'found')) | {'path': str(path)}
    print(f'computing the {known["algorithm"]} of {path} ...', file=sys.stderr)
    try:
        with path.open('rb') as file:
            found = hashlib.file_digest(file, known['algorithm']).hexdigest()
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; make it readable.') from error
    expected = {'algorithm': known['algorithm'], 'published': known['digest']}
    return {'path': str(path), **expected, 'source': known['source'], 'found': found}


def _unreadable(what: str, samples: Sequence[tuple[AnyPath, ...]]) -> list[str]:
    """Return a sentence for each image that cannot be read whole."""
    paths = [path for path, *_ in samples]
    if isinstance(paths[0], StoredPath):
        paths.sort(key=lambda path: path.member)
    errors: list[str] = []
    with (
        tqdm(total=len(paths), desc=what, leave=False, disable=None) as bar,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,  # Pillow releases the GIL
    ):
        for start in range(0, len(paths), _AT_A_TIME):
            part = paths[start : start + _AT_A_TIME]
            errors += filter(None, pool.map(_error, part))
            bar.update(len(part))
    return errors


def _error(path: AnyPath) -> str:
    try:
        check_whole(path)
    except UserError as error:
        return str(error)
    return ''
