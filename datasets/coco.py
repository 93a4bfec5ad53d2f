"""COCO 2017 as it lies on people's disks: found and checked.

    ROOT/annotations/instances_val2017.json
    ROOT/val2017/*.jpg                              or ROOT/images/val2017/*.jpg

ROOT may also be the folder above, with COCO in ROOT/coco. A file of fewer images or of other
classes is read as well, and marked as not complete.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

from datasets.image_files import upright_size
from datasets.subset import check_request, evenly_spaced
from reproduce.errors import DataNotFound, UserError
from reproduce.wording import by_number, shortened

NUM_IMAGES = {'train': 118_287, 'val': 5_000}
NUM_ANNOTATIONS = {'train': 860_001, 'val': 36_781}
CATEGORY_IDS = tuple(sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}))

# The names of COCO's folder inside one that holds several data sets.
_NAMES = ('coco', 'COCO', 'coco2017', 'COCO2017', 'mscoco', 'MSCOCO')


def _not_negative(box: list[float]) -> list[float]:
    if min(box[2:]) < 0:
        raise ValueError(f'the box {box} has a negative side')
    return box


# x, y, width, height in pixels; a list, since pycocotools does not accept tuples.
Box = Annotated[list[FiniteFloat], Field(min_length=4, max_length=4), AfterValidator(_not_negative)]


class _ImageInfo(TypedDict):
    id: int
    file_name: str
    height: PositiveInt
    width: PositiveInt


class _RunLengths(TypedDict):
    size: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
    counts: str | list[NonNegativeInt]


class _Instance(TypedDict):
    id: int
    image_id: int
    category_id: int
    bbox: Box
    area: Annotated[FiniteFloat, Field(ge=0)]
    iscrowd: Annotated[int, Field(ge=0, le=1)]
    segmentation: NotRequired[_RunLengths | list[Annotated[list[FiniteFloat], Field(min_length=4)]]]


class _Category(TypedDict):
    id: int
    name: str


class _File(TypedDict):
    images: list[_ImageInfo]
    annotations: list[_Instance]
    categories: list[_Category]


_FILE = TypeAdapter(_File)


@dataclass(frozen=True)
class Annotations:
    """The content of an instances file.

    Attributes:
        path: the file.
        images: a dictionary with id, file_name, height and width of each image, ordered by id.
        instances: a dictionary with id, image_id, category_id, bbox (x, y, width, height in
            pixels), area, iscrowd and, where there is one, segmentation of each object. They keep
            the order of the file, which decides between equal overlaps when they are scored.
        categories: a dictionary with id and name of each class, ordered by id.
    """

    path: Path
    images: tuple[dict[str, Any], ...]
    instances: tuple[dict[str, Any], ...]
    categories: tuple[dict[str, Any], ...]

    def take(self, limit: int | None) -> 'Annotations':
        """Return the part of `limit` images, evenly spaced over the sorted ids.

        Everything is returned if the limit is None or exceeds the number of images.

        Raises:
            UserError: if the limit is below 1.
        """
        return self.of(image['id'] for image in evenly_spaced(self.images, limit))

    def of(self, image_ids: Iterable[int]) -> 'Annotations':
        """Return the part of the images with these ids."""
        kept = set(image_ids)
        return replace(
            self,
            images=tuple(image for image in self.images if image['id'] in kept),
            instances=tuple(i for i in self.instances if i['image_id'] in kept),
        )

    @property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over the whole content, whatever the order in the file."""
        digest = hashlib.sha256()
        for part in (self.categories, self.images, sorted(self.instances, key=_id)):
            for entry in part:
                digest.update(json.dumps(entry, sort_keys=True).encode() + b'\n')
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class COCO:
    """One split: its images with their ids, and why it is not the complete one.

    Attributes:
        root: the folder that holds `annotations/`.
        split: 'val' or 'train'.
        annotations: the instances file.
        images: the folder of the images.
        samples: the file and the image id of each image, ordered by id.
        classes: the names of the categories, ordered by category id.
        category_ids: the category ids in the same order.
        complete: whether this is all of COCO 2017's split.
        problems: a phrase for each thing that is missing, extra or left out; none when complete.
        fingerprint: that of `Annotations`. It depends neither on where the files lie nor on how
            the JPEGs are encoded.
    """

    root: Path
    split: str
    annotations: Path
    images: Path
    samples: tuple[tuple[Path, int], ...]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    complete: bool
    problems: tuple[str, ...]
    fingerprint: str


def load(root: Path, split: str = 'val', limit: int | None = None) -> COCO:
    """Find `split` under `root` and check that its images are those of its annotations.

    Args:
        root: the folder in one of the layouts above.
        split: 'val' or 'train'.
        limit: take only that many images, evenly spaced over the sorted ids.

    Raises:
        DataNotFound: if there is no COCO in the folder.
        UserError: if there is no such folder or split, the limit is below 1, the annotations are
            not COCO's instances, or an image is missing or has another size than they say.
    """
    root = Path(root)
    layout = f'annotations/instances_{split}2017.json'
    check_request('COCO', root, layout, split, NUM_IMAGES, limit)
    path, folder = _find(root, split)
    whole = read(path)
    content, problems = whole.take(limit), lacks(whole, split)
    if len(content.images) < len(whole.images):
        problems.append(f'{len(content.images):,} of {len(whole.images):,} images were asked for')
    if not any(not instance['iscrowd'] for instance in content.instances):
        raise UserError(
            f'{path} has no object in the {len(content.images):,} images that were asked for: '
            'take more of them.'
        )
    _check_images(folder, path, content.images)
    return COCO(
        root=path.parents[1],
        split=split,
        annotations=path,
        images=folder,
        samples=tuple((folder / image['file_name'], image['id']) for image in content.images),
        classes=tuple(category['name'] for category in content.categories),
        category_ids=tuple(category['id'] for category in content.categories),
        complete=not problems,
        problems=tuple(problems),
        fingerprint=content.fingerprint,
    )


def read(path: Path) -> Annotations:
    """Return the checked content of the instances file at `path`, without looking at its images.

    Raises:
        UserError: if the file cannot be read, is not in the form of COCO's instances, or
            contradicts itself.
    """
    try:
        content = _FILE.validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError) as error:
        raise UserError(
            f"the annotations {path} are not COCO's instances: {reason(error)}; name a file like "
            'annotations/instances_val2017.json.'
        ) from error
    contradiction = f'the annotations {path} contradict themselves'
    for part in ('images', 'annotations', 'categories'):
        ids = Counter(entry['id'] for entry in content[part])
        if doubled := [i for i, n in ids.items() if n > 1]:
            raise UserError(
                f'{contradiction}: {part} have the id {shortened(doubled, 1)} more than once; '
                'expected each once.'
            )
    category_ids = [category['id'] for category in content['categories']]
    if category_ids != sorted(category_ids):
        raise UserError(
            f'{path} lists its categories in another order than by id: sort them by id; detectors '
            'number their classes in the order of the file.'
        )
    names = Counter(category['name'] for category in content['categories'])
    if doubled := [name for name, n in names.items() if n > 1]:
        raise UserError(
            f'{contradiction}: categories have the name {shortened(doubled, 1)} more than once; '
            'expected each once.'
        )
    for key, part in (('image_id', 'images'), ('category_id', 'categories')):
        known = {entry['id'] for entry in content[part]}
        if unknown := [a for a in content['annotations'] if a[key] not in known]:
            raise UserError(
                f'{contradiction}: {len(unknown):,} of {len(content["annotations"]):,} annotations '
                f'have no known {key}, first {unknown[0]["id"]} with {unknown[0][key]}, '
                f'which is not among the {part}; restore the file.'
            )
    annotations = Annotations(
        path,
        tuple(sorted(content['images'], key=_id)),
        tuple(content['annotations']),
        tuple(sorted(content['categories'], key=_id)),
    )
    sizes = {image['id']: [image['height'], image['width']] for image in annotations.images}
    for instance in annotations.instances:
        mask, size = instance.get('segmentation'), sizes[instance['image_id']]
        if isinstance(mask, dict) and mask['size'] != size:
            raise UserError(
                f'{contradiction}: the segmentation of the annotation {instance["id"]} has the '
                f'size {mask["size"]} and its image {size}; restore the file.'
            )
    return annotations


def lacks(content: Annotations, split: str = 'val') -> list[str]:
    """Return a phrase for each difference of `content` from the annotations of COCO 2017's split.

    Args:
        split: 'val' or 'train'.
    """
    problems = []
    ids = {category['id'] for category in content.categories}
    missing = [str(i) for i in CATEGORY_IDS if i not in ids]
    if not ids <= set(CATEGORY_IDS):
        problems.append(f'{len(ids):,} classes of its own instead of the {len(CATEGORY_IDS)}')
    elif missing:
        problems.append(
            f'{len(ids)} of {len(CATEGORY_IDS)} categories: {shortened(missing)} '
            f'{by_number(missing, "is", "are")} missing'
        )
    for kind, count, wanted in (
        ('images', len(content.images), NUM_IMAGES[split]),
        ('annotations', len(content.instances), NUM_ANNOTATIONS[split]),
    ):
        if count != wanted:
            problems.append(f'{count:,} {kind} instead of {wanted:,}')
    return problems


def reason(error: Exception) -> str:
    """Return why a file cannot be read: the first thing that is wrong in it, and where."""
    if not isinstance(error, ValidationError):
        return getattr(error, 'strerror', None) or str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    # pydantic appends the names of a union's alternatives, which do not occur in the file.
    places = [str(p) for i, p in enumerate(first['loc']) if i < 3 or isinstance(p, int)]
    return ': '.join(('.'.join(places), first['msg'])) if places else first['msg']


def _id(entry: dict[str, Any]) -> int:
    return entry['id']


def _find(root: Path, split: str) -> tuple[Path, Path]:
    """Return the instances file of `split` and the folder of its images."""
    bases = [root, *(root / name for name in _NAMES)]
    for base in bases:
        path = base / 'annotations' / f'instances_{split}2017.json'
        if path.is_file():
            for place in (f'{split}2017', f'images/{split}2017'):
                if (base / place).is_dir():
                    return path, base / place
            raise UserError(
                f'{base} has annotations and no images: expected them in {split}2017 or '
                f'images/{split}2017; put them there.'
            )
    expected = f'annotations/instances_{split}2017.json'
    for base in bases:
        if any(base.glob('annotations/*.json')) or (base / f'{split}2017').is_dir():
            raise UserError(
                f'{base} has no {expected}: put it there, from annotations_trainval2017.zip.'
            )
    raise DataNotFound(
        f'no COCO in {root}: expected {expected} and {split}2017; name the folder that holds them.'
    )


def _check_images(folder: Path, path: Path, images: Sequence[dict[str, Any]]) -> None:
    """Check that `folder` holds the images of the instances file `path`, in the sizes it says."""
    missing = []
    for image in images:
        file = folder / image['file_name']
        if not os.path.exists(file):
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
            f'{by_number(missing, "is", "are")} not in {folder}: {shortened(missing)}; restore '
            f'{by_number(missing, "it", "them")}, or take annotations of those there are.'
        )
