"""Drawn data in the sizes and with the classes of ImageNet, COCO and ADE20K, for rehearsals.

The scenes are those of `datasets.shapes`, enlarged to the size of photographs. The classes that
have no shape are named and have no object, so that every head is as large as for the real data.
"""

import json
import os
from pathlib import Path

from safetensors.torch import load_file, save_file

from datasets import ade20k, coco_annotations, shapes
from datasets.classes import imagenet_classes
from reproduce.train.label_maps import make_labels
from reproduce.weights import store

# 150 to 224 pixels become 450 to 672: COCO's images are 640 x 480, most of ADE20K's 683 x 512.
SCALE = 3

# With fewer scenes a class might have no image.
_SCENES = 40


def write(root: Path, scenes: int, images: int, labels: bool = False) -> None:
    """Write the three data sets under `root`, and the label maps of one in `root/labels`.

    Args:
        root: the folder, which does not exist or is empty.
        scenes: the training images of COCO and ADE20K, at least.
        images: those of ImageNet, at least; drawn ones are linked under several names.
        labels: whether to make label maps of ImageNet's training images.
    """
    shapes.write(root, max(scenes, _SCENES), _SCENES, scale=SCALE)
    if labels:
        # The released classifier of the drawn classes makes them. It was trained with token
        # labeling, and has a head for it that an annotator does not need.
        trained = load_file(store.find('maformer_micro_shapes', 'maformer_micro'))
        weights = root / 'annotator.safetensors'
        save_file({k: v for k, v in trained.items() if not k.startswith('aux_head.')}, weights)
        arguments = ('maformer_micro', root / 'imagenet', root / 'labels', weights, 64)
        make_labels(*arguments, workers=0, device='cpu')
    # The drawn classes get the names of the first of ImageNet-1K's, whose indices are then theirs.
    folders = [root / 'imagenet/train', root / 'imagenet/val', root / 'labels']
    for old, new in zip(shapes.WNIDS, imagenet_classes(), strict=False):
        for folder in folders:
            if (folder / old).is_dir():
                (folder / old).rename(folder / new)
    drawn = sorted(path.relative_to(folders[0]) for path in folders[0].glob('*/*.JPEG'))
    for number in range(len(drawn), images):
        name = drawn[number % len(drawn)]
        for file in (folders[0] / name, folders[2] / name.with_suffix('.pt')):
            if file.exists():
                os.link(file, file.with_stem(f'{file.stem}_{number}'))
    for path in (root / 'coco/annotations').glob('instances_*.json'):
        content = json.loads(path.read_text())
        known = {category['id']: category for category in content['categories']}
        content['categories'] = [
            known.get(id, {'id': id, 'name': f'category {id}', 'supercategory': 'none'})
            for id in coco_annotations.CATEGORY_IDS
        ]
        path.write_text(json.dumps(content))
    names = root / 'ade20k/ADEChallengeData2016' / ade20k.CLASS_FILE
    lines = names.read_text().splitlines()
    lines += [f'{i}\t0\tclass {i}' for i in range(len(lines), ade20k.NUM_CLASSES + 1)]
    names.write_text('\n'.join(lines) + '\n')
