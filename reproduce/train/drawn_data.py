"""Drawn data in the sizes and with the classes of ImageNet, COCO and ADE20K, for rehearsals.

The scenes are those of `datasets.shapes`, enlarged to the size of photographs. The classes that
have no shape are named and have no object, so that every head is as large as for the real data.
"""

import json
import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo

from datasets import ade20k, coco_annotations, shapes
from reproduce.train.label_maps import make_labels
from reproduce.weights import store

# 150 to 224 pixels become 450 to 672: COCO's images are 640 x 480, most of ADE20K's 683 x 512.
SCALE = 3

# With fewer scenes a class might have no image.
_SCENES = 40

# The released classifier of the drawn classes makes the label maps.
_ANNOTATOR, _ANNOTATOR_WEIGHTS, _ANNOTATOR_SIZE = 'maformer_micro', 'maformer_micro_shapes', 64


def write(root: Path, images: Mapping[str, int], labels: bool = False) -> None:
    """Write the three data sets under `root`, and the label maps of one in `root/labels`.

    Args:
        root: the folder, which does not exist or is empty.
        images: the training set of each task has that many images at least; drawn ones are linked
            several times.
        labels: whether to make label maps of ImageNet's training images.
    """
    shapes.write(root, _SCENES, _SCENES, scale=SCALE)
    if labels:
        weights = root / 'annotator.safetensors'
        trained = load_file(store.find(_ANNOTATOR_WEIGHTS, _ANNOTATOR))
        # It was trained with token labeling, and has a head for it that an annotator does not need.
        save_file({k: v for k, v in trained.items() if not k.startswith('aux_head.')}, weights)
        arguments = (_ANNOTATOR, root / 'imagenet', root / 'labels', weights, _ANNOTATOR_SIZE)
        make_labels(*arguments, workers=0, device='cpu')
    _name_as_in_imagenet(root)
    _repeat_imagenet(root, images['imagenet'])
    _repeat_coco(root / 'coco', images['coco'])
    _repeat_ade20k(root / 'ade20k/ADEChallengeData2016', images['ade20k'])


def _name_as_in_imagenet(root: Path) -> None:
    """Call the drawn classes by the first of ImageNet-1K's, whose indices are then theirs."""
    wnids = sorted(ImageNetInfo('imagenet-1k').label_names())
    for old, new in zip(shapes.WNIDS, wnids, strict=False):
        for folder in (root / 'imagenet/train', root / 'imagenet/val', root / 'labels'):
            if (folder / old).is_dir():
                (folder / old).rename(folder / new)


def _repeat_imagenet(root: Path, images: int) -> None:
    originals = sorted((root / 'imagenet/train').glob('*/*.JPEG'))
    for number in range(len(originals), images):
        path = originals[number % len(originals)]
        name = f'{path.stem}_{number}'
        os.link(path, path.with_name(f'{name}.JPEG'))
        label_map = root / 'labels' / path.parent.name / f'{path.stem}.pt'
        if label_map.exists():
            os.link(label_map, label_map.with_name(f'{name}.pt'))


def _repeat_coco(root: Path, images: int) -> None:
    for split in ('train', 'val'):
        path = root / f'annotations/instances_{split}2017.json'
        content = json.loads(path.read_text())
        drawn = {category['id']: category for category in content['categories']}
        content['categories'] = [
            drawn.get(id, {'id': id, 'name': f'category {id}', 'supercategory': 'none'})
            for id in coco_annotations.CATEGORY_IDS
        ]
        originals, objects = list(content['images']), list(content['annotations'])
        ids = count(len(objects) + 1)
        for number in range(len(originals), images if split == 'train' else 0):
            image = originals[number % len(originals)]
            name = f'{number + 1:012d}.jpg'
            os.link(root / 'train2017' / image['file_name'], root / 'train2017' / name)
            content['images'].append({**image, 'id': number + 1, 'file_name': name})
            content['annotations'] += [
                {**instance, 'id': next(ids), 'image_id': number + 1}
                for instance in objects
                if instance['image_id'] == image['id']
            ]
        path.write_text(json.dumps(content))


def _repeat_ade20k(root: Path, images: int) -> None:
    originals = sorted((root / 'images/training').glob('*.jpg'))
    for number in range(len(originals), images):
        path = originals[number % len(originals)]
        for folder, suffix in (('images', '.jpg'), ('annotations', '.png')):
            place = root / folder / 'training'
            os.link(place / f'{path.stem}{suffix}', place / f'ADE_train_{number + 1:08d}{suffix}')
    names = root / ade20k.CLASS_FILE
    lines = names.read_text().splitlines()
    lines += [f'{i}\t0\tclass {i}' for i in range(len(lines), ade20k.NUM_CLASSES + 1)]
    names.write_text('\n'.join(lines) + '\n')
