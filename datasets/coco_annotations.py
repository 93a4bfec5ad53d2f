"""COCO's instances files: their form, their content, and what is checked of it.

pycocotools trusts what it decodes: run lengths that do not cover the image give a wrong number or
never return, and a coordinate far outside the image ends the process. So masks are checked before
they reach it; hotcoco checks run lengths when it decodes them.
"""

import hashlib
import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Annotated, Any, NotRequired

from hotcoco import mask as run_lengths
from pydantic import AfterValidator, Discriminator, Field, FiniteFloat, Tag, TypeAdapter
from typing_extensions import TypedDict

from datasets.stores import AnyPath
from datasets.subset import evenly_spaced
from reproduce.base.errors import UserError
from reproduce.base.files import naming_file, unzipped
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


# NumPy has no whole numbers of more bits, and would compare some as fractions.
Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Natural = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(gt=0)]
# x, y, width, height in pixels; a list, since pycocotools does not accept tuples.
Box = Annotated[list[FiniteFloat], Field(min_length=4, max_length=4), AfterValidator(_not_negative)]
# Height and width in pixels.
MaskSize = Annotated[list[_Positive], Field(min_length=2, max_length=2)]


class _ImageInfo(TypedDict):
    id: Id
    file_name: str
    height: _Positive
    width: _Positive


class _RunLengths(TypedDict):
    size: MaskSize
    counts: Annotated[
        Annotated[str, Tag('compressed')] | Annotated[list[_Natural], Tag('plain')],
        Discriminator(lambda value: 'plain' if isinstance(value, list) else 'compressed'),
    ]


class _Instance(TypedDict):
    id: Id
    image_id: Id
    category_id: Id
    bbox: Box
    area: Annotated[FiniteFloat, Field(ge=0)]
    iscrowd: Annotated[int, Field(ge=0, le=1)]
    segmentation: NotRequired[
        Annotated[
            Annotated[_RunLengths, Tag('run_lengths')]
            | Annotated[list[list[FiniteFloat]], Tag('polygons')],
            Discriminator(lambda value: 'polygons' if isinstance(value, list) else 'run_lengths'),
        ]
    ]


class _Category(TypedDict):
    id: Id
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
        """Return the part of `limit` images, evenly spaced over the sorted ids; None for all."""
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
    """Return the checked content of the instances file at `path`, which may be gzipped.

    Raises:
        UserError: if the file cannot be read, is not in the form of COCO's instances, contradicts
            itself, or has a mask that is not sound.
    """
    content = read_json(path, _FILE)
    for contradiction in _contradictions(content):
        raise UserError(f'the annotations {path} contradict themselves: {contradiction}.')
    images, categories = _by_id(content['images']), _by_id(content['categories'])
    sizes = {image['id']: [image['height'], image['width']] for image in images}
    for instance in content['annotations']:
        try:
            check_mask(instance, sizes[instance['image_id']])
        except ValueError as error:
            raise UserError(
                f'{path}: the segmentation of the annotation {instance["id"]} {error}.'
            ) from error
    in_order = content['categories'] == list(categories)
    return Annotations(path, images, tuple(content['annotations']), categories, in_order)


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


def check_mask(instance: dict[str, Any], size: list[int]) -> None:
    """Check the mask of an object or a detection; run lengths become `sound_run_lengths`.

    Args:
        size: height and width of the image.

    Raises:
        ValueError: if it is not sound.
    """
    mask = instance.get('segmentation')
    if isinstance(mask, list):
        check_polygons(mask, *size)
    elif mask is not None:
        if mask['size'] != size:
            raise ValueError(f'has the size {mask["size"]} and its image {size}')
        instance['segmentation'] = sound_run_lengths(mask)


def sound_run_lengths(mask: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return run lengths, compressed or not; encoded again if they have runs of no pixels.

    Libraries disagree about runs of no pixels other than the first.

    Raises:
        ValueError: if the run lengths do not cover the image.
    """
    (height, width), counts = mask['size'], mask['counts']
    try:
        if isinstance(counts, list):
            covers = sum(counts) == height * width
            if covers and 0 in counts[1:]:
                return _encoded_again(run_lengths.frPyObjects(dict(mask), height, width))
        else:
            again = _encoded_again(mask)
            covers = _longer_than(counts, height * width - 1)
            if covers and again['counts'] != counts:
                return again
    except (ValueError, TypeError) as error:  # TypeError: not text in UTF-8
        raise ValueError(f'cannot be decoded ({error})') from error
    if not covers:
        raise ValueError(f'has run lengths that do not cover its {height} x {width} pixels')
    return mask


def _encoded_again(mask: Any) -> dict[str, Any]:
    """Return the union of a mask with itself, which has no runs without pixels."""
    merged = run_lengths.merge([mask, mask])
    return {'size': list(merged['size']), 'counts': merged['counts'].decode()}


def _longer_than(counts: str, pixels: int) -> bool:
    """Return whether run lengths that can be decoded have more than `pixels` pixels."""
    try:
        run_lengths.rle_from_string(counts, 1, pixels)
    except ValueError:
        return True
    return False


def check_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> None:
    """Check that polygons have three points or more, and are not far outside of their image.

    Raises:
        ValueError: for the first polygon that is unsound.
    """
    beyond = max(height, width)
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f'has a polygon of {len(polygon)} numbers: expected 6, 8, ...')
        low, right, bottom = min(polygon), max(polygon[::2]), max(polygon[1::2])
        if low < -beyond or right > width + beyond or bottom > height + beyond:
            raise ValueError(
                f'has a polygon with the coordinate {max(polygon, key=abs):g}, far outside its '
                f'image of {width} x {height} pixels'
            )


def lacks(content: Annotations, split: str = 'val') -> list[str]:
    """Return a phrase for each difference of `content` from COCO 2017's split of this name."""
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
    """Return the validated content of a JSON file in UTF-8, gzipped or not."""
    with naming_file(path):
        return schema.validate_json(unzipped(path.read_bytes()).removeprefix(BOM_UTF8), strict=True)


def _by_id(entries: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    return tuple(sorted(entries, key=itemgetter('id')))
