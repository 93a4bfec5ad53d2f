"""Rehearsals: a few steps of each training by the real commands, and the table of them."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from datasets import ade20k, coco, imagenet, shapes
from reproduce.base.errors import UserError
from reproduce.base.versions import CHECKOUT
from reproduce.openmmlab.configs import CONFIGS, load_config
from reproduce.openmmlab.data_paths import check_classes
from reproduce.train import drawn_data, rehearsal, rehearsal_report, step_meter
from reproduce.train.classifier import train
from reproduce.train.jobs import RehearsalRequest, TrainingJob
from reproduce.train.recipes import RECIPES, recipe_for
from reproduce.train.rehearsal import RehearsalRow, rehearse, select
from reproduce.train.token_labeling import agreement

FPN = 'fpn_maformer-micro_shapes.py'
LABELED = 'maformer_micro_token_labeling'


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
# Measured steps


def test_the_first_step_is_not_measured(tmp_path, monkeypatch):
    times = iter([0.0, 9.0, 19.0, 19.5, 21.5, 22.5, 24.5])
    monkeypatch.setattr(time, 'perf_counter', lambda: next(times))
    meter = step_meter.StepMeter(torch.device('cpu'), images=8)
    for loss in (3.0, 2.0, 1.0):
        meter.begin()
        meter.end(torch.tensor(loss))
    meter.write(tmp_path)
    measured = json.loads((tmp_path / step_meter.FILE).read_text())
    assert measured.pop('peak_bytes') > 2**20
    assert measured == {'images': 8, 'seconds': 2.75, 'waiting_seconds': 0.75, 'loss': 1.0}


def test_a_classifier_ends_after_its_steps_and_is_resumed_exactly(data, tmp_path):
    small = {'img_size': 32, 'epochs': 1, 'warmup_epochs': 0, 'batch_size': 16}
    recipe = recipe_for('maformer_micro').changed(**small)

    def run(folder, **options):
        job = TrainingJob(recipe, data, tmp_path / folder, workers=0, device='cpu', **options)
        return [(row['loss'], row['ema_top1']) for row in train(job)]

    assert run('cut', max_steps=2) == []
    measured = json.loads((tmp_path / 'cut' / step_meter.FILE).read_text())
    assert measured['images'] == 16
    assert (tmp_path / 'cut/model.safetensors').exists()
    assert run('cut', resume=True) == run('whole')


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


def test_label_maps_of_other_classes_are_found(drawn, tmp_path):
    images = imagenet.load(drawn / 'imagenet', 'train')
    share = agreement(images, drawn / 'labels', range(len(images.samples)))
    assert share > 0.4  # of 1,000 classes, ten of which are drawn
    rehearsal._check_labels(drawn, drawn / 'labels')
    for path in (drawn / 'labels').glob('*/*.pt'):
        target = tmp_path / path.relative_to(drawn / 'labels')
        target.parent.mkdir(exist_ok=True)
        label_map = torch.load(path)
        label_map[1] = 999 - label_map[1]
        torch.save(label_map, target)
    with pytest.raises(UserError, match=r'0\.0 % of \d+ label maps in .* name the class'):
        rehearsal._check_labels(drawn, tmp_path)


# ------------------------------------------------------------------------------------------------
# The trainings of a rehearsal, and their commands


def test_everything_is_rehearsed_unless_named():
    everything = select(())
    configs = [name for name, recipe in everything.items() if recipe is None]
    assert list(everything) == [*RECIPES, *configs]
    assert len(configs) == 14
    upernet = sorted(name for name in configs if name.startswith('upernet'))
    assert list(select(['maformer_base', 'upernet*'])) == ['maformer_base', *upernet]
    assert select(['mmdet::faster_rcnn/x.py', FPN]) == {'mmdet::faster_rcnn/x.py': None, FPN: None}
    with pytest.raises(UserError, match=r"no recipe or config 'maformer_bse': did you mean "):
        select(['maformer_bse'])


def test_the_real_commands_are_called(data, tmp_path, monkeypatch):
    calls = []

    def called(*arguments):
        calls.append(' '.join(map(str, arguments)).partition(' --output')[0])
        if arguments[0] == 'train':
            run = Path(arguments[arguments.index('--output') + 1])
            run.mkdir(parents=True, exist_ok=True)
            measured = {'images': 8, 'seconds': 0.5, 'loss': 2.0, 'waiting_seconds': 0}
            (run / step_meter.FILE).write_text(json.dumps(measured))
            (run / 'last.pth').write_bytes(b'x' * 100)
            (run / 'model.safetensors').write_bytes(b'x' * 10)

    monkeypatch.setattr(rehearsal, '_call', called)
    options = {'batch_size': 4, 'grad_checkpointing': True, 'processes': 2, 'amp': 'bf16'}
    monkeypatch.setattr(rehearsal, '_check_labels', lambda data, labels: None)
    places = {'data': data, 'labels': data / 'maps', 'output': tmp_path}
    names = ('maformer_small_token_labeling', FPN)
    request = RehearsalRequest(names=names, **places, **options)
    recipe, config = rehearse(request)
    assert calls[0] == (
        'train imagenet maformer_small --recipe maformer_small_token_labeling --amp bf16 '
        '--accumulation 1 --set batch_size=8 --grad-checkpointing --token-labeling '
        f'--labels {data}/maps --data {data} --processes 2'
    )
    evaluated = 'evaluate imagenet maformer_small --model-kwargs token_labeling=True --checkpoint '
    assert calls[2].startswith(evaluated)
    assert calls[3] == (
        f'train config {FPN} --amp bf16 --cfg-options train_dataloader.batch_size=4 --cfg-options '
        f'model.backbone.with_cp=True --data {data} --processes 2'
    )
    assert (calls[1], calls[4]) == (calls[0], calls[3])  # the resumptions
    assert calls[5].startswith(f'evaluate ade20k --config {FPN} --checkpoint ')
    # 16 images a second, and two iterations a second.
    epochs, schedule = RECIPES[names[0]].total_epochs, load_config(FPN).train_cfg
    assert recipe.measured['days'] == pytest.approx(epochs * 1_281_167 / 16 / 86_400)
    assert config.measured['days'] == pytest.approx(schedule.max_iters / 2 / 86_400)
    assert recipe.measured['disk_bytes'] == 220
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_the_last_line_of_the_command():
    with pytest.raises(UserError, match=r"^train ended with status 2: there is no config 'none"):
        rehearsal._call('train', 'none.py', '--data', 'x', '--output', 'y')


def test_a_failing_training_is_a_row(data, tmp_path, monkeypatch):
    def fails(*arguments):
        raise UserError('cuda is out of memory: lower the batch size.')

    monkeypatch.setattr(rehearsal, '_call', fails)
    request = RehearsalRequest(names=[FPN, LABELED], data=data, output=tmp_path)
    config, labeled = rehearse(request)
    assert (config.measured, config.failure) == (
        None,
        'cuda is out of memory: lower the batch size.',
    )
    assert 'needs label maps' in labeled.failure


def test_the_table_has_a_row_for_each_training(monkeypatch):
    measured = {'images': 8, 'seconds': 2.0, 'waiting_seconds': 0.5, 'peak_bytes': 2**31}
    rows = [
        RehearsalRow('good', measured={**measured, 'days': 13.04, 'disk_bytes': 3 * 2**30}),
        RehearsalRow('large', 'it was killed'),
    ]
    text = rehearsal_report.as_text(rows)
    cells = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()[2:4]]
    assert cells[0] == ['good', '2.0', '2', '4', '25 %', '13.0', '3.0', 'passes']
    assert cells[1] == ['large', *[''] * 6, 'fails']
    assert text.endswith('\n\n* large: it was killed\n\n1 of 2 pass.')
    monkeypatch.setattr(sys, 'argv', ['reproduce', 'rehearse', 'maformer_b*'])
    assert "`python -m reproduce rehearse 'maformer_b*'`" in rehearsal_report.as_page(rows)


def test_a_request_that_does_not_go_together_is_explained(run):
    for arguments, message in (
        (('--labels', '.'), '--labels are of the images in --data'),
        (('maformer_bass',), "there is no recipe or config 'maformer_bass'"),
    ):
        code, out, err = run('rehearse', *arguments)
        assert (code, out, err.count('\n')) == (2, '', 1)
        assert message in err


# ------------------------------------------------------------------------------------------------
# The whole


@pytest.mark.slow
def test_a_recipe_and_a_config_are_rehearsed(run, data, tmp_path):
    small = ('--steps', 1, '--batch-size', 2, '--workers', 0)
    code, out, err = run(
        *('rehearse', 'maformer_micro', FPN, '--data', data, '--output', tmp_path / 'out'),
        *(*small, '--format', 'json', '--report', tmp_path / 'pages'),
    )
    found = json.loads(out)
    assert (code, found['passes']) == (0, True), found
    for row in found['trainings']:
        assert row['images'] == 2 and row['seconds'] > 0 and row['peak_bytes'] > 2**27
    assert err.splitlines() == ['maformer_micro: passes', f'{FPN}: passes']
    assert list((tmp_path / 'out').iterdir()) == []
    (page,) = (tmp_path / 'pages').iterdir()
    assert '| maformer_micro ' in page.read_text()


@pytest.mark.slow
def test_a_rehearsal_that_is_ended_leaves_nothing_behind(data, tmp_path):
    arguments = ('rehearse', 'maformer_micro', '--data', data, '--output', tmp_path)
    task = subprocess.Popen(
        [sys.executable, '-m', 'reproduce', *map(str, arguments), '--steps', '999'],
        cwd=CHECKOUT,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 120
    while not list(tmp_path.glob('rehearsal-*/1')) and time.monotonic() < end:
        time.sleep(0.1)
    children = psutil.Process(task.pid).children(recursive=True)
    assert children
    task.send_signal(signal.SIGTERM)
    _, err = task.communicate(timeout=60)
    assert task.returncode == 128 + signal.SIGTERM
    assert 'Traceback' not in err
    assert psutil.wait_procs(children, timeout=20)[1] == []
    assert list(tmp_path.iterdir()) == []
