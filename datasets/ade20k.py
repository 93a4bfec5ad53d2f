"""ADE20K's scene parsing benchmark as it lies on people's disks: found, paired, checked and read.

    ROOT/images/{training,validation}/NAME.jpg
    ROOT/annotations/{training,validation}/NAME.png
    ROOT/objectInfo150.txt                              the names of the classes

ROOT is the folder `ADEChallengeData2016` of the archive, the one above, or one above `ade20k` or
`ade`.

A label map is a PNG with a byte a pixel: 0 is "other" and ignored, 1 the first of the classes.
"""

import hashlib
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import BadZipFile
from zipfile import Path as ZipPath

import numpy as np
from PIL import Image

from datasets.exif import upright_size
from reproduce.errors import DataNotFound, UserError

NUM_CLASSES = 150
NUM_IMAGES = {'train': 20_210, 'val': 2_000}
FOLDERS = {'train': 'training', 'val': 'validation'}
CLASS_FILE = 'objectInfo150.txt'

_PLACES = (
    *('.', 'ADEChallengeData2016'),
    *('ade20k/ADEChallengeData2016', 'ade/ADEChallengeData2016'),
)
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),
    *(BadZipFile, Image.DecompressionBombError),
)


@dataclass(frozen=True)
class ADE20K:
    """One split: its images with their label maps, and what keeps it from being the full one.

    Attributes:
        root: the folder `ADEChallengeData2016`, whatever it is called.
        split: 'val' or 'train'.
        samples: (image, label map), by name.
        classes: their names; label 1 is the first.
        complete: whether this is all of ADE20K's split.
        problems: what is missing or left out, in words; empty when complete.
        fingerprint: 16 hex digits of a SHA-256 over every image's name, size in pixels and labels.
            It does not depend on where the files lie or on how the images are compressed.
    """

    root: Path
    split: str
    samples: tuple[tuple[Path, Path], ...]
    classes: tuple[str, ...]
    complete: bool
    problems: tuple[str, ...]
    fingerprint: str


def load(root: Path, split: str = 'val', limit: int | None = None) -> ADE20K:
    """Find the images of `split` under `root`, pair them with their label maps and check those.

    Every label map is decoded once: 2,000 of 512 x 683 pixels take about 6 s of one core.

    Args:
        limit: take that many images, evenly spaced.

    Raises:
        DataNotFound: if there is no image in the folder.
        UserError: if there is no such folder, an image has no label map or a label map no image,
            a label map has another size than its image or a label without a class, or a file
            cannot be read.
    """
    root = Path(root)
    if split not in NUM_IMAGES:
        raise UserError(f"ADE20K has no split '{split}': name train or val.")
    if not root.is_dir():
        raise UserError(
            f'{root} is not a folder: expected ADE20K with images/{FOLDERS[split]}/*.jpg in it; '
            'name the folder that holds it.'
        )
    folder = _find(root, split)
    classes = class_names(folder)
    samples = _pairs(folder / 'images' / FOLDERS[split], folder / 'annotations' / FOLDERS[split])
    taken = part(samples, limit)
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


def class_names(folder: Path) -> tuple[str, ...]:
    """The first name of each class in the `objectInfo150.txt` of `folder`; ADE20K's without one.

    Raises:
        UserError: if the file has not one line a class, with its number and its names.
    """
    path = folder / CLASS_FILE
    if not path.is_file():
        from mmseg.utils.class_names import ade_classes

        return tuple(name.strip() for name in ade_classes())
    try:
        header, *rows = [line.split('\t') for line in path.read_text().splitlines() if line.strip()]
        number, name = header.index('Idx'), header.index('Name')
        numbers = [int(row[number]) for row in rows]
        names = [row[name].split(',')[0].strip() for row in rows]
    except (ValueError, IndexError):
        numbers, names = [], []
    if not names or numbers != list(range(1, len(names) + 1)) or len(set(names)) < len(names):
        raise UserError(
            f'{path} does not name the classes: expected columns Idx and Name with tabs between '
            "them, and a line for each class in order; restore the archive's, or remove it if the "
            f'classes are the {NUM_CLASSES} of ADE20K.'
        )
    return tuple(names)


def part(items: Sequence, limit: int | None) -> Sequence:
    """`limit` of `items`, evenly spaced; all of them without a limit, or if they are no more.

    Raises:
        UserError: if it is less than 1.
    """
    if limit is None:
        return items
    if limit < 1:
        raise UserError(f'a limit of {limit} images leaves nothing: give 1 or more.')
    n = min(limit, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def incomplete(
    split: str, classes: Sequence[str], names: Sequence[str], taken: int
) -> tuple[str, ...]:
    """What keeps `taken` of the images with these names from being ADE20K's split, in words."""
    problems, expected = [], NUM_IMAGES[split]
    wanted = {f'ADE_{split}_{number:08d}' for number in range(1, expected + 1)}
    if len(classes) != NUM_CLASSES:
        problems.append(f'{len(classes):,} classes of its own instead of the {NUM_CLASSES}')
    if len(names) != expected:
        problems.append(f'{len(names):,} images instead of {expected:,}')
    if missing := sorted(wanted - set(names)):
        problems.append(f'{_named(missing)} {"is" if len(missing) == 1 else "are"} missing')
    if foreign := sorted(set(names) - wanted):
        problems.append(f'not of ADE20K: {_named(foreign)}')
    if taken < len(names):
        problems.append(f'{taken:,} of {len(names):,} images were asked for')
    return tuple(problems)


def label_maps(folder: Path | ZipPath) -> dict[str, Path | ZipPath]:
    """The PNGs in `folder`, by name without the suffix, sorted."""
    return _files(folder, '.png')


def read_label_map(path: Path | ZipPath, classes: int) -> np.ndarray:
    """The labels (H, W) in uint8, 0 for no class and 1 to `classes`.

    Raises:
        UserError: if the file cannot be read, is no PNG of one byte a pixel, or has a larger label.
    """
    try:
        with path.open('rb') as file, Image.open(file) as image:
            # A palette's pixels are its indices, of any depth; grey levels of less are scaled.
            bytewise = image.mode == 'P' or [tile[3] for tile in image.tile] == ['L']
            labels = np.asarray(image) if image.format == 'PNG' and bytewise else None
            found = f'a {image.format} of mode {image.mode}'
    except _UNREADABLE as error:
        reason = 'it does not exist' if isinstance(error, FileNotFoundError) else error
        raise UserError(
            f'cannot read the label map {path}: {reason}; restore it from where it came.'
        ) from error
    if labels is None:
        raise UserError(
            f'{path} is {found}: expected a label map, a PNG with one channel of 8 bits.'
        )
    if (largest := int(labels.max())) > classes:
        raise UserError(
            f'{path} has the label {largest}: expected 0 for no class, or 1 to {classes}; restore '
            'it, or name the data that it belongs to.'
        )
    return labels


def _find(root: Path, split: str) -> Path:
    """The folder that holds `images` and `annotations`."""
    for place in _PLACES:
        folder = root / place
        if _files(folder / 'images' / FOLDERS[split], '.jpg'):
            return folder
    raise DataNotFound(
        f'no ADE20K images in {root}: expected ADEChallengeData2016/images/{FOLDERS[split]}/*.jpg; '
        'name the folder that holds them.'
    )


def _files(folder: Path | ZipPath, suffix: str) -> dict[str, Path | ZipPath]:
    if not folder.is_dir():
        return {}
    found = (path for path in folder.iterdir() if path.name.endswith(suffix))
    return {
        path.name.removesuffix(suffix): path
        for path in sorted(found, key=lambda path: path.name)
        if not path.name.startswith('.')
    }


def _pairs(images: Path, annotations: Path) -> list[tuple[Path, Path]]:
    found, labels = _files(images, '.jpg'), label_maps(annotations)
    if without := sorted(found.keys() - labels.keys()):
        raise UserError(
            f'{_named(without, ".jpg")} in {images} {_has_have(without)} no label map: expected '
            f'{annotations}/{without[0]}.png; restore it.'
        )
    if without := sorted(labels.keys() - found.keys()):
        raise UserError(
            f'{_named(without, ".png")} in {annotations} {_has_have(without)} no image: expected '
            f'{images}/{without[0]}.jpg; restore it.'
        )
    return [(found[name], labels[name]) for name in found]


def _described(sample: tuple[Path, Path], classes: int) -> bytes:
    """What the fingerprint covers of an image and its label map, which it checks."""
    image, label_map = sample
    labels = read_label_map(label_map, classes)
    try:
        with Image.open(image) as file:
            width, height = upright_size(file)
    except _UNREADABLE as error:
        raise UserError(
            f'cannot read the image {image}: {error}; restore it from the original archive.'
        ) from error
    if labels.shape != (height, width):
        raise UserError(
            f'the label map {label_map} has {labels.shape[1]} x {labels.shape[0]} pixels and its '
            f'image {width} x {height}: expected the same; restore both from the original archive.'
        )
    pixels = hashlib.sha256(np.ascontiguousarray(labels)).hexdigest()
    return f'{image.stem} {width} {height} {pixels}\n'.encode()


def _named(names: Sequence[str], suffix: str = '') -> str:
    more = f' and {len(names) - 1:,} more' if len(names) > 1 else ''
    return f'{names[0]}{suffix}{more}'


def _has_have(names: Sequence[str]) -> str:
    return 'has' if len(names) == 1 else 'have'
