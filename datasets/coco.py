"""COCO 2017 as it lies on people's disks: found and checked.

    ROOT/annotations/instances_val2017.json
    ROOT/val2017/*.jpg                              or ROOT/images/val2017/*.jpg

or, where there are no such folders, as released:

    ROOT/annotations_trainval2017.zip
    ROOT/val2017.zip                                or ROOT/images/val2017.zip

ROOT may also be the folder above, with COCO in ROOT/coco. A file of fewer images or of other
classes is read as well, and marked as not complete.
"""

import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Annotated, Any, NotRequired

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

from datasets.coco_masks import reencoded, unsound_polygons, unsound_run_lengths
from datasets.reading import upright_size
from datasets.stores import AnyPath, open_archive
from datasets.subset import Survey, check_request, evenly_spaced
from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.files import unzipped
from reproduce.base.wording import by_number, shortened

NUM_IMAGES = {'train': 118_287, 'val': 5_000}
NUM_ANNOTATIONS = {'train': 860_001, 'val': 36_781}
CATEGORY_IDS = tuple(sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}))

# The names of COCO's folder inside one that holds several data sets.
_NAMES = ('coco', 'COCO', 'coco2017', 'COCO2017', 'mscoco', 'MSCOCO')


_ANNOTATIONS = 'annotations_trainval2017.zip'


def _not_negative(box: list[float]) -> list[float]:
    if min(box[2:]) < 0:
        raise ValueError(f'the box {box} has a negative side')
    return box


# x, y, width, height in pixels; a list, since pycocotools does not accept tuples.
Box = Annotated[list[FiniteFloat], Field(min_length=4, max_length=4), AfterValidator(_not_negative)]


def _whole(value: object) -> object:
    """Return what JSON writes as `3.0` or `true` as the number it is, and anything else as is."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value


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
    counts: str | list[NonNegativeInt]


class _Instance(TypedDict):
    id: Whole
    image_id: Whole
    category_id: Whole
    bbox: Box
    area: Annotated[FiniteFloat, Field(ge=0)]
    iscrowd: Annotated[Whole, Field(ge=0, le=1)]
    segmentation: NotRequired[_RunLengths | list[list[FiniteFloat]]]


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
        for part in (self.categories, self.images, sorted(self.instances, key=_id)):
            for entry in part:
                digest.update(json.dumps(entry, sort_keys=True).encode() + b'\n')
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class COCO:
    """One split: its images with their ids, and why it is not the complete one.

    Attributes:
        root: the folder that holds `annotations/`, or their archive.
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
    annotations: AnyPath
    images: AnyPath
    samples: tuple[tuple[AnyPath, int], ...]
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
            not COCO's instances or are not as mmdet reads them, or an image is missing, lies
            outside its folder, or has another size than they say.
    """
    root = Path(root)
    layout = f'annotations/instances_{split}2017.json'
    check_request('COCO', root, layout, split, NUM_IMAGES, limit)
    base, path, folder = _find(root, split)
    whole = read(path)
    _check_for_training(path, whole)
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
        root=base,
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


def survey(root: Path, split: str = 'val') -> Survey:
    """Return what lies there of `split`; neither annotations nor images are read.

    Raises:
        DataNotFound: if there is no COCO in the folder, or none of the split's images.
        UserError: if there is no such folder, or there are images without annotations.
    """
    root = Path(root)
    check_request('COCO', root, f'annotations/instances_{split}2017.json', split, NUM_IMAGES, None)
    try:
        _, path, folder = _find(root, split)
    except _NoImages as error:  # the annotations of both splits come together
        raise DataNotFound(str(error)) from error
    images = [(entry,) for entry in folder.iterdir() if entry.suffix.lower() == '.jpg']
    expected = NUM_IMAGES[split]
    problems = (f'{len(images):,} images instead of {expected:,}',)
    return Survey(images, expected, problems * (len(images) != expected), (folder, path))


def read(path: AnyPath) -> Annotations:
    """Return the checked content of the instances file at `path`, without looking at its images.

    It may be gzipped and begin with a byte order mark. Masks are decoded and checked.

    Raises:
        UserError: if the file cannot be read, is not in the form of COCO's instances, or
            contradicts itself.
    """
    try:
        content = _FILE.validate_json(json_text(path), strict=True)
    except JSON_ERRORS as error:
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
    images = tuple(sorted(content['images'], key=_id))
    sizes = {image['id']: (image['height'], image['width']) for image in images}
    return Annotations(
        path,
        images,
        tuple(_with_sound_masks(content['annotations'], sizes, contradiction)),
        tuple(sorted(content['categories'], key=_id)),
        in_class_order=content['categories'] == sorted(content['categories'], key=_id),
    )


def _with_sound_masks(
    instances: Sequence[dict[str, Any]],
    sizes: Mapping[int, tuple[int, int]],
    contradiction: str,
) -> list[dict[str, Any]]:
    """Return the instances; run lengths in which runs are empty are encoded again.

    Args:
        sizes: height and width of each image by its id.
        contradiction: the begin of the error's sentence.

    Raises:
        UserError: if a mask is none, or is not of its image.
    """
    checked = list(instances)
    masks = [(i, entry['segmentation']) for i, entry in enumerate(instances) if _mask(entry)]
    of_image = [sizes[instances[i]['image_id']] for i, _ in masks]
    for (i, mask), size in zip(masks, of_image, strict=True):
        if isinstance(mask, dict) and tuple(mask['size']) != size:
            raise UserError(
                f'{contradiction}: the segmentation of the annotation {instances[i]["id"]} has the '
                f'size {mask["size"]} and its image {list(size)}; restore the file.'
            )
    encoded = [(i, mask) for i, mask in masks if isinstance(mask, dict)]
    polygons = [
        (i, mask, size)
        for (i, mask), size in zip(masks, of_image, strict=True)
        if isinstance(mask, list)
    ]
    places = [i for i, *_ in polygons]
    unsound = unsound_polygons([mask for _, mask, _ in polygons], [size for *_, size in polygons])
    if unsound is None:
        places = [i for i, _ in encoded]
        unsound, redundant = unsound_run_lengths([mask for _, mask in encoded])
        for i, mask in (encoded[n] for n in redundant):
            checked[i] = {**checked[i], 'segmentation': reencoded(mask)}
    if unsound is not None:
        raise UserError(
            f'{contradiction}: the segmentation of the annotation '
            f'{instances[places[unsound.index]]["id"]} {unsound.problem}; restore the file.'
        )
    return checked


def _mask(instance: Mapping[str, Any]) -> Any:
    return instance.get('segmentation')


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


# What `json_text` raises, and the validation of what it returns.
JSON_ERRORS = (OSError, EOFError, zlib.error, ValueError)  # ValidationError is a ValueError


def json_text(path: AnyPath) -> bytes | str:
    """Return the content of a JSON file that may be gzipped and in any of JSON's encodings.

    Raises:
        OSError, EOFError, zlib.error, ValueError: if it cannot be read.
    """
    content = unzipped(path.read_bytes())
    encoding = json.detect_encoding(content)
    return content if encoding == 'utf-8' else content.decode(encoding)


def reason(error: Exception) -> str:
    """Return why a file cannot be read: the first thing that is wrong in it, and where."""
    if not isinstance(error, ValidationError):
        return getattr(error, 'strerror', None) or str(error)
    errors = error.errors(include_url=False, include_input=False)
    # Of a union there is an error for each alternative: the one meant is wrong deepest inside.
    place = _place(errors[0]['loc'])
    same = [e for e in errors if _place(e['loc'])[: len(place)] == place]
    first = max(same, key=lambda e: (len(_place(e['loc'])), e['type'] == 'value_error'))
    place = '.'.join(map(str, _place(first['loc'])))
    return f'{place}: {first["msg"]}' if place else first['msg']


def _place(loc: Sequence[int | str]) -> list[int | str]:
    """Return where in the file an error is: pydantic adds the names of a union's alternatives."""
    return [
        part for part in loc if isinstance(part, int) or re.fullmatch('(?!str$)[a-z][a-z_]*', part)
    ]


def _id(entry: dict[str, Any]) -> int:
    return entry['id']


class _NoImages(UserError):
    """There are annotations, and none of their images."""


def _find(root: Path, split: str) -> tuple[Path, AnyPath, AnyPath]:
    """Return the folder of the data set, the instances file of `split`, that of its images."""
    bases = [root, *(root / name for name in _NAMES)]
    expected = f'annotations/instances_{split}2017.json'
    for base in bases:
        places = _with_archive(base, _ANNOTATIONS)
        path = next((p / expected for p in places if (p / expected).is_file()), None)
        if path is not None:
            for place in (f'{split}2017', f'images/{split}2017'):
                if (base / place).is_dir():
                    return base, path, base / place
            for below in (base, base / 'images'):
                for place in _with_archive(below, f'{split}2017.zip')[1:]:
                    if (place / f'{split}2017').is_dir():
                        return base, path, place / f'{split}2017'
            raise _NoImages(
                f'{base} has annotations and no images: expected them in {split}2017 or '
                f'images/{split}2017, or in {split}2017.zip; put them there.'
            )
    for base in bases:
        if (zipped := base / f'{expected}.gz').is_file():
            raise UserError(f'{zipped} is compressed: unpack it with gunzip, for mmdet to read it.')
        if any(base.glob('annotations/*.json')) or (base / f'{split}2017').is_dir():
            raise UserError(
                f'{base} has no {expected}: put it there, from annotations_trainval2017.zip.'
            )
    below = [path for depth in ('*', '*/*') for path in sorted(root.glob(f'{depth}/{expected}'))]
    where = (
        f'it is in {below[0].parents[1]}; name that folder'
        if below
        else ('name the folder that holds them')
    )
    raise DataNotFound(
        f'no COCO in {root}: expected {expected} and {split}2017, or {_ANNOTATIONS} and '
        f'{split}2017.zip; {where}.'
    )


def _with_archive(folder: Path, name: str) -> list[AnyPath]:
    """Return the folder, and the root of its archive `name` if there is one."""
    path = folder / name
    return [folder, open_archive(path)] if path.is_file() else [folder]


def _check_for_training(path: AnyPath, content: Annotations) -> None:
    """Check what matters where mmdet reads the file `path` itself, and opens its images.

    Raises:
        UserError: if the file begins with a byte order mark, its categories are in another order
            than by id, or an image is said to lie outside the folder of the images.
    """
    with path.open('rb') as file:
        encoding = json.detect_encoding(file.read(4))
    if encoding != 'utf-8':
        raise UserError(
            f'{path} is in {encoding}, which mmdet does not read: save it as UTF-8 without a byte '
            'order mark.'
        )
    if not content.in_class_order:
        raise UserError(
            f'{path} lists its categories in another order than by id: sort them by id; detectors '
            'number their classes in the order of the file.'
        )
    for image in content.images:
        name = PurePath(image['file_name'])
        if name.is_absolute() or '..' in name.parts:
            raise UserError(
                f'{path} names the image {name}: expected a file below the folder of the images; '
                'no other is read.'
            )


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
            f'{by_number(missing, "is", "are")} not in {folder}: {shortened(missing)}; restore '
            f'{by_number(missing, "it", "them")}, or take annotations of those there are.'
        )
