"""ImageNet-1K as it is on people's disks: found, labelled, checked, and read.

    ROOT/{train,val}/WNID/*.JPEG                  class folders
    ROOT/ILSVRC/Data/CLS-LOC/{train,val}/...      the same under Kaggle's folders
    ROOT/[val/]ILSVRC2012_val_*.JPEG              as released: flat, with its labels in a file
    ROOT/{train,val}/NAME/*.jpg                   another data set, in class folders of any name
    ROOT/ILSVRC2012_img_{train,val}.tar           as released: flat val, and a tar of each class
    ROOT/*{train,val}*-0000.tar, ...              WebDataset's shards: see `datasets.shards`

ROOT may also be the folder above, with ImageNet in ROOT/imagenet. The first form that is there is
taken, in this order.

The labels of flat images come from the devkit (`ILSVRC2012_validation_ground_truth.txt` and
`meta.mat`, also in `ILSVRC2012_devkit_t12.tar.gz`) or from a text file of `name wnid` lines.
`datasets.classes` says how classes are numbered. A data set of other classes is never complete, so
nothing measured on it is compared with the paper.
"""

import gzip
import hashlib
import io
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from pathlib import Path

from datasets.classes import WNID, imagenet_classes, number_classes
from datasets.shards import find_shards
from datasets.stores import AnyPath, StoredPath, open_archive
from datasets.subset import Split, check_folder, evenly_spaced, left_out
from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.files import naming_file
from reproduce.base.wording import by_number, shortened

NUM_IMAGES = {'train': 1_281_167, 'val': 50_000}
VAL_IMAGES_PER_CLASS = 50

# The names of ImageNet's folder inside one that holds several data sets.
_NAMES = ('imagenet', 'ImageNet', 'imagenet-1k', 'ILSVRC2012')

_FLAT = re.compile(r'ILSVRC2012_val_\d{8}\.JPEG')
_VISIBLE = re.compile(r'[^.].*')
_IMAGE = re.compile(r'[^.].*\.(?:jpeg|jpg|png)', re.IGNORECASE)

# Where the labels of flat images may be.
_GROUND_TRUTH = 'ILSVRC2012_validation_ground_truth.txt'
_META = 'meta.mat'
_DEVKIT = ('.', 'data', 'ILSVRC2012_devkit_t12/data', 'devkit/data', 'devkit')
DEVKIT_ARCHIVE = 'ILSVRC2012_devkit_t12.tar.gz'
_LABEL_FILES = ('val_labels.txt', 'ILSVRC2012_val.txt', 'val.txt', 'LOC_val_solution.csv')

# An image, its size in bytes, and the name of its class.
_Image = tuple[AnyPath, int, str]
# The labels of flat images by their names, and the names of all classes.
_Labels = tuple[dict[str, str], list[str]]


def load(root: Path, split: str = 'val', limit: int | None = None) -> Split:
    """Find the images of `split` under `root`, label them and check that none is missing.

    They are ordered by class and name. The fingerprint covers the class, the name and the size in
    bytes of every image.

    Args:
        root: the folder in one of the layouts above.
        split: 'val' or 'train'.
        limit: take only that many images, evenly spaced over the classes.

    Raises:
        DataNotFound: if there is no image in the folder.
        UserError: if there is no such folder, an image is there twice, or the labels of flat images
            are missing, unreadable or do not fit the images.
    """
    root = Path(root)
    check_folder(root, 'ImageNet', f'{split}/WNID/*.JPEG')
    images, names = _find(root, split)
    classes, index = number_classes(set(names))
    problems = []
    if foreign := sorted(set(names) - index.keys()):
        problems.append(f'left out, as they are not classes of ImageNet-1K: {shortened(foreign)}')
    found = [(index[name], path.name, path, size) for path, size, name in images if name in index]
    found.sort(key=lambda image: image[:2])
    if not found:
        raise DataNotFound(f'the class folders of {split} in {root} hold no image: restore them.')
    for (label, name, path, _), (next_label, next_name, other, _) in pairwise(found):
        if (label, name) == (next_label, next_name):
            raise UserError(f'{path} and {other} have one name: expected each image once.')
    problems += _problems(split, classes, Counter(label for label, *_ in found))
    taken = evenly_spaced(found, limit)
    digest = hashlib.sha256()
    with naming_file(root):  # a name that is not in UTF-8
        for label, name, _, size in taken:
            digest.update(f'{label} {classes[label]}/{name} {size}\n'.encode())
    label, _, first, _ = taken[0]
    in_class = not isinstance(first, StoredPath) and first.parent.name == classes[label]
    return Split(
        root=root,
        split=split,
        samples=[(path, label) for label, _, path, _ in taken],
        classes=classes,
        problems=(*problems, *left_out(len(taken), len(found))),
        fingerprint=digest.hexdigest()[:16],
        sources=(first.parent.parent if in_class else first.parent,),
    )


survey = load


def _find(root: Path, split: str) -> tuple[list[_Image], list[str]]:
    """Return the images of the first form that is in or below `root`, and their classes."""
    bases = [base for base in (root, *(root / name for name in _NAMES)) if base.is_dir()]
    for base in bases:
        for place in (split, f'ILSVRC/Data/CLS-LOC/{split}', '.'):
            folder = base / place
            if found := _with_wnids(folder, split, (root, base, folder, folder.parent)):
                return found
    for base in bases:
        # Not in the folder that was asked for itself: its folders may be anything. A folder without
        # an image is not a class, and a single folder with images is more likely the `images` of a
        # detection data set.
        images = _in_class_folders(_entries(base / split, _VISIBLE))
        names = sorted({name for *_, name in images})
        if len(names) > 1:
            return images, names
    for base in bases:
        archive = base / f'ILSVRC2012_img_{split}.tar'
        stored = open_archive(archive) if archive.is_file() else None
        if stored and (found := _with_wnids(stored, split, (root, base))):
            return found
        if shards := find_shards(base, split):
            images = [(path, path.member.size, name) for path, name in shards]
            return images, [name for *_, name in images]
    flat = ' or ILSVRC2012_val_*.JPEG' if split == 'val' else ''
    raise DataNotFound(
        f'no ImageNet images in {root}: expected class folders {split}/WNID/*.JPEG{flat}, the '
        f'archive ILSVRC2012_img_{split}.tar, or two or more class folders of other names with '
        f'*.jpg, *.jpeg or *.png in {split}; name the folder that holds them.'
    )


def _with_wnids(
    folder: AnyPath, split: str, around: Sequence[Path]
) -> tuple[list[_Image], list[str]] | None:
    """Return the images in class folders of WordNet ids, or flat ones, and the classes.

    The labels of flat images may be in one of the folders `around`.
    """
    if classes := _entries(folder, WNID):
        return _in_class_folders(classes), list(classes)
    flat = _entries(folder, _FLAT) if split == 'val' else {}
    if not flat:
        return None
    labels, wnids = _flat_labels(around, flat)
    return [(path, size, labels[name]) for name, (path, size) in flat.items()], wnids


def _in_class_folders(folders: dict[str, tuple[AnyPath, int]]) -> list[_Image]:
    return [
        (path, size, name)
        for name, (folder, _) in folders.items()
        for path, size in _entries(folder, _IMAGE).values()
        if size >= 0
    ]


def _entries(folder: AnyPath, names: re.Pattern[str]) -> dict[str, tuple[AnyPath, int]]:
    """Return what of these names is in a folder, with its size in bytes, -1 for a folder."""
    if not folder.is_dir():
        return {}
    if isinstance(folder, StoredPath):
        return {
            path.name: (path, path.member.size if path.is_file() else -1)
            for path in folder.iterdir()
            if names.fullmatch(path.name)
        }
    with os.scandir(folder) as found:
        entries = sorted((e for e in found if names.fullmatch(e.name)), key=lambda e: e.name)
        return {e.name: (Path(e.path), -1 if e.is_dir() else e.stat().st_size) for e in entries}


def _problems(split: str, classes: Sequence[str], count: Counter[int]) -> list[str]:
    """Return a phrase for each difference of the images, counted by class, from ImageNet-1K's."""
    problems = []
    own = classes != imagenet_classes()
    missing = [name for i, name in enumerate(classes) if i not in count]
    if own:
        problems.append(
            f'{len(classes):,} classes of its own, in the order of their names, instead of '
            "ImageNet-1K's 1,000"
        )
    if missing:
        problems.append(
            f'{len(classes) - len(missing):,} of {len(classes):,} classes: '
            f'{shortened(missing)} {by_number(missing, "is", "are")} missing'
        )
    if count.total() != NUM_IMAGES[split]:
        problems.append(f'{count.total():,} images instead of {NUM_IMAGES[split]:,}')
    each = VAL_IMAGES_PER_CLASS
    uneven = [f'{classes[i]} ({n})' for i, n in sorted(count.items()) if n != each]
    if split == 'val' and not own and uneven:
        problems.append(f'not {each} images in every class: {shortened(uneven)}')
    return problems


def _flat_labels(places: Sequence[Path], images: Collection[str]) -> _Labels:
    """Return the labels of flat images, from the first file of labels in one of the places."""
    readers: list[tuple[Path, Callable[[Path], _Labels]]] = [
        *((place / DEVKIT_ARCHIVE, _packed_devkit) for place in places),
        *((place / name / _GROUND_TRUTH, _devkit) for place in places for name in _DEVKIT),
        *((place / name, _listed) for place in places for name in _LABEL_FILES),
    ]
    source, reader = next(((path, read) for path, read in readers if path.is_file()), (None, None))
    if reader is None:
        raise UserError(
            f'{shortened(sorted(images), 1)} are not in class folders and have '
            f"no labels: expected the devkit's {_GROUND_TRUTH} and {_META}, or {_LABEL_FILES[0]} "
            f"of 'name wnid' lines, in {places[0]}."
        )
    try:
        labels, wnids = reader(source)
    except Exception as error:  # whatever SciPy and tarfile raise, or a label without a class
        raise UserError(
            f'cannot read the labels in {source}: {type(error).__name__}: {error}; take the '
            f"devkit's {_GROUND_TRUTH} with its {_META}, or write {_LABEL_FILES[0]} of lines as "
            'ILSVRC2012_val_00000001.JPEG n01751748.'
        ) from error
    without, missing = sorted(set(images) - labels.keys()), sorted(labels.keys() - set(images))
    if without or missing:
        raise UserError(
            f'{source} has no label for {len(without):,} images ({shortened(without, 1)}) and '
            f'labels {len(missing):,} that are not there ({shortened(missing, 1)}): expected one '
            'label for each image.'
        )
    return labels, wnids


def _packed_devkit(path: Path) -> _Labels:
    content = io.BytesIO(gzip.decompress(path.read_bytes()))  # whose checksum is right
    with tarfile.open(fileobj=content) as tar:
        names = (f'ILSVRC2012_devkit_t12/data/{name}' for name in (_GROUND_TRUTH, _META))
        return _devkit_labels(*(tar.extractfile(name).read() for name in names))


def _devkit(path: Path) -> _Labels:
    return _devkit_labels(path.read_bytes(), path.with_name(_META).read_bytes())


def _devkit_labels(truth: bytes, meta: bytes) -> _Labels:
    # Only the devkit's own labels need SciPy, which takes as long to import as all the rest.
    import scipy.io

    synsets = scipy.io.loadmat(io.BytesIO(meta), squeeze_me=True)['synsets']
    wnids = {
        int(s['ILSVRC2012_ID']): str(s['WNID'])
        for s in synsets.reshape(-1)
        if not int(s['num_children'])
    }
    labels = {
        f'ILSVRC2012_val_{number:08d}.JPEG': wnids[int(line)]
        for number, line in enumerate(truth.split(), 1)
    }
    return labels, sorted(wnids.values())


def _listed(path: Path) -> _Labels:
    """Return the labels in lines of a name and a WordNet id, or in Kaggle's table."""
    labels = {}
    for number, line in enumerate(path.read_text('utf-8-sig').splitlines(), 1):
        fields = line.replace(',', ' ').split()
        if fields and fields[0] != 'ImageId':
            if len(fields) < 2 or not WNID.fullmatch(fields[1]):
                raise ValueError(f"line {number} is '{line}'")
            name = fields[0].rpartition('/')[2].removesuffix('.JPEG')
            labels[f'{name}.JPEG'] = fields[1]
    return labels, sorted(set(labels.values()))
