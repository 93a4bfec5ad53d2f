"""Detectors and segmenters are trained from configs, and checkpoints read without their code."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import restored
from mmengine.logging import HistoryBuffer
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import CheckpointLoader
from PIL import Image
from ranks import in_ranks
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.ops import roi_align

from datasets import coco, shapes
from model.checkpoint import read
from reproduce.base.errors import UserError
from reproduce.openmmlab import models, safe_loading
from reproduce.openmmlab.configs import load_config
from reproduce.openmmlab.data_paths import point_at
from reproduce.train import resumable, runner, tensorboard
from reproduce.train.runner import RunnerJob, train
from reproduce.train.stopping import StopRequests, TrainingStopped
from reproduce.weights import download, registry

MASK_RCNN = 'mask-rcnn_maformer-micro_fpn_shapes.py'
CASCADE = 'cascade-mask-rcnn_maformer-micro_fpn_shapes.py'
FPN = 'fpn_maformer-micro_shapes.py'
UPERNET = 'upernet_maformer-micro_shapes.py'
RELEASED = Path(registry.__file__).parent / 'released/maformer_micro_shapes.safetensors'

# Four images in two batches an epoch, one image to validate on, and a line a batch.
SMALL = (
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=1',
    'train_dataloader.dataset.indices=4',
    'val_dataloader.dataset.indices=1',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'default_hooks.logger.interval=1',
)
EPOCHS = (*SMALL, 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2')
ITERATIONS = (
    *SMALL,
    'train_cfg.max_iters=4',
    'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=2',
)
UNVALIDATED = ('val_cfg=None', 'val_dataloader=None', 'val_evaluator=None')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    shapes.write(root, train=40, val=40)
    return root


@pytest.fixture(autouse=True)
def _loaders():
    """The loaders that mmengine comes with, whatever a test put in their place."""
    schemes = CheckpointLoader._schemes.copy()
    yield
    CheckpointLoader._schemes = schemes


def losses(rows):
    return [row['loss'] for row in rows if 'loss' in row]


def test_a_detector_leaves_weights_log_and_curve(data, tmp_path):
    rows = train(RunnerJob(MASK_RCNN, data, tmp_path, options=EPOCHS))
    assert len(losses(rows)) == 4
    assert 'coco/bbox_mAP' in rows[-1]
    assert {'epoch_2.pth', 'run.json', 'model.safetensors', 'curve.png'} <= {
        path.name for path in tmp_path.iterdir()
    }
    weights = load_file(tmp_path / 'model.safetensors')
    trained = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)['state_dict']
    assert weights.keys() == trained.keys()
    assert all(torch.equal(weights[name], trained[name]) for name in trained)
    # It started from the released classifier.
    moved = weights['backbone.network.stem.proj.weight'] - load_file(RELEASED)['stem.proj.weight']
    assert 0 < moved.abs().max() < 0.01
    with safe_open(tmp_path / 'model.safetensors', 'pt') as file:
        assert json.loads(file.metadata()['classes']) == list(shapes.CLASSES)
    with Image.open(tmp_path / 'curve.png') as picture:
        assert picture.size == (960, 360)


@pytest.mark.parametrize('name', [FPN, pytest.param(UPERNET, marks=pytest.mark.slow)])
def test_a_segmenter_trains_and_goes_on(data, tmp_path, name):
    rows = train(RunnerJob(name, data, tmp_path, options=ITERATIONS))
    assert len(losses(rows)) == 4
    assert 'mIoU' in rows[-1]
    assert (tmp_path / 'curve.png').exists()
    whole = load_file(tmp_path / 'model.safetensors')
    (tmp_path / 'iter_4.pth').unlink()
    (tmp_path / 'last_checkpoint').write_text('iter_2.pth')
    again = train(RunnerJob(name, data, tmp_path, options=ITERATIONS, resume=True))
    assert losses(again) == losses(rows)
    assert [row['lr'] for row in again if 'lr' in row] == [row['lr'] for row in rows if 'lr' in row]
    resumed = load_file(tmp_path / 'model.safetensors')
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize('name', [MASK_RCNN, pytest.param(CASCADE, marks=pytest.mark.slow)])
def test_a_resumed_training_is_the_uninterrupted_one(data, tmp_path, name):
    options = (*EPOCHS, *UNVALIDATED)
    whole = train(RunnerJob(name, data, tmp_path / 'whole', options=options))
    cut = tmp_path / 'cut'
    shutil.copytree(tmp_path / 'whole', cut)
    # As if killed while it wrote the second epoch's.
    (cut / 'model.safetensors').unlink()
    (cut / 'epoch_2.pth').write_bytes((cut / 'epoch_2.pth').read_bytes()[:10_000])
    (cut / 'last_checkpoint').write_text(str(cut / 'epoch_1.pth'))
    rows = train(RunnerJob(name, data, cut, options=options, resume=True))
    assert losses(rows) == losses(whole)
    a, b = (load_file(folder / 'model.safetensors') for folder in (tmp_path / 'whole', cut))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ('name', 'options', 'calls'),
    [
        (MASK_RCNN, EPOCHS, (1, 3)),
        pytest.param(FPN, ITERATIONS, (3,), marks=pytest.mark.slow),
    ],
)
def test_a_training_that_is_asked_to_stop_goes_on_to_the_same_weights(
    data, tmp_path, monkeypatch, name, options, calls
):
    options = (*options, *UNVALIDATED, 'default_hooks.checkpoint.interval=2')
    train(RunnerJob(name, data, tmp_path / 'whole', options=options))
    agreed, count = StopRequests.agreed, 0

    def asked(requests):
        nonlocal count
        count += 1
        if count in calls:
            os.kill(os.getpid(), signal.SIGUSR1)
        return agreed(requests)

    monkeypatch.setattr(StopRequests, 'agreed', asked)
    job = RunnerJob(name, data, tmp_path / 'cut', options=options)
    for iterations in calls:
        with pytest.raises(TrainingStopped, match=f'SIGUSR1 came after {iterations} iter') as stop:
            train(job)
        assert stop.value.status == 128 + signal.SIGUSR1
        assert (tmp_path / f'cut/iter_{iterations}.pth').exists()
        job = replace(job, resume=True)
    train(job)
    a, b = (load_file(tmp_path / folder / 'model.safetensors') for folder in ('whole', 'cut'))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_signal_to_all_processes_of_a_training_stops_it(data, tmp_path):
    arguments = ('train', MASK_RCNN, '--data', data, '--output', tmp_path / 'run')
    options = (*EPOCHS, *UNVALIDATED, 'train_dataloader.num_workers=2', 'train_cfg.max_epochs=99')
    changes = (argument for option in options for argument in ('--cfg-options', option))
    task = subprocess.Popen(
        [sys.executable, '-m', 'reproduce', *map(str, arguments), *changes],
        cwd=Path(registry.__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 200
    while not list((tmp_path / 'run').glob('epoch_*.pth')) and time.monotonic() < end:
        time.sleep(0.1)
    os.killpg(task.pid, signal.SIGTERM)
    _, err = task.communicate(timeout=120)
    assert task.returncode == 143, err
    assert re.search(r'^stopped: SIGTERM came after \d+ iterations; ', err, re.MULTILINE)
    assert 'Traceback' not in err


def test_long_epochs_are_saved_within_and_followed_by_tensorboard(data, tmp_path, monkeypatch):
    saved = []
    save = runner._SafeEnd._save

    def recorded(hook, *arguments):
        save(hook, *arguments)
        saved.append({path.name for path in tmp_path.glob('*_*.pth')})

    monkeypatch.setattr(runner._SafeEnd, '_save', recorded)
    options = (*EPOCHS, *UNVALIDATED)
    job = RunnerJob(
        MASK_RCNN, data, tmp_path, options=options, tensorboard=True, checkpoint_iterations=1
    )
    rows = train(job)
    assert saved == [
        {'iter_1.pth'},
        {'iter_2.pth'},
        {'epoch_1.pth', 'iter_3.pth'},
        {'epoch_1.pth', 'iter_4.pth'},
    ]
    assert {path.name for path in tmp_path.glob('*_*.pth')} == {'epoch_1.pth', 'epoch_2.pth'}
    (events,) = tmp_path.glob('*/vis_data/events*')
    logged = EventAccumulator(str(events)).Reload().Scalars('loss')
    assert [event.value for event in logged] == pytest.approx(losses(rows), rel=1e-5)
    monkeypatch.setattr(tensorboard, 'find_spec', lambda name: None)
    refused('--tensorboard needs TensorBoard', FPN, data, tmp_path / 'x', tensorboard=True)


def test_a_config_that_saves_more_rarely_is_saved_between_and_keeps_its_own(data, tmp_path):
    options = (*ITERATIONS, *UNVALIDATED, 'default_hooks.checkpoint.interval=3')
    job = RunnerJob(FPN, data, tmp_path, options=options, checkpoint_iterations=1)
    present = {}
    agreed = StopRequests.agreed

    def looked(requests):
        present[len(present)] = {path.name for path in tmp_path.glob('*_*.pth')}
        return agreed(requests)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopRequests, 'agreed', looked)
        train(job)
    # Before what is saved after the iteration, but for what the config's own hook has saved.
    assert present == {
        0: set(),
        1: {'iter_1.pth'},
        2: {'iter_2.pth', 'iter_3.pth'},
        3: {'iter_3.pth', 'iter_4.pth'},
    }
    assert {path.name for path in tmp_path.glob('*_*.pth')} == {'iter_3.pth', 'iter_4.pth'}


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path):
    options = (*EPOCHS, *UNVALIDATED, 'param_scheduler=None')
    fast = (*options, 'optim_wrapper.optimizer.lr=1e30', 'optim_wrapper.clip_grad=None')
    refused(r'is not finite after iteration \d', MASK_RCNN, data, tmp_path, options=fast)
    assert not any(tmp_path.glob('*.pth'))


def test_a_loss_that_stays_infinite_ends_the_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, 'LOSS_ITERATIONS', 2)
    options = (*EPOCHS, *UNVALIDATED, 'param_scheduler=None')
    fast = (*options, 'optim_wrapper.optimizer.lr=1e30', 'optim_wrapper.clip_grad=None')
    slow_to_save = (*fast, 'default_hooks.checkpoint.interval=9', 'train_cfg.max_epochs=4')
    refused(
        'the loss was not finite in the last 2 iterations, up to 4:',
        MASK_RCNN,
        data,
        tmp_path,
        options=slow_to_save,
    )


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

    assert error() > 0.05  # mmdet's own
    runner.extract_regions_in_fp32(model)
    assert error() < 1e-5


def changed_annotations(data, folder, change, split='train'):
    shutil.copytree(data / 'coco', folder)
    path = folder / f'annotations/instances_{split}2017.json'
    content = json.loads(path.read_text())
    change(content['annotations'])
    path.write_text(json.dumps(content))
    return path


def test_objects_without_a_mask_are_found_before_anything_is_written(data, tmp_path):
    path = changed_annotations(data, tmp_path / 'data', lambda o: o[3].update(segmentation=[]))
    refused(
        rf'^{path} has no segmentation for 1 of its \d+ objects, first for the annotation \d+, and',
        MASK_RCNN,
        tmp_path / 'data',
        tmp_path / 'run',
    )
    assert not (tmp_path / 'run').exists()
    boxes = load_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    assert runner._check_objects(boxes, coco.read(path)) == []
    # Those that are validated on, too.
    path = changed_annotations(
        data, tmp_path / 'val', lambda o: o[1].update(segmentation=[]), split='val'
    )
    refused(
        rf'^{path} has no segmentation for 1 of its \d+ objects, first 2, so masks cannot',
        MASK_RCNN,
        tmp_path / 'val',
        tmp_path / 'run',
    )
    assert not (tmp_path / 'run').exists()
    only_boxes = ('val_evaluator.metric=bbox', *EPOCHS)
    job = RunnerJob(MASK_RCNN, tmp_path / 'val', tmp_path / 'run', options=only_boxes)
    assert runner.prepare(job).record['data'].keys() == {'train', 'val'}


def test_objects_that_mmdet_leaves_out_are_counted(data, tmp_path):
    changes = ({'area': 0}, {'bbox': [1e4, 1e4, 5, 5]}, {'bbox': [3, 3, 0.5, 9]}, {'iscrowd': 1})

    def spoil(objects):
        for instance, change in zip(objects, changes, strict=False):
            instance.update(change)

    path = changed_annotations(data, tmp_path / 'data', spoil)
    annotations, config = coco.read(path), load_config(MASK_RCNN)
    (note,) = runner._check_objects(config, annotations)
    objects = sum(not instance['iscrowd'] for instance in annotations.instances)
    assert note.startswith(f'train: 3 of {objects:,} objects have no area, or no box of a pixel')
    point_at(config, coco.load(tmp_path / 'data', 'train'), 'train')
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build({**config.train_dataloader.dataset, 'filter_cfg': None})
    infos = [dataset.get_data_info(i)['instances'] for i in range(len(dataset))]
    kept = [instance for info in infos for instance in info if not instance['ignore_flag']]
    assert len(kept) == objects - 3
    path = changed_annotations(data, tmp_path / 'none', lambda o: [i.update(area=0) for i in o])
    with pytest.raises(UserError, match='there is nothing to train on'):
        runner._check_objects(config, coco.read(path))


def test_batches_are_numbered_and_begin_where_they_are_told():
    batches = resumable.NumberedBatches(range(7), 2)
    whole = list(batches)
    assert whole == [
        [(0, 0), (0, 1)],
        [(1, 2), (1, 3)],
        [(2, 4), (2, 5)],
        [(3, 6)],
    ]
    assert len(batches) == 4
    assert next(iter(batches)) == [(4, 0), (4, 1)]  # of the next epoch
    batches.go_to(4, 6)
    assert list(batches) == [[(6, 4), (6, 5)], [(7, 6)]]
    batches.go_to(4, 4)
    assert len(list(batches)) == 4


def test_two_processes_train_and_normalise_without_syncbn(data, tmp_path):
    rows = in_ranks(2, train, RunnerJob(FPN, data, tmp_path, options=(*ITERATIONS, *UNVALIDATED)))
    assert len(losses(rows)) == 4
    (log,) = tmp_path.glob('*/*.log')
    text = log.read_text()
    assert 'SyncBN does not train on CPUs' in text
    assert 'current batch size is 4. Scaling the original LR by 0.5' in text
    assert (tmp_path / 'model.safetensors').exists()


def test_the_learning_rate_follows_the_batch_unless_told_otherwise(data, tmp_path):
    options = (*EPOCHS, *UNVALIDATED, 'train_cfg.max_epochs=1', 'param_scheduler=None')

    def rate(folder, **job):
        return train(RunnerJob(MASK_RCNN, data, tmp_path / folder, **job))[0]['lr']

    own = load_config(MASK_RCNN).optim_wrapper.optimizer.lr
    assert rate('scaled', options=options) == pytest.approx(own / 2)
    assert rate('own', options=options, scale_lr=False) == own
    summed = (*options, 'optim_wrapper.accumulative_counts=4')
    assert rate('summed', options=summed) == pytest.approx(2 * own)


def refused(match, *arguments, **job):
    with pytest.raises(UserError, match=match) as error:
        train(RunnerJob(*arguments, **job))
    assert '\n' not in str(error.value)


def test_what_does_not_go_together_is_told_before_anything_is_built(data, tmp_path):
    output = tmp_path / 'run'
    refused('there is no config', 'mask.py', data, output)
    refused('holds no checkpoint', MASK_RCNN, data, output, resume=True)
    refused('is not a folder', MASK_RCNN, tmp_path / 'none', output)
    refused('is no config of a detector', '_base_/schedules/adamw_1x.py', data, output)
    full = 'mask-rcnn_maformer-small_fpn_1x_coco.py'
    refused(r'bbox_head\.num_classes is 80, and .* has 10 classes', full, data, output)
    full = 'upernet_maformer-small_8xb2-160k_ade20k-512x512.py'
    refused(r'decode_head\.num_classes is 150, and .* has 15 classes', full, data, output)
    refused('--cfg-options', MASK_RCNN, data, output, options=('epochs',))
    refused('the checkpoint none does not exist', MASK_RCNN, data, output, checkpoint='none')
    wrong = tmp_path / 'wrong.safetensors'
    save_file({'fc.weight': torch.zeros(1)}, wrong)
    refused('not one of maformer_micro', MASK_RCNN, data, output, checkpoint=str(wrong))
    refused(
        'for a MAFormer backbone',
        'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        data,
        output,
        checkpoint=str(wrong),
        options=(
            'model.roi_head.bbox_head.num_classes=10',
            'model.roi_head.mask_head.num_classes=10',
        ),
    )
    wrong.write_bytes(b'')
    refused('cannot hold results', FPN, data, wrong / 'run')
    broken = tmp_path / 'data'
    shutil.copytree(data / 'coco', broken)
    next((broken / 'train2017').iterdir()).unlink()
    refused('restore', MASK_RCNN, broken, output)
    assert not any(output.glob('*'))


def test_the_command_takes_a_config_with_and_without_its_name(run, data, tmp_path):
    for name in ((), ('config',)):
        code, out, err = run('train', *name, 'none.py', '--data', data, '--output', tmp_path)
        assert (code, out) == (2, '')
        assert err.startswith("error: there is no config 'none.py'; the nearest are ")
        assert err.count('\n') == 1
    code, out, _ = run('train', '--help')
    assert code == 0
    assert 'short for `train config CONFIG`' in ' '.join(out.split())


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """A segmenter's training of a few iterations, to be gone on with."""
    job = RunnerJob(FPN, data, tmp_path_factory.mktemp('trained') / 'run', options=ITERATIONS)
    train(job)
    return replace(job, resume=True)


def first_tensor(state):
    return next(iter(state['state_dict'].values()))


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [
        (lambda s: s.pop('state_dict'), "it has no 'state_dict'"),
        (lambda s: s.pop('optimizer'), "it has no 'optimizer'"),
        (lambda s: s['meta'].pop('iter'), "its 'meta' does not say how many"),
        (lambda s: s['state_dict'].popitem(), r"its 'state_dict' lacks "),
        (lambda s: s['state_dict'].update(more=torch.ones(1)), "its 'state_dict' has more, which"),
        (lambda s: first_tensor(s).fill_(torch.nan), "its 'state_dict' has NaN or an infinity"),
        (lambda s: s.update(optimizer=[]), "its 'optimizer' is not as expected"),
    ],
)
def test_a_damaged_checkpoint_is_not_gone_on_with(trained, damage, reason):
    path = trained.output / Path((trained.output / 'last_checkpoint').read_text()).name
    with restored(path):
        state = safe_loading.read_checkpoint(path)
        damage(state)
        torch.save(state, path)
        with pytest.raises(UserError, match=f'cannot be gone on with: {reason}'):
            train(trained)


def test_a_damaged_record_of_a_run_is_named(trained):
    path = trained.output / 'run.json'
    with restored(path):
        path.write_text('[]')
        with pytest.raises(UserError, match=r'run\.json holds a list and no training'):
            train(trained)


def test_a_folder_of_another_training_is_left_alone(data, tmp_path):
    (tmp_path / 'iter_2.pth').write_bytes(b'half')
    refused('holds a training already', FPN, data, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {'.lock', 'iter_2.pth'}


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


def test_code_in_a_checkpoint_does_not_run(data, tmp_path, trap):
    path, sprung = trap
    output = tmp_path / 'run'
    options = (*EPOCHS, *UNVALIDATED)
    match = r'would run code \([\w.]+\)'
    refused(match, MASK_RCNN, data, output, checkpoint=str(path))
    refused(match, MASK_RCNN, data, output, options=(*options, f'load_from={path}'))
    # Another backbone's init_cfg is read by mmengine when the model is initialised.
    resnet = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
    heads = [f'model.roi_head.{head}.num_classes=10' for head in ('bbox_head', 'mask_head')]
    named = f'model.backbone.init_cfg.checkpoint={path}'
    refused(match, resnet, data, output, options=(*options, *heads, named))
    shutil.rmtree(output)
    train(RunnerJob(MASK_RCNN, data, output, options=(*options, 'train_cfg.max_epochs=1')))
    shutil.copy(path, output / 'epoch_1.pth')
    refused(match, MASK_RCNN, data, output, options=options, resume=True)
    assert not sprung.exists()
    # The trap is one: mmengine's own loader springs it.
    torch.load(path, weights_only=False)
    assert sprung.exists()


def test_a_config_in_a_checkpoint_does_not_run(data, tmp_path):
    """mmengine's Runner executes the string `meta.config` when it resumes."""
    options = (*EPOCHS, *UNVALIDATED)
    train(RunnerJob(MASK_RCNN, data, tmp_path, options=(*options, 'train_cfg.max_epochs=1')))
    path, sprung = tmp_path / 'epoch_1.pth', tmp_path / 'sprung'
    content = torch.load(path, weights_only=False)
    content['meta']['config'] = f'open({str(sprung)!r}, "w").close()'
    torch.save(content, path)
    assert (
        len(losses(train(RunnerJob(MASK_RCNN, data, tmp_path, options=options, resume=True)))) == 4
    )
    assert not sprung.exists()


def test_what_a_training_of_mmengine_writes_is_read(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    torch.save(
        {
            'state_dict': {'weight': torch.ones(2)},
            'meta': {'epoch': 1, 'score': torch.zeros(1).numpy()[0]},
            'message_hub': {'log_scalars': {'train/loss': history}},
        },
        path,
    )
    assert torch.equal(read(path)['weight'], torch.ones(2))
    safe_loading.install()
    content = CheckpointLoader.load_checkpoint(str(path))
    assert content['message_hub']['log_scalars']['train/loss'].mean() == 2.0


class Reach:
    """Asks for an attribute of an allowed class that reaches further."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


def test_no_attribute_is_reached_through_an_allowed_class(tmp_path):
    path = tmp_path / 'reach.pth'
    torch.save({'state_dict': {'x': torch.zeros(1)}, 'meta': Reach()}, path)
    with pytest.raises(UserError, match=r'would run code \(builtins\.getattr\)'):
        safe_loading.read_checkpoint(path)
    assert set(read(path)) == {'x'}  # and what is beside the parameters is not even looked at


@pytest.mark.parametrize('scheme', ['pavi://', 's3://', 'openmmlab:s3://', 'petrel://'])
def test_every_scheme_of_mmengine_is_replaced(scheme):
    safe_loading.install()
    with pytest.raises(UserError, match='fetch it and name the file'):
        CheckpointLoader.load_checkpoint(f'{scheme}bucket/model.pth')


def test_published_checkpoints_are_fetched_once_and_held_to_their_hash(tmp_path, monkeypatch, trap):
    path, sprung = trap
    fetched = []

    def fetch(url, target, sha256):
        fetched.append((url, sha256))
        target.parent.mkdir()
        shutil.copy(path, target)

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(download, 'fetch', fetch)
    safe_loading.install()
    for _ in range(2):
        with pytest.raises(UserError, match='would run code'):
            CheckpointLoader.load_checkpoint('torchvision://resnet50')
    with pytest.raises(UserError, match='no published checkpoint'):
        CheckpointLoader.load_checkpoint('open-mmlab://nothing')
    assert fetched == [('https://download.pytorch.org/models/resnet50-0676ba61.pth', '0676ba61')]
    assert not sprung.exists()
