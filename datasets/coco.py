"""COCO 2017 as it is on people's disks: found and checked.

    ROOT/annotations/instances_val2017.json
    ROOT/val2017/*.jpg                              or ROOT/images/val2017/*.jpg

or, where there are no such folders, as released:

    ROOT/annotations_trainval2017.zip
    ROOT/val2017.zip                                or ROOT/images/val2017.zip

ROOT may also be the folder above, with COCO in ROOT/coco. A file of fewer images or of other
classes is read as well, and marked as not complete.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.coco_annotations import NUM_IMAGES, Annotations, lacks, read
from datasets.reading import upright_size
from datasets.stores import AnyPath, open_archive
from datasets.subset import Split, check_folder, left_out
from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.wording import by_number, shortened

# The names of COCO's folder inside one that holds several data sets.
_NAMES = ('coco', 'COCO', 'coco2017', 'COCO2017', 'mscoco', 'MSCOCO')
_ANNOTATIONS = 'annotations_trainval2017.zip'


@dataclass(frozen=True)
class COCO(Split):
    """One split: its images with their ids, ordered by id.

    The fingerprint is that of `Annotations`.

    Attributes:
        annotations: the instances file.
        content: all that is in it, also of images that a limit leaves out.
    """

    annotations: AnyPath
    content: Annotations = field(repr=False)


def load(root: Path, split: str = 'val', limit: int | None = None) -> COCO:
    """Find `split` under `root` and check that its images are those of its annotations.

    Args:
        root: the folder in one of the layouts above.
        split: 'val' or 'train'.
        limit: take only that many images, evenly spaced over the sorted ids.

    Raises:
        DataNotFound: if there is no COCO in the folder.
        UserError: if there is no such folder, the annotations are not COCO's instances or are not
            as mmdet reads them, or an image is missing or has another size than they say.
    """
    base, path, folder = _find(Path(root), split)
    whole = read(path)
    if not whole.in_class_order:
        raise UserError(
            f'{path} lists its categories in another order than by id: sort them by id; detectors '
            'number their classes in the order of the file.'
        )
    content = whole.take(limit)
    _check_images(folder, path, content.images)
    return COCO(
        root=base,
        split=split,
        samples=tuple((folder / image['file_name'], image['id']) for image in content.images),
        classes=tuple(category['name'] for category in content.categories),
        problems=(*lacks(whole, split), *left_out(len(content.images), len(whole.images))),
        fingerprint=content.fingerprint,
        sources=(folder, path),
        annotations=path,
        content=whole,
    )


def survey(root: Path, split: str = 'val') -> Split:
    """Return what there is of `split`, as `load` does; neither annotations nor images are read."""
    base, path, folder = _find(Path(root), split)
    images = [(entry, None) for entry in folder.iterdir() if entry.name.endswith('.jpg')]
    expected = NUM_IMAGES[split]
    problems = (f'{len(images):,} images instead of {expected:,}',) * (len(images) != expected)
    return Split(base, split, images, (), problems, '', (folder, path))


def _find(root: Path, split: str) -> tuple[Path, AnyPath, AnyPath]:
    """Return the folder of the data set, the instances file of `split`, that of its images."""
    expected, images = f'annotations/instances_{split}2017.json', f'{split}2017'
    check_folder(root, 'COCO', expected)
    for base in (root, *(root / name for name in _NAMES)):
        zips = (base / f'{images}.zip', base / f'images/{images}.zip')
        path = _first(expected, base, base / _ANNOTATIONS)
        folder = _first(images, base, base / 'images', *zips)
        if path and folder:
            return base, path, folder
        if folder:
            raise UserError(f'{base} has no {expected}: put it there, from {_ANNOTATIONS}.')
        if path:
            raise DataNotFound(f'{base} has annotations and no {images} or {images}.zip.')
    raise DataNotFound(
        f'no COCO in {root}: expected {expected} and {images}, or {_ANNOTATIONS} and '
        f'{images}.zip; name the folder that holds them.'
    )


def _first(name: str, *places: Path) -> AnyPath | None:
    """Return the first file or folder of a name in folders and archives; None if there is none."""
    for place in places:
        found = (open_archive(place) if place.is_file() else place) / name
        if found.is_file() or found.is_dir():
            return found
    return None


def _check_images(folder: AnyPath, path: AnyPath, images: Sequence[dict[str, Any]]) -> None:
    """Check that `folder` holds the images of the instances file `path`, in the sizes it says."""
    missing = []
    for image in images:
        file = folder / image['file_name']
        if not file.is_file():
            missing.append(image['file_name'])
            continue
        width, height = upright_size(file)
        if (height, width) != (image['height'], image['width']):
            raise UserError(
                f'the image {file} has {width} x {height} pixels and {path} says {image["width"]} '
                f'x {image["height"]}: take both from the same archive.'
            )
    if missing:
        raise UserError(
            f'{len(missing):,} of {len(images):,} images of {path} '
            f'{by_number(missing, "is", "are")} not in {folder}: {shortened(missing)}.'
        )
