"""A released detector evaluated on drawn scenes, compared with mmdet's own loop and metric."""

import gzip
import json

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from PIL import Image
from ranks import in_ranks
from safetensors.torch import load_file, save_file

from datasets import coco, shapes
from reproduce.base.errors import UserError
from reproduce.evaluate.harness import evaluate
from reproduce.openmmlab.configs import load_config
from reproduce.openmmlab.data_paths import point_at
from reproduce.openmmlab.transforms import LoadWholeImage
from reproduce.tasks.detection import detections
from reproduce.tasks.detection_scores import METRICS, checked, read, score
from reproduce.tasks.job import Job
from reproduce.weights.registry import MANIFEST

IMAGES = 11  # which neither 2 nor 3 divides
CONFIG = 'mask-rcnn_maformer-micro_fpn_shapes.py'
WEIGHTS = MANIFEST.with_name('released') / 'mask_rcnn_maformer_micro_shapes.safetensors'
BOXES_ONLY = {'model.roi_head.mask_head': None, 'model.roi_head.mask_roi_extractor': None}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    shapes.write(root, train=0, val=IMAGES)
    return root / 'coco'


def job(data, weights=WEIGHTS, config=CONFIG, **kwargs):
    return Job('coco', config, weights, data, **{'workers': 0, 'device': 'cpu', **kwargs})


def read_predictions(outcome, folder):
    path = folder / f'predictions{outcome.evaluation.predictions}'
    path.write_bytes(outcome.predictions)
    return read(path)


@pytest.fixture(scope='module')
def alone(data):
    return evaluate(job(data))


def test_it_is_what_mmdets_own_loop_and_metric_give(alone, data, tmp_path):
    """The numbers and the result files of mmdet's own loader, loop and metric on these weights."""
    own = load_config(CONFIG)
    torch.save(load_file(WEIGHTS), tmp_path / 'weights.pth')
    own.work_dir, own.load_from = str(tmp_path), str(tmp_path / 'weights.pth')
    own.test_evaluator.outfile_prefix = str(tmp_path / 'results')
    point_at(own, coco.load(data), 'test')
    own.test_dataloader.num_workers = 0
    own.test_dataloader.persistent_workers = False
    own.log_level = 'ERROR'
    with DefaultScope.overwrite_default_scope('mmdet'):
        expected = Runner.from_cfg(own).test()
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
        json.loads((tmp_path / f'results.{kind}.json').read_text()) for kind in ('bbox', 'segm')
    )
    assert len(ours) == len(boxes) == len(masks) > 5 * IMAGES
    for our, box, mask in zip(ours, boxes, masks, strict=True):
        assert our == {**box, 'segmentation': mask['segmentation']}


def test_the_record_says_what_was_measured(alone, data, tmp_path):
    record = alone.evaluation
    assert (record.task, record.system, record.model) == ('coco', None, CONFIG)
    assert record.data.images == IMAGES
    assert record.data.fingerprint == coco.load(data).fingerprint
    assert not record.data.complete
    steps = [step['type'] for step in record.preprocessing['pipeline']]
    assert steps == ['LoadWholeImage', 'Resize', 'PackDetInputs']
    assert {f'{kind}_{name}' for kind in ('box', 'mask') for name in METRICS} >= set(record.metrics)
    annotations = coco.read(data / 'annotations/instances_val2017.json')
    results = read_predictions(alone, tmp_path)
    assert checked(results, annotations, tmp_path) == results
    scores = score(results, annotations)
    assert (scores.metrics, scores.per_class) == (record.metrics, record.per_class)


def test_any_number_of_processes_detects_the_same(data, alone, tmp_path):
    together = in_ranks(3, evaluate, job(data))
    assert together.evaluation.metrics == alone.evaluation.metrics
    assert together.evaluation.per_class == alone.evaluation.per_class
    assert together.evaluation.key == alone.evaluation.key
    assert together.evaluation.provenance.processes == 3
    theirs, ours = (read_predictions(outcome, tmp_path) for outcome in (together, alone))
    for their, our in zip(theirs, ours, strict=True):
        assert (their['image_id'], their['category_id']) == (our['image_id'], our['category_id'])
        assert their['score'] == pytest.approx(our['score'], abs=1e-5)
        assert their['bbox'] == pytest.approx(our['bbox'], abs=1e-3)


def test_half_precision_runs_to_the_end(data, alone):
    outcome = evaluate(job(data, amp='bf16', limit=3, batch_size=2))
    assert outcome.evaluation.precision == 'bf16'
    # Padded to the larger of two, it is not the number of the system.
    assert (alone.evaluation.overridden, outcome.evaluation.overridden) == ((), ('batch_size',))
    assert outcome.evaluation.key != alone.evaluation.key
    # Boxes are decoded in fp32: their sides are more than half precision can tell apart.
    found = json.loads(gzip.decompress(outcome.predictions))
    sides = torch.tensor([result['bbox'] for result in found])
    assert (sides != sides.bfloat16().float()).float().mean() > 0.5


def test_a_detector_without_masks_has_box_metrics_only(data, alone, tmp_path):
    boxes = {k: v for k, v in load_file(WEIGHTS).items() if not k.startswith('roi_head.mask_head')}
    save_file(boxes, tmp_path / 'boxes.safetensors')
    content = json.loads((data / 'annotations/instances_val2017.json').read_text())
    for instance in content['annotations']:
        del instance['segmentation']
    (tmp_path / 'coco/annotations').mkdir(parents=True)
    (tmp_path / 'coco/val2017').symlink_to(data / 'val2017')
    (tmp_path / 'coco/annotations/instances_val2017.json').write_text(json.dumps(content))
    outcome = evaluate(job(tmp_path, tmp_path / 'boxes.safetensors', arguments=BOXES_ONLY))
    expected = {k: v for k, v in alone.evaluation.metrics.items() if k.startswith('box')}
    assert outcome.evaluation.metrics == expected
    assert outcome.evaluation.overridden == tuple(sorted(BOXES_ONLY))
    with pytest.raises(UserError, match=r'no segmentation for .* of its .* objects'):
        evaluate(job(tmp_path))


def test_nothing_detected_is_zero_and_not_a_gap(data):
    nothing = {'model.test_cfg.rcnn.score_thr': 1.5}
    outcome = evaluate(job(data, arguments=nothing, limit=3))
    assert {'box_ap', 'mask_ap'} <= outcome.evaluation.metrics.keys()
    assert set(outcome.evaluation.metrics.values()) == {0.0}
    assert outcome.evaluation.data.images == 3
    assert '3 of 11 images were asked for' in outcome.evaluation.data.problems


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
    for name in ('cut.png', 'missing.jpg'):
        with pytest.raises(UserError, match=f'cannot read the image .*{name}'):
            LoadWholeImage()({'img_path': str(tmp_path / name)})


def changed(path, name, change):
    state = load_file(WEIGHTS)
    change(state[name])
    save_file(state, path)
    return path


def test_mistakes_are_reported_before_anything_is_predicted(data, tmp_path):
    with pytest.raises(UserError, match=r'num_classes is 80.* has 10 classes'):
        evaluate(job(data, config='mask-rcnn_maformer-small_fpn_1x_coco.py'))
    with pytest.raises(UserError, match='is a config for ade20k, not for coco'):
        evaluate(job(data, config='fpn_maformer-small_8xb2-80k_ade20k-512x512.py'))
    with pytest.raises(UserError, match='nope'):
        evaluate(job(data, arguments={'model.backbone.nope': 3}))
    name = 'neck.fpn_convs.0.conv.bias'
    bad = changed(tmp_path / 'nan.safetensors', name, lambda bias: bias.fill_(torch.nan))
    with pytest.raises(UserError, match=r'NaN or an infinity in neck\.fpn_convs\.0\.conv\.bias'):
        evaluate(job(data, bad))


def test_a_model_that_overflows_is_an_error(data, tmp_path):
    """mmdet drops boxes whose score is NaN, and would score the rest."""

    def overflow(weight):
        weight.view(-1)[::2] = 3e38
        weight.view(-1)[1::2] = -3e38

    bad = changed(tmp_path / 'large.safetensors', 'roi_head.bbox_head.fc_cls.weight', overflow)
    with pytest.raises(UserError, match=r'NaN or infinity in its roi_head\.bbox_head: its weights'):
        evaluate(job(data, bad))


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
