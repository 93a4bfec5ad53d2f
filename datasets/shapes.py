"""Embedded data: drawn shapes on textured grounds, the same scenes in three data sets' formats.

    ROOT/imagenet/{train,val}/WNID/*.JPEG                            cut around one shape each
    ROOT/coco/{train2017,val2017}/*.jpg, annotations/instances_*.json
    ROOT/ade20k/ADEChallengeData2016/{images,annotations}/{training,validation}/*

`python -m datasets.shapes ROOT` writes it in seconds. The same seed gives the same bytes.

A scene is a textured ground with shapes of ten classes on it, in random sizes and rotations. Most
shapes of a class have the hue of the class, the others any hue. Shapes overlap, and the whole image
is noisy. Some scenes have a crowd of small shapes of one class, some a scribble of no class, some
nothing but the ground, and some are grey-scale.

* COCO has an instance for every shape of which enough is visible. Its mask is what is visible of
  it: a polygon where the shape is whole, run lengths where it is not. A crowd is one `iscrowd`
  region.
* ADE20K labels every pixel: 1-10 are the classes of shapes, 11-15 those of grounds, 0 is a
  scribble.
* An ImageNet image is a square cut around a shape, and **its class is the class whose shapes have
  the most visible pixels in it**. A shape is left out if that is another class, or if the next
  class has two thirds as many pixels or more. Every class has the same number of images.
"""

import colorsys
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import typer
from PIL import Image, ImageDraw
from pycocotools import mask as rle

from reproduce.base.errors import UserError

CLASSES = (
    *('circle', 'ring', 'crescent', 'heart', 'star'),
    *('triangle', 'square', 'pentagon', 'hexagon', 'cross'),
)
WNIDS = tuple(f'n{i:08d}' for i in range(1, len(CLASSES) + 1))
GROUNDS = ('stripes', 'checks', 'dots', 'clouds', 'grain')
COCO_IDS = (1, 2, 3, 5, 7, 8, 11, 13, 17, 18)  # with gaps, as COCO's own have

_MIN_VISIBLE = 0.3  # the part of a shape's area that has to be visible to make it an instance
_OWN_HUE = 0.7  # the part of a class's shapes that have the hue of the class
_ONE_RIGHT_CLASS = 1.5  # the pixels of an ImageNet image's class divided by those of the next one
_ANTIALIASING = 4
_SIDES = {'triangle': 3, 'square': 4, 'pentagon': 5, 'hexagon': 6, 'star': 10}


@dataclass
class Shape:
    """A drawn shape, or a crowd of small ones."""

    category: int  # the index of its class in `CLASSES`
    polygon: np.ndarray  # its outline (N, 2) as x, y in pixels
    hollow: bool
    visible: np.ndarray  # (H, W) bool, its pixels that nothing covers
    area: int  # the number of its pixels, covered ones included


@dataclass
class Scene:
    """A drawn image and its content."""

    image: np.ndarray  # (H, W, 3) in uint8
    grey: bool  # whether the image is to be saved in grey-scale
    ground: int  # the index of its texture in `GROUNDS`
    shapes: list[Shape]  # in the order in which they were drawn
    crowds: list[Shape]  # regions of many small shapes of one class, below the shapes
    unlabelled: np.ndarray  # (H, W) bool, the pixels of a scribble

    def instances(self) -> list[Shape]:
        """Return the shapes of which enough is visible to be annotated."""
        return [s for s in self.shapes if s.visible.sum() >= _MIN_VISIBLE * s.area]

    def to_pil(self) -> Image.Image:
        """Return the image."""
        image = Image.fromarray(self.image)
        return image.convert('L') if self.grey else image


def draw_scene(rng: np.random.Generator, categories: Callable[[], int]) -> Scene:
    """Return a scene drawn at random; `categories` returns the class of the next shape."""
    height, width = (int(n) for n in rng.integers(150, 225, 2))
    ground = int(rng.integers(len(GROUNDS)))
    base = _colour(rng)
    canvas = base + _texture(rng, GROUNDS[ground], height, width)[:, :, None] * _tint(rng)
    scene = Scene(
        canvas, bool(rng.random() < 0.06), ground, [], [], np.zeros((height, width), bool)
    )
    if rng.random() >= 0.05:
        if rng.random() < 0.15:
            scene.unlabelled = _scribble(rng, canvas)
        if rng.random() < 0.15:
            scene.crowds.append(_crowd(rng, canvas, categories(), base))
        for _ in range(int(rng.integers(3, 7))):
            radius = float(np.exp(rng.uniform(np.log(14), np.log(48))))
            category, margin = categories(), rng.uniform(0.5, 0.95, 2) * radius
            sides = zip(margin, (width, height), strict=True)
            centre = np.array([rng.uniform(m, side - m) for m, side in sides])
            colour = _contrasting(rng, base, category)
            scene.shapes.append(_draw(rng, canvas, category, radius, centre, colour))
    regions = [*scene.crowds, *scene.shapes]
    for behind, region in enumerate(regions):
        for front in regions[behind + 1 :]:
            region.visible = region.visible & ~front.visible
        scene.unlabelled &= ~region.visible
    ramp = np.linspace(-1, 1, width)[None, :, None] * rng.normal(0, 15)
    noise = rng.normal(0, rng.uniform(4, 14), canvas.shape)
    scene.image = np.clip(canvas + ramp + noise, 0, 255).astype(np.uint8)
    return scene


def label_map(scene: Scene) -> np.ndarray:
    """Return the label map of a scene, (H, W) in uint8: 0 is none, then shapes, then grounds."""
    labels = np.full(scene.image.shape[:2], 1 + len(CLASSES) + scene.ground, np.uint8)
    labels[scene.unlabelled] = 0
    for shape in (*scene.crowds, *scene.shapes):
        labels[shape.visible] = 1 + shape.category
    return labels


def write(root: Path, train: int = 600, val: int = 120, seed: int = 0) -> None:
    """Draw scenes and write them as imagenet/, coco/ and ade20k/ in the folder ROOT.

    TRAIN and VAL are the numbers of scenes of each split, which do not depend on each other. The
    same SEED gives the same files.
    """
    root = Path(root)
    for split, scenes_asked, stream in (('train', train, 0), ('val', val, 1)):
        if not scenes_asked:
            continue
        rng = np.random.default_rng([seed, stream])
        categories = partial(next, _categories(rng))
        scenes = [draw_scene(rng, categories) for _ in range(scenes_asked)]
        _write_imagenet(root / 'imagenet', split, scenes, rng)
        _write_coco(root / 'coco', split, scenes)
        _write_ade20k(root / 'ade20k/ADEChallengeData2016', split, scenes)


def _categories(rng: np.random.Generator) -> Iterator[int]:
    """Yield classes at random, all of them equally often."""
    while True:
        yield from rng.permutation(len(CLASSES)).tolist()[::-1]


def _write_imagenet(root: Path, split: str, scenes: list[Scene], rng: np.random.Generator) -> None:
    cuts: dict[int, list[Image.Image]] = defaultdict(list)
    for scene in scenes:
        for shape in scene.instances():
            box = _box_around(rng, shape, scene.image.shape)
            if _right_class(scene, box) == shape.category:
                cuts[shape.category].append(scene.to_pil().crop(box))
    each = min(len(cuts[category]) for category in range(len(CLASSES)))
    if not each:
        raise UserError(f'{len(scenes)} scenes for {split} are too few: ask for 40 or more, or 0.')
    number = 0
    for category, wnid in enumerate(WNIDS):
        folder = root / split / wnid
        folder.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(cuts[category][:each]):
            number += 1
            name = f'{wnid}_{i}' if split == 'train' else f'ILSVRC2012_val_{number:08d}'
            image.save(folder / f'{name}.JPEG', 'JPEG', quality=90)


def _box_around(
    rng: np.random.Generator, shape: Shape, size: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Return a square around a shape, of 1.2 to 2 times its extent, off centre, inside the scene.

    It is left, top, right, bottom in pixels; `size` is height and width of the scene.
    """
    low, high = shape.polygon.min(0), shape.polygon.max(0)
    side = int(min((high - low).max() * rng.uniform(1.2, 2.0), *size[:2]))
    centre = (low + high) / 2 + rng.uniform(-0.12, 0.12, 2) * side
    left, top = (
        int(np.clip(c - side / 2, 0, extent - side))
        for c, extent in zip(centre, (size[1], size[0]), strict=True)
    )
    return left, top, left + side, top + side


def _right_class(scene: Scene, box: tuple[int, int, int, int]) -> int | None:
    """Return the class with the most visible pixels in `box`, if it leads by `_ONE_RIGHT_CLASS`."""
    left, top, right, bottom = box
    pixels = np.zeros(len(CLASSES))
    for shape in (*scene.shapes, *scene.crowds):
        pixels[shape.category] += shape.visible[top:bottom, left:right].sum()
    second, first = np.sort(pixels)[-2:]
    return int(pixels.argmax()) if first > _ONE_RIGHT_CLASS * second else None


def _write_coco(root: Path, split: str, scenes: list[Scene]) -> None:
    folder, annotations_folder = root / f'{split}2017', root / 'annotations'
    folder.mkdir(parents=True, exist_ok=True)
    annotations_folder.mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes, 1):
        name = f'{number:012d}.jpg'
        scene.to_pil().save(folder / name, 'JPEG', quality=90)
        height, width = scene.image.shape[:2]
        images.append({'id': number, 'file_name': name, 'height': height, 'width': width})
        regions = [(shape, 0) for shape in scene.instances()]
        regions += [(crowd, 1) for crowd in scene.crowds if crowd.visible.any()]
        for shape, crowd in regions:
            annotations.append(
                {'id': len(annotations) + 1, 'image_id': number, **_annotation(shape, crowd)}
            )
    categories = [
        {'id': id, 'name': name, 'supercategory': 'shape'}
        for id, name in zip(COCO_IDS, CLASSES, strict=True)
    ]
    content = {'info': {'description': 'Drawn shapes'}, 'licenses': [], 'images': images}
    content |= {'annotations': annotations, 'categories': categories}
    (annotations_folder / f'instances_{split}2017.json').write_text(json.dumps(content))


def _annotation(shape: Shape, crowd: int) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(shape.visible.astype(np.uint8)))
    whole = not shape.hollow and int(shape.visible.sum()) == shape.area
    if whole and not crowd:
        segmentation: Any = [shape.polygon.ravel().tolist()]
    else:
        # Uncompressed run lengths: column by column, zeros first.
        pixels = shape.visible.T.ravel().astype(np.int8)
        changes = np.flatnonzero(np.diff(pixels)) + 1
        runs = np.diff(np.concatenate([[0], changes, [pixels.size]])).tolist()
        counts = [0, *runs] if pixels[0] else runs
        segmentation = {'size': list(shape.visible.shape), 'counts': counts}
    return {
        'category_id': COCO_IDS[shape.category],
        'segmentation': segmentation,
        'area': float(rle.area(encoded)),
        'bbox': rle.toBbox(encoded).tolist(),
        'iscrowd': crowd,
    }


def _write_ade20k(root: Path, split: str, scenes: list[Scene]) -> None:
    folder = {'train': 'training', 'val': 'validation'}[split]
    images, annotations = root / 'images' / folder, root / 'annotations' / folder
    for path in (images, annotations):
        path.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes, 1):
        name = f'ADE_{split}_{number:08d}'
        scene.to_pil().convert('RGB').save(images / f'{name}.jpg', 'JPEG', quality=90)
        Image.fromarray(label_map(scene)).save(annotations / f'{name}.png')
    rows: list[tuple[Any, ...]] = [('Idx', 'Stuff', 'Name')]  # without the columns of frequencies
    rows += [(i, int(i > len(CLASSES)), name) for i, name in enumerate((*CLASSES, *GROUNDS), 1)]
    lines = ['\t'.join(map(str, row)) + '\n' for row in rows]
    (root / 'objectInfo150.txt').write_text(''.join(lines))


def _outline(rng: np.random.Generator, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the outline (N, 2) of a shape of radius 1 around the origin, and that of its hole."""
    match name:
        case 'circle':
            return _regular(48), None
        case 'ring':
            outline = _regular(48)
            return outline, outline * rng.uniform(0.4, 0.7)
        case 'crescent':
            outer = np.radians(np.linspace(58.16, 301.84, 32))
            inner = np.radians(np.linspace(271.85, 88.15, 24))
            shifted = _on_circle(inner) * 0.85 + np.array([0.5, 0])
            return np.concatenate([_on_circle(outer), shifted]), None
        case 'heart':
            t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
            return np.stack([16 * np.sin(t) ** 3, -y], 1) / 16, None
        case 'cross':
            a = rng.uniform(0.25, 0.4)
            arm, turn = np.array([[1, -a], [1, a], [a, a]]), np.array([[0, 1], [-1, 0]])
            return np.concatenate([arm, arm @ turn, arm @ -np.eye(2), arm @ -turn]), None
    outline = _regular(_SIDES[name])
    if name == 'star':
        outline[1::2] *= rng.uniform(0.4, 0.55)
    return outline, None


def _on_circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _regular(corners: int) -> np.ndarray:
    return _on_circle(np.linspace(0, 2 * np.pi, corners, endpoint=False))


def _draw(
    rng: np.random.Generator,
    canvas: np.ndarray,
    category: int,
    radius: float,
    centre: np.ndarray,
    colour: np.ndarray,
) -> Shape:
    """Draw a shape on `canvas` (H, W, 3)."""
    height, width = canvas.shape[:2]
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    stretch = np.array([1.0, rng.uniform(0.75, 1.0)])
    polygons = [
        np.clip(np.round(o * stretch @ rotation * radius + centre, 2), 0, [width, height])
        for o in _outline(rng, CLASSES[category])
        if o is not None
    ]
    # The pixels as COCO's own tools rasterise the polygons, and the part of each that is covered.
    masks = [
        rle.decode(rle.frPyObjects([polygon.ravel().tolist()], height, width))[:, :, 0].astype(bool)
        for polygon in polygons
    ]
    mask = masks[0] & ~masks[-1] if len(masks) > 1 else masks[0]
    large = Image.new('L', (width * _ANTIALIASING, height * _ANTIALIASING))
    for polygon, value in zip(polygons, (255, 0), strict=False):
        ImageDraw.Draw(large).polygon([tuple(p) for p in polygon * _ANTIALIASING], value)
    coverage = np.asarray(large.reduce(_ANTIALIASING), np.float32)[:, :, None] / 255
    texture = _texture(rng, GROUNDS[int(rng.integers(len(GROUNDS)))], height, width)
    fill = colour + 0.4 * texture[:, :, None] * _tint(rng)
    canvas += coverage * (fill - canvas)
    return Shape(category, polygons[0], len(polygons) > 1, mask, int(mask.sum()))


def _crowd(
    rng: np.random.Generator, canvas: np.ndarray, category: int, ground: np.ndarray
) -> Shape:
    """Draw many small shapes of one class close together, and return them as one region."""
    height, width = canvas.shape[:2]
    middle = np.array([rng.uniform(45, width - 45), rng.uniform(45, height - 45)])
    colour = _contrasting(rng, ground, category)
    shapes = []
    for _ in range(int(rng.integers(9, 16))):
        radius = rng.uniform(6, 10)
        centre = np.clip(middle + rng.normal(0, 14, 2), 10, [width - 10, height - 10])
        shapes.append(_draw(rng, canvas, category, radius, centre, colour))
    mask = np.logical_or.reduce([shape.visible for shape in shapes])
    outlines = np.concatenate([shape.polygon for shape in shapes])
    return Shape(category, outlines, False, mask, int(mask.sum()))


def _scribble(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Draw a thick line of no class, and return its pixels (H, W) as bool."""
    height, width = canvas.shape[:2]
    points = rng.uniform(0, 1, (5, 2)) * [width, height]
    stroke = Image.new('1', (width, height))
    ImageDraw.Draw(stroke).line([tuple(p) for p in points], 1, int(rng.integers(4, 9)), 'curve')
    mask = np.array(stroke)
    canvas[mask] = _colour(rng)
    return mask


def _colour(rng: np.random.Generator, hue: float | None = None) -> np.ndarray:
    """Return a random colour (3,) in 0-255, of the given hue in 0-1 or of any."""
    hue = rng.random() if hue is None else hue
    rgb = colorsys.hsv_to_rgb(hue, rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.95))
    return np.array(rgb) * 255


def _contrasting(rng: np.random.Generator, ground: np.ndarray, category: int) -> np.ndarray:
    """Return a colour for a shape of a class that contrasts with the colour of the ground."""
    while True:
        own = category / len(CLASSES) + rng.normal(0, 0.02)
        colour = _colour(rng, own % 1 if rng.random() < _OWN_HUE else None)
        if np.linalg.norm(colour - ground) > 80:
            return colour


def _tint(rng: np.random.Generator) -> np.ndarray:
    """Return how strongly a texture changes each colour channel, (3,)."""
    return rng.uniform(10, 35) * rng.uniform(0.6, 1.4, 3)


def _texture(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """Return a texture (H, W) of values from about -1 to 1."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn, period = rng.uniform(0, np.pi), rng.uniform(6, 20)
    u = (np.cos(turn) * x + np.sin(turn) * y) * 2 * np.pi / period
    v = (-np.sin(turn) * x + np.cos(turn) * y) * 2 * np.pi / period
    match kind:
        case 'stripes':
            return np.sign(np.sin(u))
        case 'checks':
            return np.sign(np.sin(u) * np.sin(v))
        case 'dots':
            return np.where(np.cos(u) + np.cos(v) > 0.9, 1.0, -0.5)
        case 'clouds':
            coarse = Image.fromarray(rng.normal(0, 1, (8, 8)).astype(np.float32))
            return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        case _:
            return rng.normal(0, 0.7, (height, width))


if __name__ == '__main__':
    typer.run(write)
