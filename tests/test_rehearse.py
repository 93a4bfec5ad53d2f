"""Rehearsals: the trials of real trainings, what they find wrong, and the command."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.nn as nn
from PIL import Image

from datasets import ade20k, coco, imagenet, shapes
from reproduce.base.errors import OutOfMemory, UserError
from reproduce.base.processes import join
from reproduce.base.terminal import as_text
from reproduce.openmmlab.configs import CONFIGS, load_config
from reproduce.openmmlab.data_paths import check_classes
from reproduce.train import checks, drawn_data, isolation
from reproduce.train import rehearsal as rehearsals
from reproduce.train.classifier_steps import ClassifierTraining
from reproduce.train.classifier_trial import try_recipe
from reproduce.train.config_trial import try_config
from reproduce.train.recipes import RECIPES, recipe_for
from reproduce.train.rehearsal import RehearsalRequest, RehearsalRow, Training, rehearse, select
from reproduce.train.rehearsal_report import as_parts, file_name
from reproduce.train.token_labeling import agreement
from reproduce.train.trial import GradientWatch, Trial, TrialSettings, loader_speed, together

CHECKOUT = Path(__file__).parents[1]
LABELED = RECIPES['maformer_small_token_labeling']
FPN = 'fpn_maformer-micro_shapes.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Small images, for the micro models."""
    root = tmp_path_factory.mktemp('data')
    shapes.write(root, train=40, val=40)
    return root


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """Large images, in the form of the real data."""
    root = tmp_path_factory.mktemp('drawn')
    drawn_data.write(root, {'imagenet': 60, 'coco': 60, 'ade20k': 50}, labels=True)
    return root


# ------------------------------------------------------------------------------------------------
# What a trial says


def trial(**changes):
    sound = Trial(
        'cpu',
        losses=[2.0, 1.9],
        next_loss=(1.8, 1.8),
        step_seconds=0.5,
        step_images=8,
        loader_images_per_s=100.0,
        evaluated_images_per_s=10.0,
        peak_bytes=2**30,
        disk_bytes=2**20,
        images=86_400 * 16 * 3,
        evaluated_images=86_400 * 10,
    )
    return replace(sound, **changes)


def test_a_long_training_is_as_fast_as_the_slower_of_loader_and_device():
    found = trial()
    assert (found.images_per_s, found.limited_by, found.waiting_share) == (16, 'device', 0)
    assert found.days == pytest.approx(3 + 1)
    found = trial(loader_images_per_s=4.0)
    assert (found.images_per_s, found.limited_by, found.waiting_share) == (4, 'loader', 0.75)
    assert found.days == pytest.approx(12 + 1)
    assert trial(evaluated_images_per_s=None, evaluated_images=0).days == pytest.approx(3)


@pytest.mark.parametrize(
    ('changes', 'fault'),
    [
        ({}, None),
        ({'losses': [2.0, float('nan')]}, 'the losses are not finite'),
        ({'next_loss': (1.8, 1.8001)}, 'the loss after the save is 1.8, and 1.8001 after'),
        ({'next_loss': (1.8, 1.8001), 'device': 'cuda'}, None),
        ({'without_gradient': ['a', 'b', 'c', 'd']}, 'no gradient reaches a, b, c and 1 more'),
        ({'never_finite': ['a'], 'fp16': True}, 'fp16 may take more --steps'),
    ],
)
def test_what_must_not_be_in_a_training_is_a_fault(changes, fault):
    faults = trial(**changes).faults()
    assert len(faults) == (fault is not None)
    assert fault is None or fault in faults[0]


def test_processes_take_their_steps_together():
    both = together([trial(), trial(step_seconds=1.0, losses=[4.0, 2.1], peak_bytes=1)])
    assert (both.step_seconds, both.step_images, both.images_per_s) == (1.0, 16, 16)
    assert both.losses == pytest.approx([3.0, 2.0])
    assert (both.loader_images_per_s, both.peak_bytes) == (200.0, 2**30)


def test_the_parameters_without_a_gradient_are_named():
    model = nn.ModuleDict({'used': nn.Linear(2, 2), 'unused': nn.Linear(2, 2)})
    model['frozen'] = nn.Linear(2, 2).requires_grad_(False)
    watch = GradientWatch(model)
    for factor in (float('inf'), 1.0):
        model.zero_grad()
        (model['used'](torch.ones(1, 2)).sum() * factor).backward()
        assert watch.without_gradient() == ['unused.weight', 'unused.bias']
        expected = ['used.weight', 'used.bias'] if factor != 1 else []
        assert sorted(watch.never_finite()) == sorted(expected)


def test_the_speed_of_a_loader_does_not_count_what_was_read_ahead(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, 'perf_counter', lambda: now)

    def batches(ready, late):
        nonlocal now
        now += 1.0  # the workers start
        yield from range(ready)
        for number in range(late):
            now += 0.5
            yield number

    # Each of four workers has a batch ready at the same time.
    assert loader_speed(batches(4, 10), images=5, workers=4) == 5 / 0.5
    assert loader_speed(batches(1, 0), images=5, workers=4) == 5


# ------------------------------------------------------------------------------------------------
# Processes of their own


def doubled(value):
    print('printed', flush=True)
    return 2 * value


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def refused():
    raise UserError('the data are not there.')


def broken():
    raise ZeroDivisionError('of course')


def without_memory():
    with join('cpu'):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 3 GiB')


def ended_by_the_kernel():
    with join('cpu') as group:
        if group.rank == 1:
            killed()
        group.barrier()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('function', 'processes', 'kind', 'message'),
    [
        (killed, 1, OutOfMemory, 'it was killed, as when the memory of the machine is full'),
        (refused, 1, UserError, 'the data are not there.'),
        (broken, 1, UserError, r'ZeroDivisionError: of course \(test_rehearse.py, line \d+\)'),
        (without_memory, 1, OutOfMemory, r'cpu is out of memory .*: lower the batch size\.'),
        (without_memory, 2, OutOfMemory, r'cpu is out of memory .*: lower the batch size\.'),
        (ended_by_the_kernel, 2, OutOfMemory, 'rank 1 of 2 was killed, as .*'),
    ],
)
def test_the_end_of_a_process_is_an_error_of_one_line(tmp_path, function, processes, kind, message):
    with pytest.raises(UserError, match=f'^{message}$') as error:
        isolation.call(function, log=tmp_path / 'log.txt', processes=processes)
    assert type(error.value) is kind


def test_a_process_of_its_own_gives_its_result_and_keeps_what_it_prints(tmp_path):
    assert isolation.call(doubled, 21, log=tmp_path / 'log.txt') == 42
    assert 'printed' in (tmp_path / 'log.txt').read_text()


# ------------------------------------------------------------------------------------------------
# Drawn data of the real sizes


def test_drawn_data_fit_the_heads_of_the_real_data(drawn):
    images = imagenet.load(drawn / 'imagenet', 'train')
    assert len(images.classes) == 1000
    assert len(images.samples) >= 60
    assert {label for _, label in images.samples} == set(range(10))
    for split in ('train', 'val'):
        detection, scenes = coco.load(drawn, split), ade20k.load(drawn, split)
        assert len(detection.samples) >= (60 if split == 'train' else 40)
        assert len(scenes.samples) >= (50 if split == 'train' else 40)
        for path in CONFIGS.glob('*_coco.py'):
            check_classes(load_config(path.name), detection)
        for path in CONFIGS.glob('*_ade20k-*.py'):
            check_classes(load_config(path.name), scenes)


def test_enlarged_scenes_have_their_objects_where_they_are_seen(drawn):
    """The mask of a shape without a hole holds its own colours: it is not where the ground is."""
    annotations = coco.read(drawn / 'coco/annotations/instances_train2017.json')
    large = [i for i in annotations.images if min(i['width'], i['height']) >= 450]
    assert len(large) == len(annotations.images)
    scenes = ade20k.load(drawn, 'train')
    for (path, label_map), image in zip(scenes.samples, annotations.images, strict=False):
        labels = np.asarray(Image.open(label_map))
        assert labels.shape == (image['height'], image['width'])
        assert Image.open(path).size == labels.shape[::-1]
        objects = [o for o in annotations.instances if o['image_id'] == image['id']]
        # What COCO's masks cover is what ADE20K's map gives to the classes of shapes.
        area = sum(o['area'] for o in objects)
        assert area <= ((labels > 0) & (labels <= 10)).sum()


def test_label_maps_of_drawn_data_are_those_of_their_images(drawn):
    images = imagenet.load(drawn / 'imagenet', 'train')
    share = agreement(images, drawn / 'labels', range(len(images.samples)))
    assert share > 0.4  # of 1,000 classes, ten of which are drawn


# ------------------------------------------------------------------------------------------------
# Trials


def settings(data, folder, images, **changes):
    folder.mkdir(exist_ok=True)
    return TrialSettings(data, None, images, folder, steps=2, workers=0, device='cpu', **changes)


def test_a_recipe_is_tried_by_the_training_itself(data, tmp_path):
    recipe = recipe_for('maformer_micro').changed(img_size=32, epochs=3)
    images = {'train': 1000, 'val': 100}
    found = try_recipe(recipe, settings(data, tmp_path / 'x', images, batch_size=8), 1)
    assert found.faults() == []
    assert found.next_loss[0] == found.next_loss[1]
    assert (found.step_images, found.images) == (8, 3 * 1000)
    assert found.evaluated_images == (2 * 3 + 2) * 100
    # The same steps without a rehearsal.
    with join('cpu') as group:
        training = ClassifierTraining(recipe.changed(batch_size=8), data, group, workers=0)
    expected = []
    for batch, _ in zip(training.batches(), range(3), strict=False):
        training.losses.zero_()
        training.take_step(batch)
        expected.append(training.losses[0].item())
    assert [*found.losses, found.next_loss[0]] == expected
    checkpoint = (tmp_path / 'x/last.pth').stat().st_size
    assert 2 * checkpoint < found.disk_bytes < 4 * checkpoint


def test_a_loss_that_a_resumption_changes_is_a_fault(data, tmp_path, monkeypatch):
    restore = ClassifierTraining.restore

    def forgetful(training, path):
        restore(training, path)
        with torch.no_grad():
            training.model.head.fc.bias.add_(torch.arange(10.0))

    monkeypatch.setattr(ClassifierTraining, 'restore', forgetful)
    recipe = recipe_for('maformer_micro').changed(img_size=32)
    small = settings(data, tmp_path / 'x', {'train': 1, 'val': 1}, batch_size=8)
    (fault,) = try_recipe(recipe, small, 1).faults()
    assert fault.startswith('the loss after the save is ')
    with pytest.raises(UserError, match=r'an epoch of .* has 4 steps of 16 images: expected more'):
        try_recipe(recipe, replace(small, batch_size=16, steps=9), 1)


def test_a_config_is_tried_by_mmengines_runner(data, tmp_path):
    images = {'train': 1000, 'val': 100}
    config = load_config(FPN)
    found = try_config(FPN, settings(data, tmp_path / 'x', images, batch_size=2), 1)
    assert found.faults() == []
    assert len(found.losses) == 2
    assert found.next_loss[0] == found.next_loss[1]
    assert found.step_images == 2
    assert found.images == 2 * config.train_cfg.max_iters
    validations = config.train_cfg.max_iters // config.train_cfg.val_interval
    assert found.evaluated_images == validations * 100
    assert found.evaluated_images_per_s > 0


@pytest.mark.slow
def test_trials_on_two_processes(data, tmp_path):
    recipe = recipe_for('maformer_micro').changed(img_size=32)
    images = {'train': 1, 'val': 1}
    for number, found in enumerate(
        (
            try_recipe(recipe, settings(data, tmp_path / 'a', images, batch_size=8), 2),
            try_config(FPN, settings(data, tmp_path / 'b', images, batch_size=2), 2),
        )
    ):
        assert found.faults() == []
        assert found.step_images == (16, 4)[number]


# ------------------------------------------------------------------------------------------------
# Checks


def test_a_busy_machine_is_noted(monkeypatch):
    for load, state in ((0.5, 'ok'), (2 * os.cpu_count(), 'note')):
        monkeypatch.setattr(os, 'getloadavg', lambda load=load: (load, 0.0, 0.0))
        assert checks._check_load().state == state


@pytest.mark.slow
def test_processes_add_up_rightly(tmp_path):
    check = isolation.call(checks.check_connection, 'cpu', log=tmp_path / 'log', processes=2)
    assert (check.state, check.name) == ('ok', 'all-reduce of 100 MB by gloo')


def test_label_maps_of_other_classes_are_found(drawn, tmp_path):
    images, found = checks.examine_data('imagenet', drawn, drawn / 'labels', LABELED)
    by_name = {check.name: check for check in found}
    assert images['train'] == len(imagenet.load(drawn, 'train').samples)
    whole, cropped = map(float, re.findall(r'([0-9.]+) %', by_name['label maps'].found))
    assert by_name['label maps'].state == ('ok' if whole >= 50 else 'note')
    assert 25 < cropped <= whole + 10
    for path in (drawn / 'labels').glob('*/*.pt'):
        target = tmp_path / path.relative_to(drawn / 'labels')
        target.parent.mkdir(exist_ok=True)
        label_map = torch.load(path)
        label_map[1] = 999 - label_map[1]
        torch.save(label_map, target)
    _, found = checks.examine_data('imagenet', drawn, tmp_path, LABELED)
    (check,) = [check for check in found if check.name == 'label maps']
    assert check.state == 'fails'
    assert check.found.startswith('0.0 % of')


def test_an_image_that_cannot_be_decoded_is_named(data, tmp_path):
    shapes.write(tmp_path, train=0, val=40)
    shapes.write(tmp_path, train=40, val=0)
    path = imagenet.load(tmp_path, 'train').samples[0][0]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=f'cannot read the image {path}'):
        checks.examine_data('imagenet', tmp_path)


# ------------------------------------------------------------------------------------------------
# The whole


def test_everything_is_rehearsed_unless_named():
    everything = [training.name for training in select(())]
    assert set(RECIPES) < set(everything)
    configs = [name for name in everything if name.endswith('.py')]
    assert len(configs) == 14
    assert len(everything) == len(RECIPES) + 14
    assert [t.name for t in select(['maformer_base', 'upernet*'])] == [
        'maformer_base',
        *sorted(name for name in configs if name.startswith('upernet')),
    ]
    assert select([FPN]) == [Training(FPN, 'ade20k')]
    assert select(['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'])[0].task == 'coco'
    with pytest.raises(UserError, match=r"no recipe or config 'maformer_bse': did you mean "):
        select(['maformer_bse'])
    with pytest.raises(UserError, match=r"there is no config 'upernet\.py'"):
        select(['upernet.py'])


def test_what_does_not_fit_says_what_to_change(tmp_path, monkeypatch):
    def call(function, *arguments, log):
        raise OutOfMemory('it was killed')

    monkeypatch.setattr(isolation, 'call', call)
    tried = settings(None, tmp_path / 'unused', {}, batch_size=4)
    tried = replace(tried, output=tmp_path / 'new')
    recipe = Training('r', 'imagenet', RECIPES['maformer_micro'])
    row = rehearsals._try(recipe, tried, 1, tmp_path / 'log')
    assert (row.fits, row.passes, row.reasons) == (False, False, ('it was killed',))
    assert row.advice == (
        '--grad-checkpointing, or --accumulation 2, or fewer images a process (--batch-size 2), '
        'or a device with more memory'
    )
    row = rehearsals._try(
        Training('c', 'coco'), replace(tried, grad_checkpointing=True, batch_size=1), 1, tmp_path
    )
    assert row.advice == 'a device with more memory'


SMALL = ('--steps', 1, '--batch-size', 2, '--workers', 0, '--device', 'cpu')


@pytest.mark.slow
def test_a_rehearsal_prints_a_row_for_each_training(run, data, tmp_path):
    code, out, err = run(
        *('rehearse', 'maformer_micro', FPN, '--data', data, '--output', tmp_path / 'out'),
        *(*SMALL, '--format', 'json', '--report', tmp_path / 'pages'),
    )
    found = json.loads(out)
    assert (code, found['passes']) == (0, True), found
    assert [row['verdict'] for row in found['trainings']] == ['passes'] * 2
    for row in found['trainings']:
        assert row['fits'] and 0.1 < row['peak_gib'] < 8 and row['images_per_s'] > 0
    assert err.splitlines()[-4::2] == ['1/2 maformer_micro', f'2/2 {FPN}']
    assert all(line.startswith('    passes: ') for line in err.splitlines()[-3::2])
    assert list((tmp_path / 'out').iterdir()) == []
    (page,) = (tmp_path / 'pages').iterdir()
    assert page.name == file_name(found['device'])
    assert '| maformer_micro ' in page.read_text()
    command = f'rehearse maformer_micro {FPN} --steps 1 --batch-size 2 --workers 0 --data DATA'
    assert f'    python -m reproduce {command}\n' in page.read_text()


def test_a_rehearsal_ends_with_what_is_wrong(run, data, monkeypatch):
    """In this process, which saves the seconds in which others start."""
    monkeypatch.setattr(isolation, 'call', lambda function, *arguments, log: function(*arguments))
    # Data of other classes than the config has, and none at all.
    full = 'upernet_maformer-base_8xb2-160k_ade20k-512x512.py'
    code, out, _ = run('rehearse', full, '--data', data, *SMALL)
    assert code == 1
    assert f'{full}: model.decode_head.num_classes is 150, and ' in out
    assert '0 of 1 pass.' in out
    code, out, _ = run('rehearse', full, '--data', data / 'coco', *SMALL)
    assert code == 1
    assert 'there is no data of ade20k' in out


def test_a_request_that_does_not_go_together_is_explained(run, tmp_path):
    for arguments, message in (
        (('--steps', 0), '--steps 0 is out of range'),
        (('--data', 'none'), 'none is not a folder: name the one that holds the data sets'),
        (('--labels', tmp_path), '--labels are of the images in --data'),
        (('--workers', -1), '--workers must be at least 0, got -1'),
        (('maformer_bass',), "there is no recipe or config 'maformer_bass'"),
    ):
        code, out, err = run('rehearse', *arguments)
        assert (code, out, err.count('\n')) == (2, '', 1)
        assert message in err


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_rehearsal_that_is_ended_leaves_nothing_behind(tmp_path, number):
    arguments = ('rehearse', 'maformer_small', '--steps', '99', '--batch-size', '2', '--output')
    task = subprocess.Popen(
        [sys.executable, '-m', 'reproduce', *arguments, str(tmp_path)],
        cwd=CHECKOUT,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in task.stderr:
        if line.startswith('1/1'):
            break
    children, end = [], time.monotonic() + 60
    while not children and time.monotonic() < end:
        children = psutil.Process(task.pid).children(recursive=True)
    assert children
    task.send_signal(number)
    _, err = task.communicate(timeout=60)
    assert task.returncode == 128 + number
    assert 'Traceback' not in err
    assert psutil.wait_procs(children, timeout=20)[1] == []
    assert list(tmp_path.iterdir()) == []


def test_a_text_has_its_reasons_and_its_advice():
    machine = checks.Machine('CPU X', 'cpu', 1, (checks.ReadinessCheck('CPU', '2 cores'),))
    rows = (
        RehearsalRow('good', trial(loader_images_per_s=4.0), True, advice='more --workers'),
        RehearsalRow('large', None, False, ('it was killed',), '--grad-checkpointing'),
    )
    found = rehearsals.Rehearsal(RehearsalRequest(), machine, (), rows, planned=3)
    text = as_text(*as_parts(found))
    lines = [' '.join(line.split()) for line in text.splitlines()]
    assert 'good yes 1.0 4 loader, 75 % 13.0 passes' in lines
    assert 'large no fails' in lines
    assert lines[-1] == '1 of 2 pass; 1 not reached.'
    assert 'large: --grad-checkpointing' in lines
    assert not found.passes


@pytest.mark.slow
def test_every_training_passes_at_full_size(tmp_path):
    """Takes an hour on two cores, and 12 GiB of memory."""
    found = rehearse(RehearsalRequest(output=tmp_path, steps=1, batch_size=2, device='cpu'), print)
    print(as_text(*as_parts(found)))
    assert found.passes
