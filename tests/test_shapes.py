"""The embedded data, read back with each format's own tools."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from datasets import shapes


@pytest.fixture(scope='module')
def root(both_splits):
    return both_splits


@pytest.fixture(scope='module')
def coco(root):
    return COCO(root / 'coco/annotations/instances_val2017.json')


def test_a_seed_gives_the_same_pixels_and_another_gives_others(root):
    """Those of the committed digests, with which networks were trained and references measured."""
    rngs = (np.random.default_rng([seed, 1]) for seed in (0, 0, 1))
    a, b, c = ([shapes.draw_scene(rng, lambda: 4) for _ in range(3)] for rng in rngs)
    assert all(np.array_equal(x.image, y.image) for x, y in zip(a, b, strict=True))
    assert not any(x.image.shape == y.image.shape for x, y in zip(a, c, strict=True))
    pixels = b''.join(scene.image.tobytes() + shapes.label_map(scene).tobytes() for scene in a)
    assert hashlib.sha256(pixels).hexdigest()[:16] == '7bef5d433f160116'


def test_coco_masks_areas_and_boxes_are_those_of_its_own_tools(coco):
    annotations = coco.loadAnns(coco.getAnnIds())
    kinds = Counter((type(a['segmentation']).__name__, a['iscrowd']) for a in annotations)
    assert set(kinds) == {('list', 0), ('dict', 0), ('dict', 1)}
    for annotation in annotations:
        mask = coco.annToMask(annotation).astype(bool)
        assert mask.sum() == annotation['area'] > 0
        rows, columns = np.where(mask)
        x, y, width, height = annotation['bbox']
        assert (x, y) == (columns.min(), rows.min())
        assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)


def test_coco_has_what_the_real_one_has(root, coco):
    images = coco.loadImgs(coco.getImgIds())
    assert any(not coco.getAnnIds(image['id']) for image in images)
    for image in images:
        with Image.open(root / 'coco/val2017' / image['file_name']) as file:
            assert file.size == (image['width'], image['height'])
    assert {Image.open(path).mode for path in root.glob('coco/*2017/*.jpg')} == {'RGB', 'L'}
    assert coco.getCatIds() == list(shapes.COCO_IDS) != list(range(1, 11))


def test_no_two_instances_share_a_pixel_and_ade20k_agrees_with_coco(root, coco):
    for image in coco.loadImgs(coco.getImgIds()):
        name = f'annotations/validation/ADE_val_{image["id"]:08d}.png'
        labels = np.array(Image.open(root / 'ade20k/ADEChallengeData2016' / name))
        assert labels.dtype == np.uint8
        assert labels.max() <= len(shapes.CLASSES) + len(shapes.GROUNDS)
        taken = np.zeros(labels.shape, int)
        for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
            mask = coco.annToMask(annotation).astype(bool)
            taken += mask
            category = shapes.COCO_IDS.index(annotation['category_id'])
            assert (labels[mask] == 1 + category).all()
        assert taken.max() <= 1
