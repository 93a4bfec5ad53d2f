"""ImageNet-1K as it lies on people's disks: found, labelled, checked, and read.

    ROOT/{train,val}/WNID/*.JPEG                  class folders
    ROOT/ILSVRC/Data/CLS-LOC/{train,val}/...      the same under Kaggle's folders
    ROOT/[val/]ILSVRC2012_val_*.JPEG              as released: flat, with its labels in a file
    ROOT/{train,val}/NAME/*.jpg                   another data set, in class folders of any name

or in archives, which are read as they are where there are no such folders:

    ROOT/ILSVRC2012_img_{train,val}.tar           as released: flat val, and a tar of each class
    ROOT/imagenet*.zip, ROOT/ILSVRC*.tar, ...     Kaggle's zip, or the folders above in an archive
    ROOT/*{train,val}*-0000.tar, ...              shards, WebDataset's or the Hub's parquet: see
    ROOT/[data/]{train,validation}-*.parquet      `datasets.labelled_shards`

ROOT may also be the folder above, with ImageNet in ROOT/imagenet.

The labels of flat images come from the devkit (`ILSVRC2012_validation_ground_truth.txt` and
`meta.mat`, also in `ILSVRC2012_devkit_t12.tar.gz`) or from a text file of `name wnid` lines.
Class i is the i-th WordNet id in sorted order. A folder that holds some classes of ImageNet-1K
keeps their indices among the 1,000; one that holds none of them has classes of its own, numbered in
sorted order. Such a data set is never complete, so that nothing measured on it is compared with the
paper.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.image_files import DECODING_ERRORS, pillow_source, unreadable
from datasets.labelled_shards import find_shards
from datasets.stores import AnyPath, StoredPath, compact, in_order_of_storage, open_archive
from datasets.subset import check_request, evenly_spaced
from datasets.survey import Survey
from datasets.text_files import read_text
from datasets.wordnet_ids import WNID, imagenet_classes
from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.wording import by_number, shortened

NUM_CLASSES = 1000
NUM_IMAGES = {'train': 1_281_167, 'val': 50_000}
VAL_IMAGES_PER_CLASS = 50

# The names of ImageNet's folder inside one that holds several data sets.
_NAMES = ('imagenet', 'ImageNet', 'imagenet-1k', 'ILSVRC2012')

_FLAT = re.compile(r'ILSVRC2012_val_(\d{8})\.JPEG')
_SUFFIXES = {'.jpeg', '.jpg', '.png'}
_GROUND_TRUTH = 'ILSVRC2012_validation_ground_truth.txt'
_META = 'meta.mat'
_LABEL_FILES = ('val_labels.txt', 'ILSVRC2012_val.txt', 'val.txt', 'LOC_val_solution.csv')
_DEVKIT = ('.', 'data', 'ILSVRC2012_devkit_t12/data', 'devkit/data', 'devkit')
_DEVKIT_ARCHIVE = 'ILSVRC2012_devkit_t12.tar.gz'
_KAGGLE = 'ILSVRC/Data/CLS-LOC'

# Archives of one split, and of several; other archives of a folder are not opened.
_SPLIT_ARCHIVE = r'(?:ILSVRC2012_img_)?{split}\.(?:tar|zip)'
_ARCHIVE = re.compile(
    r'(?!ILSVRC2012_(?:img|bbox|devkit|Task)_?|.*(?:train|val|validation)[-_.]?\d+\.tar)'
    r'(?:imagenet|ILSVRC).*\.(?:tar|zip)',
    re.IGNORECASE,
)

# An image that belongs into a class folder, in val or in train.
_UNSORTED = re.compile(r'(ILSVRC2012_val_\d{8}|n\d{8}_\d+)\.JPEG')

# What systems and archives leave in a folder: it is no class, and often cannot be read.
_LEFT_BY_SYSTEMS = {
    *('lost+found', '__MACOSX', '@eaDir', '#recycle', '$RECYCLE.BIN', 'System Volume Information')
}


@dataclass(frozen=True)
class ImageNet:
    """One split: its images with their class indices, and why it is not the complete one.

    Attributes:
        root: the folder that was asked for.
        split: 'val' or 'train'.
        samples: the file and the class index of each image, ordered by class and name.
        classes: the name of every class, sorted: WordNet ids, or the names of the class folders.
        complete: whether this is all of ImageNet-1K's split.
        problems: a phrase for each thing that is missing, extra or left out; none when complete.
        notes: a sentence for what was left out and says nothing about the images.
        fingerprint: 16 hex digits of a SHA-256 over every image's class, name and size in bytes.
            It does not depend on where the files lie, in which of the layouts, or in which archive.
    """

    root: Path
    split: str
    samples: Sequence[tuple[AnyPath, int]]
    classes: tuple[str, ...]
    complete: bool
    problems: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()


class _LabelledFile(NamedTuple):
    """A file with its size in bytes and the name of its class."""

    path: AnyPath
    size: int
    name: str

    @property
    def is_image(self) -> bool:
        return self.path.suffix.lower() in _SUFFIXES


class _Found(NamedTuple):
    """The images of a folder, the names of their classes, and what was left out.

    Attributes:
        left_out: a phrase for each kind of things that could be meant as images of the data set.
        notes: a sentence for those that could not.
    """

    images: list[_LabelledFile]
    names: list[str]
    left_out: list[str]
    notes: tuple[str, ...] = ()


def load(root: Path, split: str = 'val', limit: int | None = None) -> ImageNet:
    """Find the images of `split` under `root`, label them and check that none is missing.

    Args:
        root: the folder in one of the layouts above.
        split: 'val' or 'train'.
        limit: take only that many images, evenly spaced over the classes.

    Raises:
        DataNotFound: if there is no image in the folder.
        UserError: if there is no such folder or split, the limit is below 1, the folder of a
            WordNet id is empty or images lie beside it, something cannot be read, or the labels of
            flat images are missing, unreadable or do not fit the images.
    """
    root = Path(root)
    check_request('ImageNet', root, f'{split}/WNID/*.JPEG', split, NUM_IMAGES, limit)
    images, names, problems, notes = _find(root, split)

    imagenet = imagenet_classes()
    own = set(names).isdisjoint(imagenet)
    classes = tuple(sorted(set(names))) if own else imagenet
    if foreign := sorted(set(names) - set(classes)):
        problems.append(f"no class of ImageNet-1K's, and left out: {shortened(foreign)}")
    index = {name: i for i, name in enumerate(classes)}
    found = sorted(
        (index[name], path.name, path, size) for path, size, name in images if name in index
    )
    problems += _problems(split, classes, own, Counter(label for label, *_ in found))
    taken = evenly_spaced(found, limit)
    if len(taken) < len(found):
        problems.append(f'{len(taken):,} of {len(found):,} images were asked for')
    digest = hashlib.sha256()
    for label, name, _, size in taken:
        try:
            digest.update(f'{label} {classes[label]}/{name} {size}\n'.encode())
        except UnicodeEncodeError as error:
            raise UserError(
                f'the name {classes[label]}/{name!a} is not in UTF-8: rename it.'
            ) from error
    return ImageNet(
        root=root,
        split=split,
        samples=compact([(path, label) for label, _, path, _ in taken]),
        classes=classes,
        complete=not problems,
        problems=tuple(problems),
        fingerprint=digest.hexdigest()[:16],
        notes=notes,
    )


def survey(root: Path, split: str = 'val') -> Survey:
    """Return what lies there of `split`, as `load` finds it; no image is opened.

    Raises:
        DataNotFound, UserError: as `load` does.
    """
    data = load(root, split)
    first, label = data.samples[0]
    if isinstance(first, StoredPath):
        place, form, archives = first.store.path, first.store.form, first.store.paths
    else:
        sorted_by_class = first.parent.name == data.classes[label]
        place = first.parent.parent if sorted_by_class else first.parent
        form, archives = 'class folders' if sorted_by_class else 'one folder', ()
    return Survey(
        split=split,
        place=place,
        form=form,
        samples=in_order_of_storage(data.samples),
        expected=NUM_IMAGES[split],
        problems=data.problems,
        archives=archives,
        notes=data.notes,
    )


def open_image(path: AnyPath) -> Image.Image:
    """Return the whole image at `path`, decoded, in RGB, as its pixels lie.

    The EXIF orientation is ignored. The format is recognised by the content and not by the name:
    ImageNet has a PNG and CMYK JPEGs under `.JPEG`.

    Raises:
        UserError: if the file is missing, truncated or not an image.
    """
    try:
        with Image.open(pillow_source(path)) as image:
            return image.convert('RGB')
    except DECODING_ERRORS as error:
        raise unreadable('image', path, error) from error


def _find(root: Path, split: str) -> _Found:
    """Return the labelled images of the first folder or archive in or below `root` that has any."""
    bases = [base for base in (root, *(root / name for name in _NAMES)) if base.is_dir()]
    kaggle = f'{_KAGGLE}/{split}'
    folders = [(base, (split, kaggle, '.')) for base in bases]
    if (found := _in_any(root, split, folders)) is not None:
        return found
    archives = [
        (open_archive(path), (split, '.') if of_split else (split, kaggle))
        for base in bases
        for path, of_split in _archives(base, split)
    ]
    if (found := _in_any(root, split, archives)) is not None:
        return found
    for base in bases:
        if (shards := find_shards(base, split)) is not None:
            folders, missing = shards
            if found := _in_any(root, split, [(folders, ('.',))]):
                return found._replace(left_out=[*found.left_out, *missing])
    flat = ' or ILSVRC2012_val_*.JPEG' if split == 'val' else ''
    raise DataNotFound(
        f'no ImageNet images in {root}: expected class folders {split}/WNID/*.JPEG{flat}, the '
        f'archive ILSVRC2012_img_{split}.tar, or two or more class folders of other names with '
        f'*.jpg, *.jpeg or *.png in {split}; name the folder that holds them.'
    )


def _in_any(
    root: Path, split: str, bases: Sequence[tuple[AnyPath, tuple[str, ...]]]
) -> _Found | None:
    """Return the labelled images of the first of some places that has any.

    Args:
        bases: folders or roots of archives, each with the places in it that may hold the split.
    """
    for base, places in bases:
        for place in places:
            folder = base / place
            if not folder.is_dir():
                continue
            entries = _scanned(folder)
            if any(WNID.fullmatch(entry.name) and _is_folder(entry) for entry in entries):
                return _in_wnid_folders(folder)
            flat = sorted(entry.name for entry in entries if _FLAT.fullmatch(entry.name))
            if split == 'val' and flat:
                labels, wnids = _flat_labels(_around(root, base, folder), flat)
                images = [
                    _LabelledFile(_path(entry), _size(entry), labels[entry.name])
                    for entry in entries
                    if entry.name in labels
                ]
                return _Found(images, wnids, [])
    for base, places in bases:
        # The folder that was asked for itself is no split: its folders may be anything.
        for place in places if isinstance(base, StoredPath) else (split,):
            if (found := _in_named_folders(base / place)) is not None:
                return found
    return None


def _archives(folder: Path, split: str) -> Iterator[tuple[Path, bool]]:
    """Yield the archives in `folder` that may hold the split, and whether it is all they hold."""
    of_split = re.compile(_SPLIT_ARCHIVE.format(split=split))
    names = sorted(entry.name for entry in _scanned(folder) if not _is_folder(entry))
    for name in names:
        if of_split.fullmatch(name):
            yield folder / name, True
    for name in names:
        if _ARCHIVE.fullmatch(name):
            yield folder / name, False


def _around(root: Path, base: AnyPath, folder: AnyPath) -> dict[AnyPath, None]:
    """Return the places that the labels of the flat images in `folder` may lie in."""
    places: list[AnyPath] = [root, base, folder, folder.parent]
    if isinstance(base, StoredPath):
        places.append(base.store.path.parent)
    archives = [place / _DEVKIT_ARCHIVE for place in places]
    return dict.fromkeys(
        [*places, *(open_archive(p) for p in archives if isinstance(p, Path) and p.is_file())]
    )


def _in_wnid_folders(folder: AnyPath) -> _Found:
    """Return the images in the folders that are named by a WordNet id."""
    entries = _scanned(folder)
    if unsorted := sorted(e.name for e in entries if _UNSORTED.fullmatch(e.name)):
        raise UserError(
            f'{folder} holds {len(unsorted):,} {by_number(unsorted, "image", "images")} beside its '
            f'class folders ({shortened(unsorted, 1)}): move each into the folder of its class.'
        )
    wnids = [e.name for e in entries if WNID.fullmatch(e.name) and _is_folder(e, strict=True)]
    others = [e.name for e in entries if e.name not in wnids and _is_folder(e)]
    images = []
    for wnid in wnids:
        found = [file for file in _visible_files(folder / wnid) if file.is_image]
        if not found:
            raise UserError(
                f'the class folder {folder / wnid} holds no image: expected *.JPEG; '
                'restore its images or remove the folder.'
            )
        images += found
    meant, notes = _irrelevant(folder, others)
    left_out = [f"no folder of ImageNet-1K's, and left out: {shortened(meant)}"] if meant else []
    return _Found(images, wnids, left_out, notes)


def _irrelevant(folder: AnyPath, others: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return those of the folders `others` that hold images, and a sentence on the rest.

    What systems and archives leave behind is none of them, whatever it holds.
    """
    meant = [
        name
        for name in others
        if name not in _LEFT_BY_SYSTEMS and any(f.is_image for f in _visible_files(folder / name))
    ]
    rest = [name for name in others if name not in meant]
    return meant, (f'Left out of {folder}, for no images: {shortened(rest)}.',) if rest else ()


def _in_named_folders(folder: AnyPath) -> _Found | None:
    """Return the images in class folders of any name; None if fewer than two folders have any.

    A folder without an image is not a class: archives and file systems leave such folders behind.
    A single folder with images is more likely the `images` of a detection data set than a class.
    """
    if not folder.is_dir():
        return None
    folders = [entry.name for entry in _scanned(folder) if _is_folder(entry, strict=True)]
    readable = [name for name in folders if name not in _LEFT_BY_SYSTEMS]
    files = [file for name in readable for file in _visible_files(folder / name)]
    images = [file for file in files if file.is_image]
    names = sorted({image.name for image in images})
    if len(names) < 2:
        return None
    left_out = []
    _, notes = _irrelevant(folder, [name for name in folders if name not in names])
    others = {f'{f.name}/{f.path.name}' for f in files if f.name in names and not f.is_image}
    if others:
        left_out.append(
            f'files that are not *.jpg, *.jpeg or *.png, left out: {shortened(sorted(others))}'
        )
    return _Found(images, names, left_out, notes)


# What lies in a folder: of an archive, it is a path.
_Entry = os.DirEntry | StoredPath


def _path(entry: _Entry) -> AnyPath:
    return entry if isinstance(entry, StoredPath) else Path(entry.path)


def _scanned(folder: AnyPath) -> list[_Entry]:
    """Return what lies in `folder`, by name, without what is hidden."""
    if isinstance(folder, StoredPath):
        return [entry for entry in folder.iterdir() if entry.name[0] != '.']
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if e.name[0] != '.'), key=lambda e: e.name)
    except OSError as error:
        raise _inaccessible(error) from error


def _is_folder(entry: _Entry, strict: bool = False) -> bool:
    """Return whether this is a folder, or a link to one; a link to nothing is none.

    Raises:
        UserError: if it is such a link and `strict`.
    """
    try:
        if entry.is_dir():
            return True
        if strict and entry.is_symlink():
            entry.stat()
    except OSError as error:
        if strict:
            raise _inaccessible(error) from error
    return False


def _size(entry: _Entry) -> int:
    try:
        return entry.stat().st_size
    except OSError as error:  # a link to a file that is not there, or to itself
        raise _inaccessible(error) from error


def _visible_files(folder: AnyPath) -> list[_LabelledFile]:
    """Return the files that lie directly in `folder`, labelled by its name."""
    return [
        _LabelledFile(_path(entry), _size(entry), folder.name)
        for entry in _scanned(folder)
        if not _is_folder(entry)
    ]


def _inaccessible(error: OSError) -> UserError:
    return UserError(
        f'cannot read {error.filename}: {error.strerror}; make it readable, or remove it from the '
        'data.'
    )


def _flat_labels(
    places: Collection[AnyPath], names: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the WordNet id of every flat image by its name, and all ids that have a label.

    Args:
        places: the folders that the labels may lie in, the first of which is the one asked for.
        names: of the images.
    """
    if ground_truth := _first_file(p / d / _GROUND_TRUTH for p in places for d in _DEVKIT):
        meta = _first_file(
            (ground_truth.parent / _META, *(p / d / _META for p in places for d in _DEVKIT))
        )
        if meta is None:
            raise UserError(
                f'{ground_truth} numbers the classes in an order that only the devkit knows: '
                f"expected its {_META} beside it; copy it from the devkit's data folder."
            )
        return _devkit_labels(ground_truth, meta, names)
    if path := _first_file(place / name for place in places for name in _LABEL_FILES):
        return _listed_labels(path, names)
    raise UserError(
        f'{shortened(names, 1)} are not in class folders and have no labels: expected '
        f"the devkit's {_GROUND_TRUTH} and {_META}, or {_LABEL_FILES[0]} of 'name wnid' lines, "
        f'in {next(iter(places))}.'
    )


def _devkit_labels(
    ground_truth: AnyPath, meta: AnyPath, names: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    # Only the devkit's own labels need SciPy, which takes as long to import as all the rest.
    import scipy.io
    from scipy.io.matlab import MatReadError

    try:
        synsets = np.atleast_1d(
            scipy.io.loadmat(BytesIO(meta.read_bytes()), squeeze_me=True)['synsets']
        )
        wnids = {
            int(s['ILSVRC2012_ID']): str(s['WNID']) for s in synsets if not int(s['num_children'])
        }
    except (MatReadError, OSError, KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(
            f'cannot read the classes in {meta}: {error}; copy it from the devkit again.'
        ) from error
    ids = read_text(ground_truth).split()
    if len(ids) != len(names):
        raise UserError(
            f'{ground_truth} has {len(ids):,} labels for {len(names):,} images: expected one for '
            'each; complete the images, or label the ones there are in '
            f"{_LABEL_FILES[0]} of 'name wnid' lines instead."
        )
    unknown = next((i for i in ids if not i.isdecimal() or int(i) not in wnids), None)
    if unknown is not None:
        raise UserError(
            f"{ground_truth} has the label '{unknown}', which is no class of {meta}: "
            'take both from the same devkit.'
        )
    labels = {f'ILSVRC2012_val_{number:08d}.JPEG': wnids[int(i)] for number, i in enumerate(ids, 1)}
    _check_labels(ground_truth, labels, names)
    return labels, sorted(wnids.values())


def _listed_labels(path: AnyPath, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    labels = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.replace(',', ' ').split()
        if not fields or fields[0] == 'ImageId':
            continue
        if len(fields) < 2 or not WNID.fullmatch(fields[1]):
            raise UserError(
                f"line {number} of {path} is '{line}': expected an image's name and its WordNet "
                'id, as in ILSVRC2012_val_00000001.JPEG n01751748.'
            )
        name = fields[0].rsplit('/', 1)[-1]
        labels[name if name.endswith('.JPEG') else f'{name}.JPEG'] = fields[1]
    _check_labels(path, labels, names)
    return labels, sorted(set(labels.values()))


def _check_labels(path: AnyPath, labels: dict[str, str], names: Sequence[str]) -> None:
    if missing := sorted(set(labels) - set(names)):
        raise UserError(
            f'{path} labels {shortened(missing, 1)}, which {by_number(missing, "is", "are")} not '
            'there: expected an image for every label; restore the images or remove the labels.'
        )
    if unlabelled := sorted(set(names) - set(labels)):
        raise UserError(
            f'{path} has no label for {shortened(unlabelled, 1)}: '
            'expected one for every image; complete it.'
        )


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


def _first_file(paths: Iterable[AnyPath]) -> AnyPath | None:
    return next((path for path in paths if path.is_file()), None)
