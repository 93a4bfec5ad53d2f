"""COCO as it is stored on disks, and the scores of detections."""

import contextlib
import gzip
import io
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO as Reference
from pycocotools.cocoeval import COCOeval

from datasets import coco, coco_annotations, shapes
from reproduce.base.errors import DataNotFound, UserError
from reproduce.tasks import detection_scores
from reproduce.tasks.detection_scores import (
    METRICS,
    checked,
    read,
    to_json,
)

NAMES = [name for name in METRICS if name not in ('ap_l', 'ar_l')]  # no drawn shape is large


@pytest.fixture(scope='module')
def drawn(both_splits):
    return both_splits / 'coco'


@pytest.fixture(scope='module')
def annotations(drawn):
    return coco.read(drawn / 'annotations/instances_val2017.json')


def instances_file(root, content, split='val'):
    path = root / f'annotations/instances_{split}2017.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def content_of(root):
    return json.loads((root / 'annotations/instances_val2017.json').read_text())


@pytest.fixture
def changeable(drawn, tmp_path):
    """A copy of the drawn data, whose images are links."""
    shutil.copytree(drawn, tmp_path / 'coco', copy_function=os.link)
    path = tmp_path / 'coco/annotations/instances_val2017.json'
    text = path.read_text()
    path.unlink()
    path.write_text(text)
    return tmp_path / 'coco'


def test_the_full_validation_set_is_complete(drawn, annotations, monkeypatch):
    monkeypatch.setitem(coco.NUM_IMAGES, 'val', 40)
    objects = len(annotations.instances)
    monkeypatch.setitem(coco_annotations.NUM_ANNOTATIONS, 'val', objects)
    monkeypatch.setattr(coco_annotations, 'CATEGORY_IDS', shapes.COCO_IDS)
    data = coco.load(drawn)
    assert data.complete
    assert [image_id for _, image_id in data.samples] == list(range(1, 41))
    assert data.samples[3][0] == drawn / 'val2017/000000000004.jpg'
    limited = coco.load(drawn, limit=4)
    assert limited.problems == ('4 of 40 images were asked for',)
    assert [image_id for _, image_id in limited.samples] == [1, 11, 21, 31]
    assert limited.fingerprint != data.fingerprint


def test_the_fingerprint_is_of_the_content_alone(drawn, changeable):
    fingerprint = coco.load(drawn).fingerprint
    path = changeable / 'val2017/000000000002.jpg'
    image = Image.open(path)
    image.load()
    path.unlink()
    image.save(path, quality=30)  # another encoder's bytes
    content = content_of(changeable)
    content['images'].reverse()
    content['annotations'].reverse()
    content['info'] = {'description': 'another'}
    instances_file(changeable, content)
    assert coco.load(changeable).fingerprint == fingerprint
    for change in (
        lambda c: c['annotations'][5]['bbox'].__setitem__(0, 1.5),
        lambda c: c['categories'][0].update(name='disc'),
    ):
        content = content_of(drawn)
        change(content)
        instances_file(changeable, content)
        assert coco.load(changeable).fingerprint != fingerprint


def annotation(content, **values):
    return content['annotations'][0].update(values)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda c: c.update(annotations=[{'id': 1, 'image_id': 1, 'caption': 'shapes'}]),
            r': annotations\.0\.category_id: Field required',
        ),
        (lambda c: annotation(c, bbox=[1, 2, -3, 4]), r'annotations\.0\.bbox: .* negative side'),
        (lambda c: annotation(c, bbox=[1, float('nan'), 3, 4]), r'bbox\.1: .* finite number'),
        (
            lambda c: annotation(c, image_id=99),
            '1 of .* annotations have no known image_id, first 1 with 99',
        ),
        (lambda c: annotation(c, id=2), 'annotations have the id 2 more than once'),
        (
            lambda c: annotation(c, segmentation={'size': [3, 4], 'counts': [12]}),
            r'segmentation of the annotation 1 has the size \[3, 4\] and its image',
        ),
    ],
)
def test_annotations_that_are_not_coco(drawn, changeable, change, message):
    content = content_of(drawn)
    change(content)
    path = instances_file(changeable, content)
    with pytest.raises(UserError, match=message) as error:
        coco.load(changeable)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


def test_categories_in_another_order_are_refused_for_detectors_alone(changeable, annotations):
    """mmdet numbers a model's classes by their order in the file."""
    content = content_of(changeable)
    path = instances_file(changeable, {**content, 'categories': content['categories'][::-1]})
    with pytest.raises(UserError, match='in another order than by id'):
        coco.load(changeable)
    turned, results = coco.read(path), shifted(annotations)
    assert turned.fingerprint == annotations.fingerprint
    assert score(results, turned) == score(results, annotations)


def test_annotations_may_be_gzipped_and_begin_with_a_mark(changeable, annotations):
    path = changeable / 'annotations/instances_val2017.json'
    zipped = path.with_name('instances_val2017.json.gz')
    zipped.write_bytes(gzip.compress(b'\xef\xbb\xbf' + path.read_bytes()))
    path.unlink()
    assert coco.read(zipped).fingerprint == annotations.fingerprint
    with pytest.raises(UserError, match=r'has no annotations/instances_val2017\.json'):
        coco.load(changeable)


def test_images_must_be_those_of_the_annotations(changeable):
    folder = changeable / 'val2017'
    first, *others = sorted(folder.iterdir())
    upright = Image.open(first).convert('RGB')
    size = cv2.imread(str(first)).shape
    exif = Image.Exif()
    exif[0x0112] = 6  # the pixels lie on their side, and readers put them upright
    first.unlink()
    upright.transpose(Image.Transpose.ROTATE_90).save(first, exif=exif)
    assert cv2.imread(str(first)).shape == size
    assert len(coco.load(changeable).samples) == 40

    for path in others[:7]:
        path.unlink()
    missing = others[0]
    with pytest.raises(UserError, match=f'7 of 40 .* not in .*: {missing.name}, .* 2 more'):
        coco.load(changeable)
    missing.write_bytes(b'no image')
    with pytest.raises(UserError, match=f'cannot read the image .*{missing.name}'):
        coco.load(changeable)
    Image.new('RGB', (30, 20)).save(missing)
    with pytest.raises(UserError, match=f'{missing.name} has 30 x 20 pixels and .* says'):
        coco.load(changeable)


def test_folders_without_coco(drawn, tmp_path):
    with pytest.raises(UserError, match='is not a folder'):
        coco.load(tmp_path / 'nowhere')
    with pytest.raises(DataNotFound, match='no COCO in'):
        coco.load(tmp_path)


def encoded(mask):
    counts = run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {'size': counts['size'], 'counts': counts['counts'].decode()}


def truth_as_results(annotations):
    """Every object but the crowds, as detected with certainty."""
    sizes = {image['id']: (image['height'], image['width']) for image in annotations.images}
    results = []
    for instance in annotations.instances:
        if instance['iscrowd']:
            continue
        mask, size = instance['segmentation'], sizes[instance['image_id']]
        counts = run_lengths.frPyObjects(mask, *size)
        counts = run_lengths.merge(counts) if isinstance(counts, list) else counts
        results.append(
            {
                **{key: instance[key] for key in ('image_id', 'category_id', 'bbox')},
                'score': 1.0,
                'segmentation': encoded(run_lengths.decode(counts)),
            }
        )
    return results


def shifted(annotations, seed=0):
    """The objects moved by some pixels, some twice, some as another class, at random scores."""
    rng = np.random.default_rng(seed)
    results = []
    for result in truth_as_results(annotations):
        for _ in range(int(rng.integers(0, 3))):
            right, down = (int(n) for n in rng.integers(-4, 5, 2))
            x, y, w, h = result['bbox']
            mask = run_lengths.decode(result['segmentation'])
            category = int(rng.choice(shapes.COCO_IDS))
            results.append(
                {
                    'image_id': result['image_id'],
                    'category_id': category if rng.random() < 0.2 else result['category_id'],
                    'bbox': [x + right, y + down, w, h],
                    'score': float(np.round(rng.random(), 2)),
                    'segmentation': encoded(np.roll(mask, (down, right), (0, 1))),
                }
            )
    return results


def score(results, annotations, masks=None):
    """The metrics and those of the classes."""
    scores = detection_scores.score(results, annotations, masks)
    return scores.metrics, scores.per_class


def test_the_truth_scores_100_in_every_cell(annotations):
    assert any(instance['iscrowd'] for instance in annotations.instances)
    metrics, per_class = score(truth_as_results(annotations), annotations)
    expected = {f'{kind}_{name}': 100.0 for kind in ('box', 'mask') for name in NAMES}
    for kind in ('box', 'mask'):  # of the objects of a class in an image one detection finds one
        assert 0 < metrics.pop(f'{kind}_ar1') < expected.pop(f'{kind}_ar1')
    assert metrics == pytest.approx(expected, abs=1e-9)
    cells = dict.fromkeys(('box_ap', 'box_ap50', 'mask_ap', 'mask_ap50'), 100.0)
    assert per_class == {name: pytest.approx(cells, abs=1e-9) for name in shapes.CLASSES}


def by_hand(path, results, iou_type, category_ids=None):
    """What pycocotools gives when its own readers get the files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = Reference(str(path))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), iou_type)
        if category_ids is not None:
            evaluation.params.catIds = category_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def test_shifted_truth_scores_what_pycocotools_gives(annotations, tmp_path, capsys):
    results = shifted(annotations)
    metrics, per_class = score(results, annotations)
    assert capsys.readouterr().out == ''
    for kind, iou_type, left_out in (('box', 'bbox', 'segmentation'), ('mask', 'segm', 'bbox')):
        file = tmp_path / 'results.json'
        file.write_text(
            json.dumps([{k: v for k, v in r.items() if k != left_out} for r in results])
        )
        expected = by_hand(annotations.path, file, iou_type)
        for name, value in zip(METRICS, expected, strict=True):
            assert metrics.get(f'{kind}_{name}', -100) == 100 * value
        assert 0 < metrics[f'{kind}_ap'] < metrics[f'{kind}_ap50'] < 100
        for name, category_id in list(zip(shapes.CLASSES, shapes.COCO_IDS, strict=True))[:2]:
            alone = by_hand(annotations.path, file, iou_type, [category_id])[0]
            assert per_class[name][f'{kind}_ap'] == pytest.approx(100 * alone, abs=1e-9)


def hard_case(seed):
    """Crowds, ties, empty images, images with 150 detections, areas at the bounds of the sizes."""
    rng = np.random.default_rng(seed)
    images, objects, results = [], [], []

    def box(height, width):
        sides = ((32, 32), (96, 96), rng.integers(3, 120, 2))[rng.choice(3, p=[0.1, 0.1, 0.8])]
        w, h = (min(int(s), n) for s, n in zip(sides, (width, height), strict=True))
        return [int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h]

    def mask(box, height, width):
        pixels = np.zeros((height, width), bool)
        x, y, w, h = (max(v, 0) for v in box)
        pixels[y : y + h, x : x + w] = True
        return pixels if rng.random() < 0.5 else pixels & (rng.random(pixels.shape) < 0.9)

    for i in range(12):
        size = tuple(int(n) for n in rng.integers(97, 220, 2))
        images.append({'id': 3 * i, 'file_name': f'{i}.jpg', 'height': size[0], 'width': size[1]})
        truth = []
        for _ in range(int(rng.choice([0, 1, 3, 6]))):
            around, category = box(*size), 5 * int(rng.integers(1, 4))
            pixels = mask(around, *size)
            truth.append((around, category))
            objects.append(
                {
                    **{'id': len(objects), 'image_id': 3 * i, 'category_id': category},
                    **{'bbox': [float(v) for v in around], 'area': float(pixels.sum())},
                    **{'iscrowd': int(rng.random() < 0.2), 'segmentation': encoded(pixels)},
                }
            )
        for _ in range(int(rng.choice([0, 5, 12, 150], p=[0.2, 0.4, 0.3, 0.1]))):
            if truth and rng.random() < 0.7:
                around, category = truth[rng.integers(len(truth))]
                moved = np.array(around) + rng.integers(-4, 5, 4)
                around = [int(v) for v in np.maximum(moved, [-9, -9, 1, 1])]
            else:
                around, category = box(*size), 5 * int(rng.integers(1, 5))
            results.append(
                {
                    **{'image_id': 3 * i, 'category_id': category},
                    **{'bbox': [float(v) for v in around], 'score': round(rng.random(), 1)},
                    'segmentation': encoded(mask(around, *size)),
                }
            )
    categories = [{'id': 5 * i, 'name': f'class {i}'} for i in range(1, 6)]
    return {'images': images, 'annotations': objects, 'categories': categories}, results


@pytest.mark.parametrize('change', [lambda i: i - 10**6, lambda i: i + 2**62])
def test_ids_may_be_any_whole_numbers_of_64_bits(tmp_path, change):
    content, results = hard_case(1)
    expected = score(results, coco.read(instances_file(tmp_path, content)))
    renumbered = json.loads(json.dumps(content))
    for part in ('images', 'annotations', 'categories'):
        for entry in renumbered[part]:
            entry |= {key: change(entry[key]) for key in entry if key == 'id' or key[-3:] == '_id'}
    found = [
        {**r, 'image_id': change(r['image_id']), 'category_id': change(r['category_id'])}
        for r in results
    ]
    assert score(found, coco.read(instances_file(tmp_path, renumbered))) == expected
    renumbered['images'][0]['id'] = 2**63
    with pytest.raises(UserError, match=r'images\.0\.id'):
        coco.read(instances_file(tmp_path, renumbered))


def test_nothing_detected_is_zero_and_not_a_gap(annotations):
    metrics, per_class = score([], annotations)
    assert metrics == {f'{kind}_{name}': 0.0 for kind in ('box', 'mask') for name in NAMES}
    assert set(per_class) == set(shapes.CLASSES)
    assert set(score([], annotations, masks=False)[0]) == {f'box_{name}' for name in NAMES}


def test_a_file_without_masks_has_box_metrics_only_and_the_other_way_round(annotations):
    results = shifted(annotations)
    both, _ = score(results, annotations)
    for left_out, kind in (('segmentation', 'box'), ('bbox', 'mask')):
        part = [{k: v for k, v in result.items() if k != left_out} for result in results]
        metrics, per_class = score(part, annotations)
        assert metrics == {k: v for k, v in both.items() if k.startswith(kind)}
        assert set(per_class['star']) == {f'{kind}_ap', f'{kind}_ap50'}


def test_results_are_kept_and_read(annotations, tmp_path):
    results = shifted(annotations)
    kept = to_json(results)
    assert kept == to_json(results)
    for name, content in (('r.json', gzip.decompress(kept)), ('r.json.gz', kept)):
        (tmp_path / name).write_bytes(content)
        assert read(tmp_path / name) == results
    checked(results, annotations, tmp_path / name)
    (tmp_path / name).write_bytes(kept[:-9])
    with pytest.raises(UserError, match='file ended before'):
        read(tmp_path / name)


def result(**values):
    one = {'image_id': 1, 'category_id': 3, 'bbox': [1.0, 2.0, 3.0, 4.0], 'score': 0.5}
    return {**one, **values}


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([result(score=float('nan'))], r'0\.score: .* finite number'),
        ([result(), result(image_id=99)], '1 of 2 detections have an unknown image_id'),
        (
            [result(), result(segmentation={'size': [9, 9], 'counts': 'a'})],
            '1 of 2 detections have no segmentation',
        ),
        (
            [result(segmentation={'size': [9, 9], 'counts': 'a'})],
            r'detection 1, on the image 1, has the size \[9, 9\] and its image',
        ),
    ],
)
def test_results_that_are_none(annotations, tmp_path, content, message):
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        checked(read(path), annotations, path)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


def test_annotations_without_masks_score_boxes_alone(drawn, tmp_path):
    content = content_of(drawn)
    for entry in content['annotations']:
        del entry['segmentation']
    truth = coco.read(instances_file(tmp_path, content))
    results = shifted(coco.read(drawn / 'annotations/instances_val2017.json'))
    boxes = [{k: v for k, v in r.items() if k != 'segmentation'} for r in results]
    assert set(score(boxes, truth)[0]) == {f'box_{name}' for name in NAMES}
    assert set(score([], truth)[0]) == {f'box_{name}' for name in NAMES}
    with pytest.raises(UserError, match=r'no segmentation for .* of its .* objects'):
        score(results, truth)
    with pytest.raises(UserError, match='has no object in these 0 images'):
        score([], truth.of([]))
