"""Detectors and segmenters are trained from configs, and checkpoints read without their code."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import logged, restored
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.ops import roi_align

from datasets import shapes
from model.checkpoint import read
from reproduce.base.errors import UserError
from reproduce.base.tensors import tensors_in
from reproduce.openmmlab import models, safe_loading
from reproduce.openmmlab.configs import load_config
from reproduce.train import config_training
from reproduce.train.config_training import train
from reproduce.train.jobs import ConfigJob
from reproduce.train.stopping import StopRequests, TrainingStopped
from reproduce.weights import download, registry

MASK_RCNN = 'mask-rcnn_maformer-micro_fpn_shapes.py'
FPN = 'fpn_maformer-micro_shapes.py'
RELEASED = Path(registry.__file__).parent / 'released/maformer_micro_shapes.safetensors'

# Four images in two batches an epoch, one image to validate on, and a line a batch.
SMALL = (
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.dataset.indices=4',
    'val_dataloader.dataset.indices=1',
    'val_dataloader.num_workers=0',
    'default_hooks.logger.interval=1',
)
EPOCHS = (*SMALL, 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2')
ITERATIONS = (*SMALL, 'train_cfg.max_iters=4', 'train_cfg.val_interval=2')
RESNET = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
HEADS = tuple(f'model.roi_head.{head}.num_classes=10' for head in ('bbox_head', 'mask_head'))
UNVALIDATED = ('val_cfg=None', 'val_dataloader=None', 'val_evaluator=None')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    shapes.write(root, train=40, val=40)
    return root


@pytest.fixture(scope='module')
def detector(data, tmp_path_factory):
    """A detector's training that is over."""
    job = ConfigJob(MASK_RCNN, data, tmp_path_factory.mktemp('detector'), options=EPOCHS)
    train(job)
    return job


@pytest.fixture(scope='module')
def segmenter(data, tmp_path_factory):
    """A segmenter's training that can be resumed: iteration 3 of 4 is its last checkpoint."""
    output = tmp_path_factory.mktemp('segmenter')
    job = ConfigJob(FPN, data, output, options=ITERATIONS, max_steps=3)
    train(job)
    return replace(job, resume=True, max_steps=None)


@pytest.fixture(autouse=True)
def _loaders():
    """The loaders that mmengine comes with, whatever a test put in their place."""
    schemes = CheckpointLoader._schemes.copy()
    yield
    CheckpointLoader._schemes = schemes


def checkpoints(folder):
    return {path.name for path in folder.glob('*.pth')}


def refused(match, *arguments, **job):
    with pytest.raises(UserError, match=match) as error:
        train(ConfigJob(*arguments, **job))
    assert '\n' not in str(error.value)


# ------------------------------------------------------------------------------------------------
# A whole training


def test_a_detector_leaves_weights_and_a_log(detector):
    output, rows = detector.output, logged(detector.output)
    assert [row['iter'] for row in rows if 'loss' in row] == [1, 2, 3, 4]
    assert 'coco/bbox_mAP' in rows[-1]
    assert checkpoints(output) == {'iter_2.pth', 'iter_4.pth'}
    weights = load_file(output / 'model.safetensors')
    trained = torch.load(output / 'iter_4.pth', weights_only=False)['state_dict']
    assert weights.keys() == trained.keys()
    assert all(torch.equal(weights[name], trained[name]) for name in trained)
    # It started from the released classifier.
    moved = weights['backbone.network.stem.proj.weight'] - load_file(RELEASED)['stem.proj.weight']
    assert 0 < moved.abs().max() < 0.01
    with safe_open(output / 'model.safetensors', 'pt') as file:
        assert json.loads(file.metadata()['classes']) == list(shapes.CLASSES)
    (log,) = output.glob('*/*.log')
    assert 'current batch size is 2. Scaling the original LR by 0.5' in log.read_text()


def test_a_segmenter_is_measured_and_resumed(segmenter, tmp_path):
    assert checkpoints(segmenter.output) == {'iter_2.pth', 'iter_3.pth'}
    measured = json.loads((segmenter.output / 'steps.json').read_text())
    assert measured['images'] == 2
    assert 0 <= measured['waiting_seconds'] < measured['seconds']
    assert measured['peak_bytes'] > 2**28
    output = tmp_path / 'run'
    shutil.copytree(segmenter.output, output)
    train(replace(segmenter, output=output))
    rows = logged(output)
    assert [row['iter'] for row in rows if 'loss' in row] == [1, 2, 3, 4]
    assert [row['step'] for row in rows if 'mIoU' in row] == [2, 4]
    assert checkpoints(output) == {'iter_2.pth', 'iter_3.pth', 'iter_4.pth'}
    assert measured['loss'] > 0
    # The schedule is the one of an uninterrupted training: linear from 1e-6 of the rate.
    rates = [row['lr'] for row in rows if 'lr' in row]
    assert rates[3] - rates[2] == pytest.approx(rates[1] - rates[0])


def test_the_learning_rate_follows_the_batch_of_a_step(data, tmp_path):
    options = (*EPOCHS, 'optim_wrapper.accumulative_counts=4')
    config, _ = config_training.prepare(ConfigJob(MASK_RCNN, data, tmp_path, options=options))
    assert config.auto_scale_lr == {'enable': True, 'base_batch_size': 1}


# ------------------------------------------------------------------------------------------------
# Ends and resumptions


def test_a_stopped_training_is_resumed_with_the_images_that_are_left(data, tmp_path, monkeypatch):
    seen, stops = [], []
    before, agreed = config_training._SafeEnd.before_train_iter, StopRequests.agreed

    def recorded(hook, runner, batch_idx, data_batch=None):
        seen.append(sorted(sample.img_id for sample in data_batch['data_samples']))
        before(hook, runner, batch_idx, data_batch)

    def asked(requests):
        if len(seen) in stops:
            os.kill(os.getpid(), signal.SIGUSR1)
        return agreed(requests)

    monkeypatch.setattr(config_training._SafeEnd, 'before_train_iter', recorded)
    monkeypatch.setattr(StopRequests, 'agreed', asked)
    # A loader with workers begins another way than one without.
    options = (*EPOCHS, *UNVALIDATED, 'train_dataloader.num_workers=1')
    job = ConfigJob(MASK_RCNN, data, tmp_path / 'whole', options=options)
    train(job)
    whole, seen[:] = seen.copy(), []
    assert sorted(whole[0] + whole[1]) == sorted(whole[2] + whole[3])
    assert whole[:2] != whole[2:]
    job, stops[:] = replace(job, output=tmp_path / 'cut'), (1, 3)
    for iterations in stops:
        match = f'SIGUSR1 came after {iterations} iterations; .* --resume'
        with pytest.raises(TrainingStopped, match=match) as stop:
            train(job)
        assert stop.value.status == 128 + signal.SIGUSR1
        assert max(checkpoints(job.output)) == f'iter_{iterations}.pth'
        job = replace(job, resume=True)
    train(job)
    assert seen == whole
    rates = [
        [row['lr'] for row in logged(tmp_path / folder) if 'lr' in row]
        for folder in ('whole', 'cut')
    ]
    assert len(rates[0]) == 4 and rates[0] == rates[1]


def test_what_is_not_finite_ends_the_training(data, tmp_path):
    options = (*EPOCHS, *UNVALIDATED, 'param_scheduler=None')
    fast = (*options, 'optim_wrapper.optimizer.lr=1e30', 'optim_wrapper.clip_grad=None')
    refused('the weight .* is not finite', MASK_RCNN, data, tmp_path / 'a', options=fast)


# ------------------------------------------------------------------------------------------------
# What does not go together


def test_what_does_not_go_together_is_explained_before_anything_is_written(data, tmp_path):
    output = tmp_path / 'run'
    refused('there is no config', 'mask.py', data, output)
    refused('holds no checkpoint', MASK_RCNN, data, output, resume=True)
    full = 'mask-rcnn_maformer-small_fpn_1x_coco.py'
    refused(r'bbox_head\.num_classes is 80, and .* has 10 classes', full, data, output)
    refused('the checkpoint none does not exist', MASK_RCNN, data, output, checkpoint='none')
    broken = tmp_path / 'data'
    shutil.copytree(data / 'coco', broken)
    path = broken / 'annotations/instances_val2017.json'
    with restored(path):
        content = json.loads(path.read_text())
        content['annotations'][1].update(segmentation=[])
        path.write_text(json.dumps(content))
        match = rf'^{path} has no segmentation for 1 of its \d+ objects, first '
        refused(match, MASK_RCNN, broken, output)
    assert {path.name for path in output.glob('*')} <= {'.lock'}
    wrong = tmp_path / 'wrong.safetensors'
    save_file({'fc.weight': torch.zeros(1)}, wrong)
    refused('not one of maformer_micro', MASK_RCNN, data, output, checkpoint=str(wrong))


def test_another_training_is_not_resumed(segmenter, data):
    path = segmenter.output / 'run.json'
    with restored(path):
        whole = json.loads(path.read_text())
        for name in ('model', 'batch'):
            path.write_text(json.dumps({**whole, name: 0}))
            with pytest.raises(UserError, match=rf'run\.json has another {name}: resume'):
                train(segmenter)
    refused('holds a training already', FPN, data, segmenter.output)


def test_regions_are_cut_in_fp32_under_autocast():
    """torchvision's RoIAlign of the same maps, with the corners as they are."""
    model = models.build(load_config(MASK_RCNN), 'cpu')
    extractor = model.roi_head.bbox_roi_extractor
    maps = [torch.rand(1, 48, 800 // s, 1344 // s).bfloat16() for s in (4, 8, 16, 32)]
    regions = torch.tensor([[0, 1001.3, 603.7, 1060.9, 655.1], [0, 700.2, 20.6, 1290.4, 790.8]])
    expected = torch.cat(
        [
            roi_align(maps[level].float(), regions[i : i + 1], 7, 1 / stride, 0, aligned=True)
            for i, (level, stride) in enumerate(((0, 4), (3, 32)))
        ]
    )

    def error():
        with torch.autocast('cpu', torch.bfloat16):
            return (extractor(maps, regions).float() - expected).abs().max()

    def types():
        with torch.autocast('cpu', torch.bfloat16):
            return {tensor.dtype for tensor in tensors_in(model.rpn_head(maps))}

    assert error() > 0.05 and types() == {torch.bfloat16}  # mmdet's own
    models.find_regions_in_fp32(model)
    assert error() < 1e-5 and types() == {torch.float32}


@pytest.mark.parametrize(('scale', 'weight'), [(1e-9, 0.0), (1.0, float('nan'))])
def test_a_training_that_overflows_for_good_ends(tmp_path, scale, weight):
    end = config_training._SafeEnd(ConfigJob(FPN, tmp_path, tmp_path), None, None)
    checkpoint = {'state_dict': {'w': torch.zeros(2)}, 'optimizer': {'loss_scaler': {'scale': 1.0}}}
    end.before_save_checkpoint(None, checkpoint)
    checkpoint['state_dict']['w'][1] = weight
    checkpoint['optimizer']['loss_scaler']['scale'] = scale
    with pytest.raises(UserError, match='not finite: resume from an earlier'):
        end.before_save_checkpoint(None, checkpoint)


# ------------------------------------------------------------------------------------------------
# Checkpoints are read without their code


class Trap:
    """A pickle of this writes a file when it is read without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def trap(tmp_path):
    """A checkpoint with code in it; and the file that the code writes."""
    sprung, path = tmp_path / 'sprung', tmp_path / 'trap.pth'
    torch.save({'state_dict': {'x': torch.zeros(1)}, 'meta': Trap(sprung)}, path)
    return path, sprung


def test_code_in_a_checkpoint_does_not_run(segmenter, data, tmp_path, trap):
    path, sprung = trap
    output = tmp_path / 'run'
    options = (*EPOCHS, *UNVALIDATED)
    match = 'would run code'
    refused(match, MASK_RCNN, data, output, checkpoint=str(path))
    refused(match, MASK_RCNN, data, output, options=(*options, f'load_from={path}'))
    # Another backbone's init_cfg is read by mmengine when the model is initialised.
    named = f'model.backbone.init_cfg.checkpoint={path}'
    refused(match, RESNET, data, output, options=(*options, *HEADS, named))
    with restored(segmenter.output / 'iter_3.pth'):
        shutil.copy(path, segmenter.output / 'iter_3.pth')
        with pytest.raises(UserError, match=match):
            train(segmenter)
    assert not sprung.exists()
    # The trap is one: mmengine's own loader springs it.
    torch.load(path, weights_only=False)
    assert sprung.exists()


def test_a_config_in_a_checkpoint_does_not_run(segmenter, tmp_path):
    """mmengine's Runner executes the string `meta.config` when it resumes."""
    output, sprung = tmp_path / 'run', tmp_path / 'sprung'
    shutil.copytree(segmenter.output, output)
    content = torch.load(output / 'iter_3.pth', weights_only=False)
    content['meta']['config'] = f'open({str(sprung)!r}, "w").close()'
    torch.save(content, output / 'iter_3.pth')
    train(replace(segmenter, output=output))
    assert 'iter_4.pth' in checkpoints(output)
    assert not sprung.exists()


class Reach:
    """Asks for an attribute of an allowed class that reaches further."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


def test_no_attribute_is_reached_through_an_allowed_class(tmp_path):
    path = tmp_path / 'reach.pth'
    torch.save({'state_dict': {'x': torch.zeros(1)}, 'meta': Reach()}, path)
    with pytest.raises(UserError, match='would run code'):
        safe_loading.read_checkpoint(path)
    assert set(read(path)[0]) == {'x'}  # the rest of the file is not read


def test_published_checkpoints_are_fetched_with_their_hash(tmp_path, monkeypatch, trap):
    path, sprung = trap
    fetched = []

    def fetch(url, target, sha256):
        if not target.is_file():
            fetched.append((url, sha256))
            target.parent.mkdir()
            shutil.copy(path, target)

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(download, 'fetch', fetch)
    safe_loading.install()
    with pytest.raises(UserError, match='would run code'):
        CheckpointLoader.load_checkpoint('torchvision://resnet50')
    with pytest.raises(UserError, match='no published checkpoint'):
        CheckpointLoader.load_checkpoint('open-mmlab://nothing')
    assert fetched == [('https://download.pytorch.org/models/resnet50-0676ba61.pth', '0676ba61')]
    assert not sprung.exists()
