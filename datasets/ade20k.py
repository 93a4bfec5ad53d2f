"""ADE20K's scene parsing benchmark as it is on people's disks: found, paired, checked, and read.

    ROOT/images/{training,validation}/NAME.jpg
    ROOT/annotations/{training,validation}/NAME.png
    ROOT/objectInfo150.txt                              the names of the classes

ROOT is the archive's folder `ADEChallengeData2016`, the folder that contains it, or one that
contains it in `ade20k` or `ade`; where there is no such folder, the archive
`ADEChallengeData2016.zip` in one of these is read as it is.

A label map is a PNG with one byte per pixel: 0 is "other" and ignored, 1 is the first class.
"""

import hashlib
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from zipfile import BadZipFile
from zipfile import Path as ZipPath

import numpy as np
from PIL import Image

from datasets.reading import DECODING_ERRORS, read_text, unreadable, upright_size
from datasets.stores import AnyPath, open_archive
from datasets.subset import Survey, check_request, evenly_spaced
from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.wording import by_number, shortened

NUM_CLASSES = 150
NUM_IMAGES = {'train': 20_210, 'val': 2_000}
FOLDERS = {'train': 'training', 'val': 'validation'}
CLASS_FILE = 'objectInfo150.txt'

_ARCHIVE = 'ADEChallengeData2016.zip'
_PLACES = (
    *('.', 'ADEChallengeData2016'),
    *('ade20k/ADEChallengeData2016', 'ade/ADEChallengeData2016'),
)


@dataclass(frozen=True)
class ADE20K:
    """One split: its images with their label maps, and why it is not the complete one.

    Attributes:
        root: the folder that holds `images/` and `annotations/`.
        split: 'val' or 'train'.
        samples: the files of each image and its label map, ordered by name.
        classes: the names of the classes; label 1 is the first.
        complete: whether this is all of ADE20K's split.
        problems: a phrase for each thing that is missing, extra or left out; none when complete.
        fingerprint: 16 hex digits of a SHA-256 over every image's name, size in pixels and labels.
            It does not depend on where the files lie or on how the images are compressed.
    """

    root: AnyPath
    split: str
    samples: tuple[tuple[AnyPath, AnyPath], ...]
    classes: tuple[str, ...]
    complete: bool
    problems: tuple[str, ...]
    fingerprint: str


def load(root: Path, split: str = 'val', limit: int | None = None) -> ADE20K:
    """Find the images of `split` under `root`, pair them with their label maps and check those.

    Every label map is decoded once: 2,000 of 512 x 683 pixels take about 6 s of one core.

    Args:
        root: the folder in one of the layouts above.
        split: 'val' or 'train'.
        limit: take only that many images, evenly spaced over the sorted names.

    Raises:
        DataNotFound: if there is no image in the folder.
        UserError: if there is no such folder or split, the limit is below 1, an image has no label
            map or a label map no image, a label map has another size than its image or a label
            without a class, or a file cannot be read.
    """
    root = Path(root)
    layout = f'images/{FOLDERS.get(split)}/*.jpg'
    check_request('ADE20K', root, layout, split, NUM_IMAGES, limit)
    folder = _find(root, split)
    classes = class_names(folder)
    samples = _pairs(folder, split)
    taken = evenly_spaced(samples, limit)
    problems = incomplete(split, classes, [image.stem for image, _ in samples], len(taken))
    digest = hashlib.sha256()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for described in pool.map(partial(_described, classes=len(classes)), taken):
            digest.update(described)
    return ADE20K(
        root=folder,
        split=split,
        samples=tuple(taken),
        classes=classes,
        complete=not problems,
        problems=problems,
        fingerprint=digest.hexdigest()[:16],
    )


def survey(root: Path, split: str = 'val') -> Survey:
    """Return what lies there of `split`; images and label maps are paired and not read.

    Raises:
        DataNotFound: if there is no image in the folder.
        UserError: if there is no such folder, or an image has no label map.
    """
    root = Path(root)
    layout = f'images/{FOLDERS.get(split)}/*.jpg'
    check_request('ADE20K', root, layout, split, NUM_IMAGES, None)
    folder = _find(root, split)
    pairs = _pairs(folder, split)
    names = [image.stem for image, _ in pairs]
    problems = incomplete(split, class_names(folder), names, len(pairs))
    return Survey(pairs, NUM_IMAGES[split], problems, (folder,))


def class_names(folder: AnyPath) -> tuple[str, ...]:
    """Return the first name of each class in the file `objectInfo150.txt` of `folder`.

    The names of ADE20K's 150 classes are returned if there is no such file.

    Raises:
        UserError: if the file does not have one line per class with its number and its names.
    """
    path = folder / CLASS_FILE
    if not path.is_file():
        # mmseg imports torch, which takes seconds; whoever has the file does not wait for it.
        from mmseg.utils.class_names import ade_classes

        return tuple(name.strip() for name in ade_classes())
    try:
        header, *rows = [line.split('\t') for line in read_text(path).splitlines() if line.strip()]
        number, name = header.index('Idx'), header.index('Name')
        numbers = [int(row[number]) for row in rows]
        names = [row[name].split(',')[0].strip() for row in rows]
    except (UserError, ValueError, IndexError):
        numbers, names = [], []
    if not names or numbers != list(range(1, len(names) + 1)) or len(set(names)) < len(names):
        raise UserError(
            f'{path} does not name the classes: expected columns Idx and Name with tabs between '
            "them, and a line for each class in order; restore the archive's, or remove it if the "
            f'classes are the {NUM_CLASSES} of ADE20K.'
        )
    return tuple(names)


def incomplete(
    split: str, classes: Sequence[str], names: Sequence[str], taken: int
) -> tuple[str, ...]:
    """Return a phrase for each difference of a data set from ADE20K's split.

    Args:
        split: 'val' or 'train'.
        classes: the names of its classes.
        names: the names of its images, without the suffix.
        taken: the number of these images that were asked for.
    """
    problems, expected = [], NUM_IMAGES[split]
    wanted = {f'ADE_{split}_{number:08d}' for number in range(1, expected + 1)}
    if len(classes) != NUM_CLASSES:
        problems.append(f'{len(classes):,} classes of its own instead of the {NUM_CLASSES}')
    if len(names) != expected:
        problems.append(f'{len(names):,} images instead of {expected:,}')
    if missing := sorted(wanted - set(names)):
        problems.append(f'{shortened(missing, 1)} {by_number(missing, "is", "are")} missing')
    if foreign := sorted(set(names) - wanted):
        problems.append(f'not of ADE20K: {shortened(foreign, 1)}')
    if taken < len(names):
        problems.append(f'{taken:,} of {len(names):,} images were asked for')
    return tuple(problems)


def label_maps(folder: AnyPath | ZipPath) -> dict[str, AnyPath | ZipPath]:
    """Return the PNGs in `folder` by their names without the suffix, in sorted order.

    Raises:
        UserError: if two have the same name but for the case of the suffix.
    """
    return _files(folder, '.png', '.PNG')


def read_label_map(path: AnyPath | ZipPath, classes: int) -> np.ndarray:
    """Return the labels of a PNG, (H, W) in uint8: 0 for no class, and 1 to `classes`.

    Raises:
        UserError: if the file cannot be read, is not a PNG of one byte per pixel, or has a larger
            label.
    """
    try:
        with path.open('rb') as file, Image.open(file) as image:
            # Pillow returns the indices of a palette at any depth, but scales grey levels of less
            # than 8 bits.
            bytewise = image.mode == 'P' or [tile[3] for tile in image.tile] == ['L']
            labels = np.asarray(image) if image.format == 'PNG' and bytewise else None
            found = f'a {image.format} of mode {image.mode}'
    except (*DECODING_ERRORS, BadZipFile, zlib.error, RuntimeError) as error:
        # RuntimeError: an archive with a password, or compressed in an unknown way.
        raise unreadable('label map', path, error) from error
    if labels is None:
        raise UserError(
            f'{path} is {found}: expected a label map, a PNG with one channel of 8 bits.'
        )
    if (largest := int(labels.max())) > classes:
        raise UserError(
            f'{path} has the label {largest}: expected 0 for no class, or 1 to {classes}; '
            + (
                'labels reduced by one, as with reduce_zero_label in mmseg, have 255 for no class: '
                'name those of the release.'
                if largest == 255
                else 'restore it, or name the data set that it belongs to.'
            )
        )
    return labels


def _find(root: Path, split: str) -> AnyPath:
    """Return the folder that holds `images` and `annotations`."""
    archives = (root / base / _ARCHIVE for base in ('.', 'ade20k', 'ade'))
    folders = (root / place for place in _PLACES)
    in_archives = (open_archive(p) / 'ADEChallengeData2016' for p in archives if p.is_file())
    for folder in chain(folders, in_archives):
        if _files(folder / 'images' / FOLDERS[split], '.jpg'):
            return folder
    raise DataNotFound(
        f'no ADE20K images in {root}: expected ADEChallengeData2016/images/{FOLDERS[split]}/*.jpg '
        f'or {_ARCHIVE}; name the folder that holds them.'
    )


def _files(folder: AnyPath | ZipPath, *suffixes: str) -> dict[str, AnyPath | ZipPath]:
    if not folder.is_dir():
        return {}
    found: dict[str, AnyPath | ZipPath] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith('.') or not path.name.endswith(suffixes) or not path.is_file():
            continue
        name = path.name[: path.name.rindex('.')]
        if name in found:
            raise UserError(
                f'{folder} has both {found[name].name} and {path.name}: expected one of them; '
                'remove the other.'
            )
        found[name] = path
    return found


def _pairs(folder: AnyPath, split: str) -> list[tuple[AnyPath, AnyPath]]:
    """Return each image of a split with the label map of the same name."""
    images, annotations = (folder / kind / FOLDERS[split] for kind in ('images', 'annotations'))
    # mmseg, which reads them in training, knows this suffix alone.
    found, labels = _files(images, '.jpg'), _files(annotations, '.png')
    for has, lacks, suffix, what in (
        (found, labels, 'jpg', f'label map: expected it in {annotations}'),
        (labels, found, 'png', f'image: expected it in {images}'),
    ):
        if without := [f'{name}.{suffix}' for name in has if name not in lacks]:
            verb = by_number(without, 'has', 'have')
            raise UserError(f'{shortened(without, 1)} {verb} no {what}; restore it.')
    return [(found[name], labels[name]) for name in found]


def _described(sample: tuple[AnyPath, AnyPath], classes: int) -> bytes:
    """Check an image and its label map, and return what the fingerprint covers of them."""
    image, label_map = sample
    labels = read_label_map(label_map, classes)
    width, height = upright_size(image)
    if labels.shape != (height, width):
        raise UserError(
            f'the label map {label_map} has {labels.shape[1]} x {labels.shape[0]} pixels and its '
            f'image {width} x {height}: expected the same; restore both from the original archive.'
        )
    pixels = hashlib.sha256(np.ascontiguousarray(labels)).hexdigest()
    return f'{image.stem} {width} {height} {pixels}\n'.encode()
