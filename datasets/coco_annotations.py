"""COCO's instances files: their form, their content, and what is checked of it."""

import hashlib
import json
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Annotated, Any, NotRequired

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    Tag,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

from datasets.coco_masks import check_polygons, sound_run_lengths
from datasets.stores import AnyPath
from datasets.subset import evenly_spaced
from reproduce.base.errors import UserError
from reproduce.base.files import first_error, unzipped
from reproduce.base.wording import by_number, shortened

NUM_IMAGES = {'train': 118_287, 'val': 5_000}
NUM_ANNOTATIONS = {'train': 860_001, 'val': 36_781}
CATEGORY_IDS = tuple(sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}))

# pycocotools counts pixels of a mask in 32 bits.
_MOST_PIXELS = 2**29


def _not_negative(box: list[float]) -> list[float]:
    if min(box[2:]) < 0:
        raise ValueError(f'the box {box} has a negative side')
    return box


def _whole(value: object) -> object:
    """Return what JSON writes as `3.0` or `true` as the number it is, and anything else as is."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value


# x, y, width, height in pixels; a list, since pycocotools does not accept tuples.
Box = Annotated[list[FiniteFloat], Field(min_length=4, max_length=4), AfterValidator(_not_negative)]
Whole = Annotated[int, BeforeValidator(_whole)]
# Height and width in pixels.
MaskSize = Annotated[list[Annotated[Whole, Field(gt=0)]], Field(min_length=2, max_length=2)]


class _ImageInfo(TypedDict):
    id: Whole
    file_name: str
    height: Annotated[Whole, Field(gt=0)]
    width: Annotated[Whole, Field(gt=0)]


class _RunLengths(TypedDict):
    size: MaskSize
    counts: Annotated[
        Annotated[str, Tag('compressed')] | Annotated[list[NonNegativeInt], Tag('plain')],
        Discriminator(lambda value: 'plain' if isinstance(value, list) else 'compressed'),
    ]


class _Instance(TypedDict):
    id: Whole
    image_id: Whole
    category_id: Whole
    bbox: Box
    area: Annotated[FiniteFloat, Field(ge=0)]
    iscrowd: Annotated[Whole, Field(ge=0, le=1)]
    segmentation: NotRequired[
        Annotated[
            Annotated[_RunLengths, Tag('run_lengths')]
            | Annotated[list[list[FiniteFloat]], Tag('polygons')],
            Discriminator(lambda value: 'polygons' if isinstance(value, list) else 'run_lengths'),
        ]
    ]


class _Category(TypedDict):
    id: Whole
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
        in_class_order: whether the file has the categories in this order too.
    """

    path: AnyPath
    images: tuple[dict[str, Any], ...]
    instances: tuple[dict[str, Any], ...]
    categories: tuple[dict[str, Any], ...]
    in_class_order: bool = True

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
        for part in (self.categories, self.images, _by_id(self.instances)):
            for entry in part:
                digest.update(json.dumps(entry, sort_keys=True).encode() + b'\n')
        return digest.hexdigest()[:16]


def read(path: AnyPath) -> Annotations:
    """Return the checked content of the instances file at `path`, without looking at its images.

    It may be gzipped. Masks are decoded and checked.

    Raises:
        UserError: if the file cannot be read, is not in the form of COCO's instances, or
            contradicts itself.
    """
    try:
        content = read_json(path, _FILE)
    except ValueError as error:
        raise UserError(
            f"the annotations {path} are not COCO's instances: {error}; name a file like "
            'annotations/instances_val2017.json.'
        ) from error
    for contradiction in _contradictions(content):
        raise UserError(f'the annotations {path} contradict themselves: {contradiction}.')
    images, categories = _by_id(content['images']), _by_id(content['categories'])
    sizes = {image['id']: [image['height'], image['width']] for image in images}
    instances = []
    for instance in content['annotations']:
        try:
            instances.append(_with_sound_mask(instance, sizes[instance['image_id']]))
        except ValueError as error:
            raise UserError(
                f'the annotations {path} contradict themselves: the segmentation of the annotation '
                f'{instance["id"]} {error}; restore the file.'
            ) from error
    in_order = content['categories'] == list(categories)
    return Annotations(path, images, tuple(instances), categories, in_order)


def _contradictions(content: Mapping[str, Sequence[dict[str, Any]]]) -> Iterator[str]:
    """Yield a phrase for what is doubled, too large, or refers to nothing."""
    for part, key in (
        *(('images', 'id'), ('annotations', 'id'), ('categories', 'id')),
        ('categories', 'name'),
    ):
        counts = Counter(entry[key] for entry in content[part])
        if doubled := [value for value, n in counts.items() if n > 1]:
            yield f'{part} have the {key} {shortened(doubled, 1)} more than once'
    for image in content['images']:
        if image['height'] * image['width'] >= _MOST_PIXELS:
            yield f'the image {image["id"]} has {_MOST_PIXELS:,} pixels or more'
    for key, part in (('image_id', 'images'), ('category_id', 'categories')):
        known = {entry['id'] for entry in content[part]}
        if unknown := [a for a in content['annotations'] if a[key] not in known]:
            yield (
                f'{len(unknown):,} of {len(content["annotations"]):,} annotations have no known '
                f'{key}, first {unknown[0]["id"]} with {unknown[0][key]}'
            )


def _with_sound_mask(instance: dict[str, Any], size: list[int]) -> dict[str, Any]:
    """Return an instance, whose run lengths are encoded again if some runs are empty."""
    mask = instance.get('segmentation')
    if isinstance(mask, list):
        check_polygons(mask, *size)
    elif mask is not None:
        if mask['size'] != size:
            raise ValueError(f'has the size {mask["size"]} and its image {size}')
        return {**instance, 'segmentation': sound_run_lengths(mask)}
    return instance


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


def read_json(path: AnyPath, schema: TypeAdapter) -> Any:
    """Return the validated content of a JSON file in UTF-8, gzipped or not.

    Raises:
        ValueError: if it cannot be read, or does not fit; its text is the first reason.
    """
    try:
        return schema.validate_json(unzipped(path.read_bytes()).removeprefix(BOM_UTF8), strict=True)
    except ValidationError as error:
        raise ValueError(': '.join(filter(None, first_error(error)))) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(getattr(error, 'strerror', None) or str(error)) from error


def _by_id(entries: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    return tuple(sorted(entries, key=itemgetter('id')))
