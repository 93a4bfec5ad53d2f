"""ImageNet-1K as it is on people's disks: found, labelled, checked, and read.

    ROOT/{train,val}/WNID/*.JPEG                  class folders
    ROOT/ILSVRC/Data/CLS-LOC/{train,val}/...      the same under Kaggle's folders
    ROOT/[val/]ILSVRC2012_val_*.JPEG              as released: flat, with its labels in a file
    ROOT/{train,val}/NAME/*.jpg                   another data set, in class folders of any name

or, where there are no such folders, in archives, which are read in place:

    ROOT/ILSVRC2012_img_{train,val}.tar           as released: flat val, and a tar of each class
    ROOT/imagenet*.zip, ROOT/ILSVRC*.tar, ...     Kaggle's zip, or the folders above in an archive
    ROOT/*{train,val}*-0000.tar, ...              shards, WebDataset's or the Hub's parquet: see
    ROOT/[data/]{train,validation}-*.parquet      `datasets.shards`

ROOT may also be the folder above, with ImageNet in ROOT/imagenet.

The labels of flat images come from the devkit (`ILSVRC2012_validation_ground_truth.txt` and
`meta.mat`, also in `ILSVRC2012_devkit_t12.tar.gz`) or from a text file of `name wnid` lines.
`datasets.classes` says how classes are numbered. A data set of other classes is never complete, so
nothing measured on it is compared with the paper.
"""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from datasets.classes import NUM_CLASSES, WNID, imagenet_classes, number_classes
from datasets.flat_labels import flat_labels
from datasets.shards import find_shards
from datasets.stores import AnyPath, StoredPath, open_archive
from datasets.subset import Split, check_request, evenly_spaced, left_out
from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.wording import by_number, shortened

NUM_IMAGES = {'train': 1_281_167, 'val': 50_000}
VAL_IMAGES_PER_CLASS = 50

# The names of ImageNet's folder inside one that holds several data sets.
_NAMES = ('imagenet', 'ImageNet', 'imagenet-1k', 'ILSVRC2012')

_FLAT = re.compile(r'ILSVRC2012_val_\d{8}\.JPEG')
_SUFFIXES = ('.jpeg', '.jpg', '.png')
_KAGGLE = 'ILSVRC/Data/CLS-LOC'

# Archives of one split, and of several; other archives of a folder are not opened.
_SPLIT_ARCHIVE = r'(?:ILSVRC2012_img_)?{split}\.(?:tar|zip)'
_ARCHIVE = re.compile(
    r'(?!ILSVRC2012_(?:img|bbox|devkit|Task)_?|.*(?:train|val|validation)[-_.]?\d+\.tar)'
    r'(?:imagenet|ILSVRC).*\.(?:tar|zip)',
    re.IGNORECASE,
)

# Folders that file systems and archives leave behind; they often cannot be read.
_LEFT_BY_SYSTEMS = {
    *('lost+found', '__MACOSX', '@eaDir', '#recycle', '$RECYCLE.BIN', 'System Volume Information')
}


@dataclass(frozen=True)
class ImageNet(Split):
    """One split of a classification data set; its samples are ordered by class and name.

    The names of the classes are WordNet ids, or the names of the class folders. The fingerprint
    covers the class, the name and the size in bytes of every image.

    Attributes:
        notes: sentences that a record of an evaluation shows as warnings.
    """

    notes: tuple[str, ...] = ()


class _Found(NamedTuple):
    """What is in a folder.

    Attributes:
        images: each with its size in bytes and the name of its class.
        names: of the classes.
        left_out: a phrase for what is not an image.
    """

    images: list[tuple[AnyPath, int, str]]
    names: list[str]
    left_out: list[str]


# The content of a folder by name: each path with the size of a file in bytes, -1 for a folder, and
# None for a link to nothing, a pipe, ...
_Entries = dict[str, tuple[AnyPath, int | None]]


def load(root: Path, split: str = 'val', limit: int | None = None) -> ImageNet:
    """Find the images of `split` under `root`, label them and check that none is missing.

    Args:
        root: the folder in one of the layouts above.
        split: 'val' or 'train'.
        limit: take only that many images, evenly spaced over the classes.

    Raises:
        DataNotFound: if there is no image in the folder.
        UserError: if there is no such folder or split, the limit is below 1, an image is there
            twice, something cannot be read, or the labels of flat images are missing, unreadable
            or do not fit the images.
    """
    root = Path(root)
    check_request('ImageNet', root, f'{split}/WNID/*.JPEG', split, NUM_IMAGES, limit)
    images, names, problems = _find(root, split)

    classes, index = number_classes(set(names))
    own = classes != imagenet_classes()
    if foreign := sorted(set(names) - index.keys()):
        problems.append(f'left out, as they are not classes of ImageNet-1K: {shortened(foreign)}')
    found = [(index[name], path.name, path, size) for path, size, name in images if name in index]
    found.sort(key=lambda image: image[:2])
    if not found:
        raise DataNotFound(f'the class folders of {split} in {root} hold no image: restore them.')
    for (label, name, path, _), (next_label, next_name, other, _) in pairwise(found):
        if (label, name) == (next_label, next_name):
            raise UserError(f'{path} and {other} have one name: expected each image once.')
    problems += _problems(split, classes, own, Counter(label for label, *_ in found))
    taken = evenly_spaced(found, limit)
    problems += left_out(len(taken), len(found))
    notes = ()
    if own and len(classes) == NUM_CLASSES:
        notes = (
            f'The {NUM_CLASSES:,} classes of {root} are numbered in the order of their names, '
            "which is not ImageNet-1K's order: for that, name their folders by WordNet ids or by "
            f'numbers from 0 to {NUM_CLASSES - 1}.',
        )
    label, _, first, _ = taken[0]
    in_class = not isinstance(first, StoredPath) and first.parent.name == classes[label]
    return ImageNet(
        root=root,
        split=split,
        samples=[(path, label) for label, _, path, _ in taken],
        classes=classes,
        problems=tuple(problems),
        fingerprint=_fingerprint(taken, classes),
        sources=(first.parent.parent if in_class else first.parent,),
        notes=notes,
    )


survey = load


def _fingerprint(images: Sequence[tuple[int, str, AnyPath, int]], classes: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for label, name, path, size in images:
        try:
            digest.update(f'{label} {classes[label]}/{name} {size}\n'.encode())
        except UnicodeEncodeError as error:
            where = path.parent
            if isinstance(path, StoredPath):
                where = path.store.paths[path.member.part]
            raise UserError(
                f'the name {classes[label]}/{name!a} in {where} is not in UTF-8: rename it.'
            ) from error
    return digest.hexdigest()[:16]


def _find(root: Path, split: str) -> _Found:
    """Return the labelled images of the first folder or archive in or below `root` that has any."""
    bases = [base for base in (root, *(root / name for name in _NAMES)) if base.is_dir()]
    kaggle = f'{_KAGGLE}/{split}'
    folders = [(base / place, (root, base)) for base in bases for place in (split, kaggle, '.')]
    if found := _first_found(split, folders, [base / split for base in bases]):
        return found
    in_archives = [
        (top / place, (root, base, top))
        for base in bases
        for path, of_split in _archives(base, split)
        for top in _tops(open_archive(path))
        for place in ((split, '.') if of_split else (split, kaggle))
    ]
    if found := _first_found(split, in_archives, [folder for folder, _ in in_archives]):
        return found
    for base in bases:
        if stored := find_shards(base, split):
            images = [(path, path.member.size, name) for path, name in stored]
            return _Found(images, [name for *_, name in images], [])
    flat = ' or ILSVRC2012_val_*.JPEG' if split == 'val' else ''
    raise DataNotFound(
        f'no ImageNet images in {root}: expected class folders {split}/WNID/*.JPEG{flat}, the '
        f'archive ILSVRC2012_img_{split}.tar, or two or more class folders of other names with '
        f'*.jpg, *.jpeg or *.png in {split}; name the folder that holds them.'
    )


def _first_found(
    split: str, places: Sequence[tuple[AnyPath, tuple[AnyPath, ...]]], named: Sequence[AnyPath]
) -> _Found | None:
    """Return the labelled images of the first folder that has any.

    Args:
        places: folders that may hold WordNet ids or flat images, each with the folders that may
            hold the labels of the latter.
        named: folders that may hold class folders of any name. The folder that was asked for itself
            is none of them: its folders may be anything.
    """
    for folder, around in places:
        entries = _entries(folder)
        if any(size == -1 and WNID.fullmatch(name) for name, (_, size) in entries.items()):
            return _in_class_folders({n: e for n, e in entries.items() if WNID.fullmatch(n)})
        flat = {name: entry for name, entry in entries.items() if _FLAT.fullmatch(name)}
        if split == 'val' and flat:
            labels, wnids = flat_labels((*around, folder, folder.parent), flat)
            return _Found([_labelled(e, labels[name]) for name, e in flat.items()], wnids, [])
    for folder in named:
        # A folder without an image is not a class, and a single folder with images is more likely
        # the `images` of a detection data set.
        found = _in_class_folders(
            {n: e for n, e in _entries(folder).items() if n not in _LEFT_BY_SYSTEMS}, False
        )
        if len(found.names) > 1:
            return found
    return None


def _in_class_folders(entries: _Entries, by_wnid: bool = True) -> _Found:
    """Return the images in class folders.

    Args:
        entries: the folders; other files are ignored unless the names are WordNet ids.
        by_wnid: whether they are. If not, folders without an image are not classes.
    """
    images, names, others = [], [], []
    for name, (path, size) in entries.items():
        if size is None or (by_wnid and size >= 0):
            raise _inaccessible(path, 'it is not a class folder')
        files = {n: e for n, e in _entries(path).items() if e[1] != -1} if size == -1 else {}
        found = {n: e for n, e in files.items() if n.lower().endswith(_SUFFIXES)}
        if found or (by_wnid and size == -1):
            images += [_labelled(entry, name) for entry in found.values()]
            names.append(name)
            others += [f'{name}/{n}' for n in files if n not in found]
    left_out = [f'files that are not *.jpg, *.jpeg or *.png, left out: {shortened(others)}']
    return _Found(images, names, left_out if others and not by_wnid else [])


def _archives(folder: Path, split: str) -> Iterator[tuple[Path, bool]]:
    """Yield the archives in `folder` that may hold the split, and whether it is all they hold."""
    of_split = re.compile(_SPLIT_ARCHIVE.format(split=split))
    files = {name: path for name, (path, size) in _entries(folder).items() if size != -1}
    yield from ((path, True) for name, path in files.items() if of_split.fullmatch(name))
    yield from ((path, False) for name, path in files.items() if _ARCHIVE.fullmatch(name))


def _tops(root: StoredPath) -> list[StoredPath]:
    """Return the root of an archive, and the folder that is all that it holds."""
    entries = list(root.iterdir())
    return [root, *(e for e in entries if len(entries) == 1 and e.is_dir())]


def _entries(folder: AnyPath) -> _Entries:
    """Return the content of a folder by name, without what is hidden; nothing if it is none."""
    if not folder.is_dir():
        return {}
    if isinstance(folder, StoredPath):
        found = {e.name: (e, -1 if e.is_dir() else e.member.size) for e in folder.iterdir()}
    else:
        try:
            with os.scandir(folder) as entries:
                found = {entry.name: (Path(entry.path), _size(entry)) for entry in entries}
        except OSError as error:
            raise _inaccessible(folder, error.strerror) from error
    return {name: entry for name, entry in sorted(found.items()) if name[0] != '.'}


def _size(entry: os.DirEntry) -> int | None:
    try:
        if entry.is_dir():
            return -1
        status = entry.stat()
    except OSError:  # a link to nothing, or to itself
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _labelled(entry: tuple[AnyPath, int | None], name: str) -> tuple[AnyPath, int, str]:
    path, size = entry
    if size is None:
        raise _inaccessible(path, 'it is not a regular file, or is a link to nothing')
    return path, size, name


def _inaccessible(path: AnyPath, reason: str) -> UserError:
    return UserError(f'cannot read {path}: {reason}; make it readable, or remove it.')


def _problems(split: str, classes: Sequence[str], own: bool, count: Counter[int]) -> list[str]:
    """Return a phrase for each difference of the images from those of ImageNet-1K's split.

    Args:
        classes: the names of the classes.
        own: whether they are other classes than ImageNet-1K's.
        count: the number of images of each class index.
    """
    problems = []
    missing = [name for i, name in enumerate(classes) if i not in count]
    if own:
        problems.append(
            f"{len(classes):,} classes of its own instead of ImageNet-1K's {NUM_CLASSES:,}"
        )
    if missing:
        problems.append(
            f'{len(classes) - len(missing):,} of {len(classes):,} classes: '
            f'{shortened(missing)} {by_number(missing, "is", "are")} missing'
        )
    if count.total() != NUM_IMAGES[split]:
        problems.append(f'{count.total():,} images instead of {NUM_IMAGES[split]:,}')
    if split == 'val' and not own:
        uneven = [
            f'{classes[i]} ({n})' for i, n in sorted(count.items()) if n != VAL_IMAGES_PER_CLASS
        ]
        if uneven:
            problems.append(
                f'not {VAL_IMAGES_PER_CLASS} images in every class: {shortened(uneven)}'
            )
    return problems
