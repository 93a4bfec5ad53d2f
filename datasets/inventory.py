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
        form, place: see `Split`; None if nothing is there, or it is unusable.
        images, expected: the number of images, and that of the complete split; likewise.
        problems: of the split.
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
    form: str | None = None
    place: str | None = None
    images: int | None = None
    expected: int | None = None
    problems: tuple[str, ...] = ()
    advice: str = ''
    archives: tuple[dict[str, str | None], ...] = ()
    opened: int | None = None
    verified: str = ''


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
    found = [_look(root, data_set, split) for data_set in DATA_SETS for split in SPLITS]
    if all(entry.state is DataState.MISSING for entry, _ in found):
        raise DataNotFound(' '.join(entry.advice for entry, _ in found if entry.split == 'val'))
    _checksum.cache_clear()
    return [_verified(root, *one) if verify and one[1] else one[0] for one in found]


def _look(root: Path, data_set: str, split: str) -> tuple[InventoryEntry, Split | None]:
    """Return what is known of a split, and what is there of it."""
    module = import_module(f'datasets.{data_set}')
    try:
        listed = module.survey(root, split)
    except DataNotFound as error:
        return InventoryEntry(data_set, split, DataState.MISSING, advice=str(error)), None
    except UserError as error:
        return InventoryEntry(data_set, split, DataState.UNUSABLE, advice=str(error)), None
    counts = (len(listed.samples), module.NUM_IMAGES[split])
    facts = (listed.form, listed.place, *counts, listed.problems)
    if listed.complete:
        return InventoryEntry(data_set, split, DataState.COMPLETE, *facts), listed
    advice = f'{"; ".join(listed.problems)}: what is measured on it is marked as of a subset.'
    return InventoryEntry(data_set, split, DataState.INCOMPLETE, *facts, advice), listed


def _verified(root: Path, entry: InventoryEntry, listed: Split) -> InventoryEntry:
    """Return the entry with the results of its verification."""
    archives = list(listed.archives)
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
    verified = [f'{shortened(published)} as published'] if published else []
    if not archives or len(published) < len(archives):
        try:
            load(entry.data_set, root, entry.split)
        except UserError as error:
            return replace(entry, state=DataState.DAMAGED, advice=str(error))
        unreadable = _unreadable(f'opening {entry.data_set} {entry.split}', listed.samples)
        entry = replace(entry, opened=entry.images)
        if unreadable:
            advice = f'{len(unreadable):,} of {entry.images:,} images cannot be read: '
            return replace(entry, state=DataState.DAMAGED, advice=advice + unreadable[0])
        verified.append(f'{entry.images:,} images opened')
    return replace(entry, verified=', '.join(verified))


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
