"""The data sets in a folder: which are there, in which form, and whether they are whole."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets import load
from datasets.checksums import Checksum, computed, published
from datasets.image_files import check_whole
from datasets.stores import AnyPath
from datasets.survey import Survey
from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.wording import shortened
from reproduce.base.worker_pool import worker_pool

DATA_SETS = ('imagenet', 'coco', 'ade20k')
SPLITS = ('train', 'val')

# What the labels of flat images may come from, beside their archive.
_DEVKIT = 'ILSVRC2012_devkit_t12.tar.gz'

# Images that a process opens at a time, and how many are not worth starting processes.
_CHUNK, _FEW = 256, 1024


class DataState(StrEnum):
    """What is known of a split."""

    COMPLETE = 'complete'
    INCOMPLETE = 'incomplete'  # what is measured on it is marked as of a part
    MISSING = 'missing'
    UNUSABLE = 'unusable'  # it is there, and cannot be read
    DAMAGED = 'damaged'  # it is there, and verification found it to be damaged


@dataclass(frozen=True)
class ArchiveCheck:
    """A file of an archive, and its checksum.

    Attributes:
        path: the file.
        published: what it has to hash to; None if that is published nowhere known.
        found: what it hashes to; None if there is nothing to compare it with.
    """

    path: Path
    published: Checksum | None
    found: str | None

    @property
    def matches(self) -> bool:
        """Whether it is the file that was published."""
        return self.published is not None and self.found == self.published.digest


@dataclass(frozen=True)
class InventoryEntry:
    """A split of a data set in a folder.

    Attributes:
        data_set: one of `DATA_SETS`.
        split: one of `SPLITS`.
        state: what is known of it.
        survey: what lies there; None if that is nothing, or unusable.
        advice: a sentence on what to do, or on what a part is good for; '' if all is well.
        archives: the archives' checksums, if they were verified.
        opened: the number of images that were opened and decoded, if they were.
    """

    data_set: str
    split: str
    state: DataState
    survey: Survey | None = None
    advice: str = ''
    archives: tuple[ArchiveCheck, ...] = ()
    opened: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as JSON has it."""
        survey = self.survey
        return {
            'data_set': self.data_set,
            'split': self.split,
            'state': self.state.value,
            'form': survey and survey.form,
            'place': survey and str(survey.place),
            'images': survey and len(survey.samples),
            'expected': survey and survey.expected,
            'problems': list(survey.problems) if survey else [],
            'notes': list(survey.notes) if survey else [],
            'advice': self.advice,
            'archives': [
                {
                    'path': str(check.path),
                    'algorithm': check.published and check.published.algorithm,
                    'published': check.published and check.published.digest,
                    'source': check.published and check.published.source,
                    'found': check.found,
                }
                for check in self.archives
            ],
            'opened': self.opened,
        }


def take_inventory(root: Path, verify: bool = False) -> list[InventoryEntry]:
    """Return what `root` holds of each split of each data set.

    Args:
        root: the folder of a data set, or of several.
        verify: hold whole archives to their published checksums; of all else, check what is checked
            before an evaluation, and open every image.

    Raises:
        UserError: if there is no such folder, or it holds none of the data sets.
    """
    if not root.is_dir():
        raise UserError(f'{root} is not a folder: name the one that holds the data sets.')
    entries = [_look(root, data_set, split) for data_set in DATA_SETS for split in SPLITS]
    if all(entry.state is DataState.MISSING for entry in entries):
        raise DataNotFound(' '.join(e.advice for e in entries if e.split == 'val'))
    if not verify:
        return entries
    known: dict[Path, ArchiveCheck] = {}
    return [entry if entry.survey is None else _verified(root, entry, known) for entry in entries]


def _look(root: Path, data_set: str, split: str) -> InventoryEntry:
    try:
        survey = import_module(f'datasets.{data_set}').survey(root, split)
    except DataNotFound as error:
        return InventoryEntry(data_set, split, DataState.MISSING, advice=str(error))
    except UserError as error:
        return InventoryEntry(data_set, split, DataState.UNUSABLE, advice=str(error))
    if not survey.problems:
        return InventoryEntry(data_set, split, DataState.COMPLETE, survey)
    advice = f'{"; ".join(survey.problems)}: what is measured on it is marked as of a part.'
    return InventoryEntry(data_set, split, DataState.INCOMPLETE, survey, advice)


def _verified(root: Path, entry: InventoryEntry, known: dict[Path, ArchiveCheck]) -> InventoryEntry:
    """Return the entry with what its verification found.

    Args:
        known: the archives that were verified already, to which are added those of this entry.
    """
    archives = list(entry.survey.archives)
    devkit = entry.survey.place.parent / _DEVKIT
    if archives and entry.data_set == 'imagenet' and devkit.is_file():
        archives.append(devkit)
    for path in archives:
        if path not in known:
            known[path] = _checked(path)
    checks = tuple(known[path] for path in archives)
    entry = replace(entry, archives=checks)
    if wrong := [check for check in checks if check.published and not check.matches]:
        first = wrong[0]
        advice = (
            f'{first.path} has the {first.published.algorithm} {first.found}, and '
            f'{first.published.source} says {first.published.digest}: download it again.'
        )
        return replace(entry, state=DataState.DAMAGED, advice=advice)
    if checks and all(check.matches for check in checks):
        return entry
    samples = entry.survey.samples
    try:
        load(entry.data_set, root, entry.split)
    except UserError as error:
        return replace(entry, state=DataState.DAMAGED, advice=str(error))
    unreadable = list(_unreadable(f'{entry.data_set} {entry.split}', samples))
    entry = replace(entry, opened=len(samples))
    if not unreadable:
        return entry
    advice = f'{len(unreadable):,} of {len(samples):,} images cannot be read: {unreadable[0]}'
    return replace(entry, state=DataState.DAMAGED, advice=advice)


def _checked(path: Path) -> ArchiveCheck:
    checksum = published().get(path.name)
    return ArchiveCheck(path, checksum, checksum and computed(path, checksum.algorithm))


def _unreadable(name: str, samples: Sequence[tuple[AnyPath, ...]]) -> Iterable[str]:
    """Yield a sentence for each image that cannot be read whole, in the order of the samples."""
    chunks = [samples[i : i + _CHUNK] for i in range(0, len(samples), _CHUNK)]
    with tqdm(total=len(samples), desc=f'opening {name}', leave=False, disable=None) as bar:
        if len(samples) <= _FEW:
            for chunk in chunks:
                yield from _errors(chunk)
                bar.update(len(chunk))
            return
        with worker_pool() as pool:
            for chunk, errors in zip(chunks, pool.map(_errors, chunks), strict=True):
                yield from errors
                bar.update(len(chunk))


def _errors(samples: Sequence[tuple[AnyPath, ...]]) -> list[str]:
    errors = []
    for path, *_ in samples:
        try:
            check_whole(path)
        except UserError as error:
            errors.append(str(error))
    return errors


def sentences(entries: Sequence[InventoryEntry]) -> list[str]:
    """Return what to do, and what was left out, of each split; of a missing data set once."""
    lines = []
    for data_set in DATA_SETS:
        both = [entry for entry in entries if entry.data_set == data_set]
        if all(entry.state is DataState.MISSING for entry in both):
            lines.append(f'{data_set}: {both[-1].advice}')
            continue
        for entry in both:
            said = (entry.advice, *(entry.survey.notes if entry.survey else ()))
            lines += [f'{data_set} {entry.split}: {sentence}' for sentence in said if sentence]
    return lines


def in_short(entry: InventoryEntry) -> str:
    """Return what verification did, as a phrase; '' if there was none."""
    matching = [check.path.name for check in entry.archives if check.matches]
    done = [f'{shortened(matching)} as published'] if matching else []
    if entry.opened is not None:
        done.append(f'{entry.opened:,} images opened')
    return ', '.join(done)
