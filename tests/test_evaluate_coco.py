"""Detectors evaluated on COCO for real, and held against mmdet's own loop and metric.

The detector is untrained. So that it has an average precision that could change, the objects of the
annotations are some of its own detections, moved.
"""

import gzip
import json
import os
import shutil

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools import mask as run_lengths
from ranks import in_ranks

from datasets import coco, shapes
from reproduce.base.errors import UserError
from reproduce.evaluate.harness import evaluate
from reproduce.openmmlab.configs import load_config
from reproduce.openmmlab.data_paths import point_at
from reproduce.openmmlab.models import build
from reproduce.openmmlab.transforms import LoadWholeImage
from reproduce.tasks.detection import detections
from reproduce.tasks.detection_scores import METRICS, checked, read, score
from reproduce.tasks.job import Job

IMAGES = 11  # which neither 2 nor 3 divides

CONFIG = """
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['model.openmmlab'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type='MAFormer', arch='maformer_micro'),
    neck=dict(in_channels=[32, 64, 96, 128], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=10),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16, num_classes=10),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=30)),
)
test_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(128, 128), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
            ),
        ]
    ),
)
"""
BOXES_ONLY = {'model.roi_head.mask_head': None, 'model.roi_head.mask_roi_extractor': None}


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'mask-rcnn_maformer-micro_fpn.py'
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope='module')
def weights(config):
    torch.manual_seed(0)
    model = build(load_config(config), 'cpu')
    state = model.state_dict()
    # Certain of something in most places.
    state['roi_head.bbox_head.fc_cls.weight'] *= 60
    path = config.with_suffix('.pth')
    torch.save(state, path)
    return path


@pytest.fixture(scope='module')
def data(tmp_path_factory, config, weights):
    """11 drawn images, one of them grey, one empty, with objects where the detector sees some."""
    root = tmp_path_factory.mktemp('data') / 'coco'
    shapes.write(root.parent / 'drawn', train=0, val=40)
    drawn = coco.load(root.parent / 'drawn')
    content = coco.read(drawn.annotations)
    grey = [image_id for path, image_id in drawn.samples if Image.open(path).mode == 'L']
    empty = {i for _, i in drawn.samples} - {a['image_id'] for a in content.instances}
    ids = sorted([*grey[:1], *sorted(empty - set(grey))[:1]])
    ids = sorted([*ids, *[i for _, i in drawn.samples if i not in ids][: IMAGES - len(ids)]])
    assert len(ids) == IMAGES
    content = content.of(ids)
    (root / 'annotations').mkdir(parents=True)
    shutil.copytree(drawn.images, root / 'val2017')

    def write(objects):
        text = {'images': content.images, 'annotations': objects, 'categories': content.categories}
        (root / 'annotations/instances_val2017.json').write_text(json.dumps(text))

    write(content.instances)
    found = read_predictions(evaluate(job(config, weights, root)), root.parent)
    rng = np.random.default_rng(0)
    objects = []
    for detection in found:
        if detection['image_id'] == ids[4] or rng.random() > detection['score']:
            continue  # an image without objects, and what the detector is not certain of
        shift = int(rng.integers(0, 3))
        mask = np.roll(run_lengths.decode(detection['segmentation']), shift, 0)
        if not mask.any():
            continue
        counts = run_lengths.encode(np.asfortranarray(mask))
        x, y, w, h = detection['bbox']
        objects.append(
            {
                **{'id': len(objects) + 1, 'image_id': detection['image_id']},
                **{'category_id': detection['category_id'], 'bbox': [x, y + shift, w, h]},
                **{'area': float(mask.sum()), 'iscrowd': int(rng.random() < 0.1)},
                'segmentation': {'size': counts['size'], 'counts': counts['counts'].decode()},
            }
        )
    assert {o['iscrowd'] for o in objects} == {0, 1}
    write(objects)
    return root


def job(config, weights, data, **kwargs):
    return Job('coco', str(config), weights, data, **{'workers': 0, 'device': 'cpu', **kwargs})


def read_predictions(outcome, folder):
    path = folder / f'predictions{outcome.evaluation.predictions}'
    path.write_bytes(outcome.predictions)
    return read(path)


@pytest.fixture(scope='module')
def alone(config, weights, data):
    return evaluate(job(config, weights, data))


@pytest.fixture(scope='module')
def mmdet_says(config, weights, data, tmp_path_factory):
    """The numbers and the result files of mmdet's own loader, loop and metric on these weights."""
    folder = tmp_path_factory.mktemp('mmdet')
    own = load_config(config)
    own.work_dir, own.load_from = str(folder), str(weights)
    own.test_evaluator.outfile_prefix = str(folder / 'results')
    point_at(own, coco.load(data), 'test')
    own.log_level = 'ERROR'
    with DefaultScope.overwrite_default_scope('mmdet'):
        metrics = Runner.from_cfg(own).test()
    return metrics, folder


def test_it_is_what_mmdets_own_loop_and_metric_give(alone, mmdet_says, tmp_path):
    expected, folder = mmdet_says
    metrics = alone.evaluation.metrics
    names = {'ap': 'mAP', 'ap50': 'mAP_50', 'ap75': 'mAP_75', 'ap_s': 'mAP_s', 'ap_m': 'mAP_m'}
    for kind, theirs in (('box', 'bbox'), ('mask', 'segm')):
        for name, their_name in names.items():
            # mmdet rounds to three digits of a fraction.
            value = expected[f'coco/{theirs}_{their_name}']
            assert metrics[f'{kind}_{name}'] == pytest.approx(100 * value, abs=0.0501)
        assert 5 < metrics[f'{kind}_ap'] < metrics[f'{kind}_ap50'] < 95
    ours = read_predictions(alone, tmp_path)
    boxes, masks = (
        json.loads((folder / f'results.{kind}.json').read_text()) for kind in ('bbox', 'segm')
    )
    assert len(ours) == len(boxes) == len(masks) > 5 * IMAGES
    for our, box, mask in zip(ours, boxes, masks, strict=True):
        assert our == {**box, 'segmentation': mask['segmentation']}


def test_the_record_says_what_was_measured(alone, data, config, tmp_path):
    record = alone.evaluation
    assert (record.task, record.system, record.model) == ('coco', None, str(config))
    assert record.data.images == IMAGES
    assert record.data.fingerprint == coco.load(data).fingerprint
    assert not record.data.complete
    assert record.precision == 'fp32'
    steps = [step['type'] for step in record.preprocessing['pipeline']]
    assert steps == ['LoadWholeImage', 'Resize', 'PackDetInputs']
    assert {f'{kind}_{name}' for kind in ('box', 'mask') for name in METRICS} >= set(record.metrics)
    assert {'box_ar100', 'mask_ar1', 'mask_ar_s'} <= set(record.metrics)
    assert set(record.per_class) <= set(shapes.CLASSES)
    annotations = coco.read(data / 'annotations/instances_val2017.json')
    results = read_predictions(alone, tmp_path)
    assert checked(results, annotations, tmp_path) == results
    for fast in (False, True):
        scores = score(results, annotations, fast=fast)
        assert (scores.metrics, scores.per_class) == (record.metrics, record.per_class)


@pytest.mark.parametrize('processes', [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_processes_detects_the_same(
    config, weights, data, alone, processes, tmp_path
):
    together = in_ranks(processes, evaluate, job(config, weights, data))
    assert together.evaluation.metrics == alone.evaluation.metrics
    assert together.evaluation.per_class == alone.evaluation.per_class
    assert together.evaluation.key == alone.evaluation.key
    assert together.evaluation.provenance.processes == processes
    theirs, ours = (read_predictions(outcome, tmp_path) for outcome in (together, alone))
    for their, our in zip(theirs, ours, strict=True):
        assert (their['image_id'], their['category_id']) == (our['image_id'], our['category_id'])
        assert their['score'] == pytest.approx(our['score'], abs=1e-5)
        assert their['bbox'] == pytest.approx(our['bbox'], abs=1e-3)


def test_half_precision_runs_to_the_end(config, weights, data, alone):
    outcome = evaluate(job(config, weights, data, amp='bf16'))
    assert outcome.evaluation.precision == 'bf16'
    assert outcome.evaluation.key != alone.evaluation.key
    assert outcome.evaluation.metrics.keys() == alone.evaluation.metrics.keys()
    assert outcome.predictions != alone.predictions
    assert outcome.evaluation.metrics['mask_ap50'] > 0
    # Boxes are decoded in fp32: their sides are more than half precision can tell apart.
    found = json.loads(gzip.decompress(outcome.predictions))
    sides = torch.tensor([result['bbox'] for result in found])
    assert (sides != sides.bfloat16().float()).float().mean() > 0.5


def test_a_detector_without_masks_has_box_metrics_only(config, weights, data, alone, tmp_path):
    state = torch.load(weights)
    boxes = {k: v for k, v in state.items() if not k.startswith('roi_head.mask_head')}
    torch.save(boxes, tmp_path / 'boxes.pth')
    outcome = evaluate(job(config, tmp_path / 'boxes.pth', data, arguments=BOXES_ONLY))
    expected = {k: v for k, v in alone.evaluation.metrics.items() if k.startswith('box')}
    assert outcome.evaluation.metrics == expected
    assert outcome.evaluation.overridden == tuple(sorted(BOXES_ONLY))
    content = json.loads((data / 'annotations/instances_val2017.json').read_text())
    for instance in content['annotations']:
        del instance['segmentation']
    (tmp_path / 'coco/annotations').mkdir(parents=True)
    (tmp_path / 'coco/val2017').symlink_to(data / 'val2017')
    (tmp_path / 'coco/annotations/instances_val2017.json').write_text(json.dumps(content))
    outcome = evaluate(job(config, tmp_path / 'boxes.pth', tmp_path, arguments=BOXES_ONLY))
    assert outcome.evaluation.metrics == expected
    with pytest.raises(UserError, match=r'no segmentation for .* of its .* objects'):
        evaluate(job(config, weights, tmp_path))


def test_nothing_detected_is_zero_and_not_a_gap(config, weights, data, alone):
    nothing = {'model.test_cfg.rcnn.score_thr': 1.5}
    outcome = evaluate(job(config, weights, data, arguments=nothing, limit=3))
    assert outcome.evaluation.metrics.keys() <= alone.evaluation.metrics.keys()
    assert {'box_ap', 'mask_ap'} <= outcome.evaluation.metrics.keys()
    assert set(outcome.evaluation.metrics.values()) == {0.0}
    assert outcome.evaluation.data.images == 3
    assert '3 of 11 images were asked for' in outcome.evaluation.data.problems


@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_unreadable_image_stops_the_run_and_is_named(config, weights, data, workers, tmp_path):
    shutil.copytree(data, tmp_path / 'coco', copy_function=os.link)
    bad = sorted(path for path, _ in coco.load(tmp_path).samples)[7]
    content = bad.read_bytes()
    bad.unlink()
    bad.write_bytes(content[: len(content) // 2])  # its header is whole
    with pytest.raises(UserError, match=f'cannot read the image {bad}: .*truncated'):
        evaluate(job(config, weights, tmp_path, workers=workers))


def test_images_are_read_as_mmcv_reads_them(data, tmp_path):
    from mmcv.transforms import LoadImageFromFile

    path = sorted((data / 'val2017').iterdir())[0]
    for kwargs in ({}, {'to_float32': True}, {'color_type': 'grayscale'}):
        ours, theirs = (
            transform(**kwargs)({'img_path': str(path)})
            for transform in (LoadWholeImage, LoadImageFromFile)
        )
        assert ours.keys() == theirs.keys()
        np.testing.assert_array_equal(ours['img'], theirs['img'])
        assert ours['img'].dtype == theirs['img'].dtype
    Image.open(path).save(tmp_path / 'whole.png')
    (tmp_path / 'cut.png').write_bytes((tmp_path / 'whole.png').read_bytes()[:-300])
    (tmp_path / 'none.jpg').write_bytes(b'text')
    LoadWholeImage()({'img_path': str(tmp_path / 'whole.png')})
    for name in ('cut.png', 'none.jpg', 'missing.jpg'):
        with pytest.raises(UserError, match=f'cannot read the image .*{name}') as error:
            LoadWholeImage()({'img_path': str(tmp_path / name)})
        assert '\n' not in str(error.value)


def changed(weights, path, **changes):
    state = torch.load(weights)
    for name, change in changes.items():
        change(state[name.replace('__', '.')])
    torch.save(state, path)
    return path


def test_mistakes_are_reported_before_anything_is_predicted(config, weights, data, tmp_path, cite):
    cite('mask-rcnn_vil-s_fpn_1x_coco')
    with pytest.raises(UserError, match=r'num_classes is 80.* has 10 classes'):
        evaluate(Job('coco', 'mask-rcnn_maformer-small_fpn_1x_coco.py', weights, data))
    with pytest.raises(UserError, match='is a config for ade20k, not for coco'):
        evaluate(Job('coco', 'fpn_maformer-small_8xb2-80k_ade20k-512x512.py', weights, data))
    with pytest.raises(UserError, match='cannot be evaluated, only cited'):
        evaluate(Job('coco', 'mask-rcnn_vil-s_fpn_1x_coco', weights, data))
    with pytest.raises(UserError, match='there is no config'):
        evaluate(job('nowhere.py', weights, data))
    with pytest.raises(UserError, match=r'is not one of mask-rcnn_maformer-micro_fpn\.py: .*mask'):
        evaluate(job(config, weights, data, arguments=BOXES_ONLY))
    with pytest.raises(UserError, match='nope'):
        evaluate(job(config, weights, data, arguments={'model.backbone.nope': 3}))
    bad = changed(
        weights, tmp_path / 'nan.pth', neck__fpn_convs__0__conv__bias=lambda b: b.fill_(torch.nan)
    )
    with pytest.raises(UserError, match=r'NaN or an infinity in neck\.fpn_convs\.0\.conv\.bias'):
        evaluate(job(config, bad, data))


@pytest.mark.parametrize(
    ('parameter', 'where'),
    [
        ('neck__fpn_convs__0__conv__weight', 'neck'),
        ('roi_head__bbox_head__fc_cls__weight', r'roi_head\.bbox_head'),
    ],
)
def test_a_model_that_overflows_is_an_error(config, weights, data, tmp_path, parameter, where):
    """mmdet drops boxes whose score is NaN, and would score the rest."""

    def overflow(weight):
        weight.view(-1)[::2] = 3e38
        weight.view(-1)[1::2] = -3e38

    bad = changed(weights, tmp_path / 'large.pth', **{parameter: overflow})
    with pytest.raises(UserError, match=f'NaN or infinity in its {where}: its weights are not'):
        evaluate(job(config, bad, data))


@pytest.mark.parametrize('wrong', ['bboxes', 'scores'])
def test_boxes_and_scores_are_numbers(wrong):
    found = InstanceData(
        bboxes=torch.tensor([[0.0, 1, 2, 3], [4, 5, 6, 9]]),
        scores=torch.tensor([0.5, 0.25]),
        labels=torch.tensor([1, 0]),
    )
    assert detections(found, 7, [3, 5], 'a.jpg') == [
        {'image_id': 7, 'category_id': 5, 'bbox': [0.0, 1.0, 2.0, 2.0], 'score': 0.5},
        {'image_id': 7, 'category_id': 3, 'bbox': [4.0, 5.0, 2.0, 4.0], 'score': 0.25},
    ]
    found[wrong].view(-1)[-1] = torch.nan
    with pytest.raises(UserError, match=r'NaN or infinity for a box or a score on a\.jpg'):
        detections(found, 7, [3, 5], 'a.jpg')
