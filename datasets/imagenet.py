"""ImageNet-1K as it lies on people's disks: found, labelled, checked, and read.

    ROOT/{train,val}/WNID/*.JPEG                  class folders
    ROOT/ILSVRC/Data/CLS-LOC/{train,val}/...      the same under Kaggle's folders
    ROOT/[val/]ILSVRC2012_val_*.JPEG              as released: flat, with its labels in a file

ROOT may also be the folder above, with ImageNet in ROOT/imagenet.

The labels of flat images come from the devkit (`ILSVRC2012_validation_ground_truth.txt` and
`meta.mat`) or from a text file of `name wnid` lines. Class i is the i-th WordNet id in sorted
order. A folder that holds some classes of ImageNet-1K keeps their indices among the 1,000; one
that holds none of them has classes of its own.
"""

import hashlib
import os
import re
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image
from scipy.io.matlab import MatReadError
from timm.data import ImageNetInfo

from reproduce.errors import DataNotFound, UserError

NUM_CLASSES = 1000
NUM_IMAGES = {'train': 1_281_167, 'val': 50_000}
VAL_IMAGES_PER_CLASS = 50

# What the folder is called inside one that holds several data sets.
_NAMES = ('imagenet', 'ImageNet', 'imagenet-1k', 'ILSVRC2012')

_WNID = re.compile(r'n\d{8}')
_FLAT = re.compile(r'ILSVRC2012_val_(\d{8})\.JPEG')
_SUFFIXES = {'.jpeg', '.jpg', '.png'}
_GROUND_TRUTH = 'ILSVRC2012_validation_ground_truth.txt'
_META = 'meta.mat'
_LABEL_FILES = ('val_labels.txt', 'ILSVRC2012_val.txt', 'val.txt', 'LOC_val_solution.csv')
_DEVKIT = ('.', 'data', 'ILSVRC2012_devkit_t12/data', 'devkit/data', 'devkit')


@dataclass(frozen=True)
class ImageNet:
    """One split: its images with their class indices, and what keeps it from being the full one.

    Attributes:
        root: the folder that was asked for.
        split: 'val' or 'train'.
        samples: (file, class index), ordered by class and name.
        wnids: the WordNet id of every class index, sorted.
        complete: whether this is all of ImageNet-1K's split.
        problems: what is missing, extra or left out, in words; empty when complete.
        fingerprint: 16 hex digits of a SHA-256 over every image's class, name and size in bytes.
            It does not depend on where the files lie or on which of the layouts they are in.
    """

    root: Path
    split: str
    samples: tuple[tuple[Path, int], ...]
    wnids: tuple[str, ...]
    complete: bool
    problems: tuple[str, ...]
    fingerprint: str

    @property
    def classes(self) -> tuple[str, ...]:
        """As the other data sets call them."""
        return self.wnids


def load(root: Path, split: str = 'val', limit: int | None = None) -> ImageNet:
    """Find the images of `split` under `root`, label them and check that none is missing.

    Args:
        limit: take that many images, evenly spaced over the classes.

    Raises:
        DataNotFound: if there is no image in the folder.
        UserError: if there is no such folder, a class folder is empty, or the
            labels of flat images are missing, unreadable or do not fit the images.
    """
    root = Path(root)
    if split not in NUM_IMAGES:
        raise UserError(f"ImageNet has no split '{split}': name train or val.")
    if limit is not None and limit < 1:
        raise UserError(f'a limit of {limit} images leaves nothing: give 1 or more.')
    if not root.is_dir():
        raise UserError(
            f'{root} is not a folder: expected ImageNet with {split}/WNID/*.JPEG in it; '
            'name the folder that holds it.'
        )
    folder = _find(root, split)
    folders = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != '.')
    wnids = [name for name in folders if _WNID.fullmatch(name)]
    problems = _extra('folder', [name for name in folders if name not in wnids]) if wnids else []
    if wnids:
        images = _in_class_folders(folder, wnids)
    else:
        flat = sorted(e.name for e in os.scandir(folder) if _FLAT.fullmatch(e.name))
        labels, wnids = _flat_labels(root, folder, flat)
        images = [(folder / name, os.stat(folder / name).st_size, labels[name]) for name in flat]

    classes, foreign = _classes(wnids)
    problems += _extra('class', foreign)
    index = {wnid: i for i, wnid in enumerate(classes)}
    found = sorted(
        (index[wnid], path.name, path, size) for path, size, wnid in images if wnid in index
    )
    problems += _problems(split, classes, Counter(label for label, *_ in found))
    if limit is not None and limit < len(found):
        problems.append(f'{limit:,} of {len(found):,} images were asked for')
        found = [found[i * len(found) // limit] for i in range(limit)]
    digest = hashlib.sha256()
    for label, name, _, size in found:
        digest.update(f'{label} {classes[label]}/{name} {size}\n'.encode())
    return ImageNet(
        root=root,
        split=split,
        samples=tuple((path, label) for label, _, path, _ in found),
        wnids=classes,
        complete=not problems,
        problems=tuple(problems),
        fingerprint=digest.hexdigest()[:16],
    )


def open_image(path: Path) -> Image.Image:
    """The whole image at `path`, decoded, in RGB, as its pixels lie (EXIF rotation ignored).

    Reads what the file is, not what its name says: ImageNet has a PNG and CMYK JPEGs under
    `.JPEG`.

    Raises:
        UserError: if it is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            return image.convert('RGB')
    except (
        *(OSError, SyntaxError, ValueError, EOFError, struct.error),
        Image.DecompressionBombError,
    ) as error:
        reason = 'it does not exist' if isinstance(error, FileNotFoundError) else error
        raise UserError(
            f'cannot read the image {path}: {reason}; restore it from the original archive.'
        ) from error


def _find(root: Path, split: str) -> Path:
    """The folder that directly holds the class folders or the flat images of `split`."""
    for folder in (
        base / place
        for base in (root, *(root / name for name in _NAMES))
        for place in (split, f'ILSVRC/Data/CLS-LOC/{split}', '.')
    ):
        if folder.is_dir() and any(
            _WNID.fullmatch(e.name) or (split == 'val' and _FLAT.fullmatch(e.name))
            for e in os.scandir(folder)
        ):
            return folder
    flat = ' or ILSVRC2012_val_*.JPEG' if split == 'val' else ''
    raise DataNotFound(
        f'no ImageNet images in {root}: expected class folders {split}/WNID/*.JPEG{flat}; '
        'name the folder that holds them.'
    )


def _in_class_folders(folder: Path, wnids: Sequence[str]) -> list[tuple[Path, int, str]]:
    images = []
    for wnid in wnids:
        found = [
            (Path(e.path), e.stat().st_size, wnid)
            for e in os.scandir(folder / wnid)
            if os.path.splitext(e.name)[1].lower() in _SUFFIXES and e.name[0] != '.'
        ]
        if not found:
            raise UserError(
                f'the class folder {folder / wnid} holds no image: expected *.JPEG; '
                'restore its images or remove the folder.'
            )
        images += found
    return images


def _flat_labels(
    root: Path, folder: Path, names: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """The WordNet id of every flat image, by name, and all ids that the labels know."""
    places = list(dict.fromkeys((root, folder, folder.parent)))
    if ground_truth := _first(p / d / _GROUND_TRUTH for p in places for d in _DEVKIT):
        meta = _first(
            (ground_truth.parent / _META, *(p / d / _META for p in places for d in _DEVKIT))
        )
        if meta is None:
            raise UserError(
                f'{ground_truth} numbers the classes in an order that only the devkit knows: '
                f"expected its {_META} beside it; copy it from the devkit's data folder."
            )
        return _devkit_labels(ground_truth, meta, names)
    if path := _first(place / name for place in places for name in _LABEL_FILES):
        return _listed_labels(path, names)
    raise UserError(
        f'the images in {folder} are not in class folders and have no labels: expected '
        f"the devkit's {_GROUND_TRUTH} and {_META}, or {_LABEL_FILES[0]} of 'name wnid' lines, "
        f'in {root}.'
    )


def _devkit_labels(
    ground_truth: Path, meta: Path, names: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    try:
        synsets = np.atleast_1d(scipy.io.loadmat(meta, squeeze_me=True)['synsets'])
        wnids = {
            int(s['ILSVRC2012_ID']): str(s['WNID']) for s in synsets if not int(s['num_children'])
        }
    except (MatReadError, OSError, KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(
            f'cannot read the classes in {meta}: {error}; copy it from the devkit again.'
        ) from error
    ids = ground_truth.read_text().split()
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


def _listed_labels(path: Path, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    labels = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fields = line.replace(',', ' ').split()
        if not fields or fields[0] == 'ImageId':
            continue
        if len(fields) < 2 or not _WNID.fullmatch(fields[1]):
            raise UserError(
                f"line {number} of {path} is '{line}': expected an image's name and its WordNet "
                'id, as in ILSVRC2012_val_00000001.JPEG n01751748.'
            )
        name = fields[0].rsplit('/', 1)[-1]
        labels[name if name.endswith('.JPEG') else f'{name}.JPEG'] = fields[1]
    _check_labels(path, labels, names)
    return labels, sorted(set(labels.values()))


def _check_labels(path: Path, labels: dict[str, str], names: Sequence[str]) -> None:
    if missing := sorted(set(labels) - set(names)):
        raise UserError(
            f'{path} labels {missing[0]}{_more(missing)}, which {_is_are(missing)} not there: '
            'expected an image for every label; restore the images or remove the labels.'
        )
    if unlabelled := sorted(set(names) - set(labels)):
        raise UserError(
            f'{path} has no label for {unlabelled[0]}{_more(unlabelled)}: '
            'expected one for every image; complete it.'
        )


def _classes(wnids: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The classes that `wnids` are of, and those of `wnids` that are not among them."""
    imagenet = tuple(sorted(ImageNetInfo('imagenet-1k').label_names()))
    if set(wnids).isdisjoint(imagenet):
        return tuple(sorted(wnids)), []
    return imagenet, sorted(set(wnids) - set(imagenet))


def _problems(split: str, classes: Sequence[str], count: Counter[int]) -> list[str]:
    problems = []
    missing = [wnid for i, wnid in enumerate(classes) if i not in count]
    if len(classes) != NUM_CLASSES:
        problems.append(f'{len(classes):,} classes of its own instead of the {NUM_CLASSES:,}')
    if missing:
        problems.append(
            f'{len(classes) - len(missing):,} of {len(classes):,} classes: '
            f'{_some(missing)} {_is_are(missing)} missing'
        )
    if count.total() != NUM_IMAGES[split]:
        problems.append(f'{count.total():,} images instead of {NUM_IMAGES[split]:,}')
    if split == 'val' and len(classes) == NUM_CLASSES:
        uneven = [
            f'{classes[i]} ({n})' for i, n in sorted(count.items()) if n != VAL_IMAGES_PER_CLASS
        ]
        if uneven:
            problems.append(f'not {VAL_IMAGES_PER_CLASS} images in every class: {_some(uneven)}')
    return problems


def _extra(kind: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"no {kind} of ImageNet-1K's, and left out: {_some(names)}"]


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:5]) + (f' and {len(names) - 5:,} more' if len(names) > 5 else '')


def _more(names: Sequence[str]) -> str:
    return f' and {len(names) - 1:,} more' if len(names) > 1 else ''


def _is_are(names: Sequence[str]) -> str:
    return 'is' if len(names) == 1 else 'are'


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)
