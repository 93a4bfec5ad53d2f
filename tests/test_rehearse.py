"""Rehearsals: a few steps of each training by the real commands, and the table of them."""

import json
import sys
from pathlib import Path

import pytest

from datasets import ade20k, coco, imagenet, shapes
from reproduce.base.errors import UserError
from reproduce.openmmlab.configs import load_config
from reproduce.openmmlab.data_paths import check_classes
from reproduce.train import rehearsal
from reproduce.train.jobs import RehearsalRequest
from reproduce.train.output_folder import STEPS
from reproduce.train.recipes import RECIPES
from reproduce.train.rehearsal import as_text, rehearse, select
from reproduce.train.token_labeling import label_map_path, load_label_map

FPN = 'fpn_maformer-micro_shapes.py'


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """Large images, in the form of the real data."""
    root = tmp_path_factory.mktemp('drawn')
    rehearsal.draw(root, 45, 60, labels=True)
    return root


# ------------------------------------------------------------------------------------------------
# Drawn data of the real sizes


def test_drawn_data_fit_the_heads_of_the_real_data(drawn):
    images = imagenet.load(drawn / 'imagenet', 'train')
    assert len(images.classes) == 1000
    assert len(images.samples) >= 60
    assert {label for _, label in images.samples} == set(range(10))
    right = 0
    for path, label in images.samples:
        label_map = load_label_map(
            label_map_path(drawn / 'labels', path, images.classes[label]), 1000
        )
        right += int(label_map[1, 0].flatten().mode().values) == label
    assert right > 0.4 * len(images.samples)
    detection, scenes = coco.load(drawn, 'val'), ade20k.load(drawn, 'val')
    assert len(coco.load(drawn, 'train').samples) >= 40
    check_classes(load_config('mask-rcnn_maformer-small_fpn_1x_coco.py'), detection)
    check_classes(load_config('fpn_maformer-small_8xb2-80k_ade20k-512x512.py'), scenes)


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


def test_the_real_commands_are_called(tmp_path, monkeypatch):
    data, calls = Path('/data'), []

    def called(*arguments):
        calls.append(' '.join(map(str, arguments)).partition(' --output')[0])
        if arguments[0] == 'train':
            run = Path(arguments[arguments.index('--output') + 1])
            run.mkdir(parents=True, exist_ok=True)
            measured = {'images': 8, 'seconds': 0.5, 'loss': 2.0, 'waiting_seconds': 0}
            (run / STEPS).write_text(json.dumps(measured))
            (run / 'last.pth').write_bytes(b'x' * 100)
            (run / 'model.safetensors').write_bytes(b'x' * 10)

    monkeypatch.setattr(rehearsal, '_call', called)
    options = {'batch_size': 4, 'grad_checkpointing': True, 'processes': 2, 'amp': 'bf16'}
    places = {'data': data, 'labels': data / 'maps', 'output': tmp_path}
    names = ('maformer_small_token_labeling', FPN)
    request = RehearsalRequest(names=names, **places, **options)
    recipe, config = rehearse(request)
    assert calls[0] == (
        'train imagenet maformer_small --recipe maformer_small_token_labeling --amp bf16 '
        '--set batch_size=8 --set grad_checkpointing=true --token-labeling '
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
    assert recipe['days'] == pytest.approx(epochs * 1_281_167 / 16 / 86_400)
    assert config['days'] == pytest.approx(schedule.max_iters / 2 / 86_400)
    assert recipe['disk_bytes'] == 220
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_the_last_line_of_the_command():
    with pytest.raises(UserError, match=r'^nonsense ended with status 2: .*nonsense'):
        rehearsal._call('nonsense')


def test_a_failing_training_is_a_row(tmp_path, monkeypatch):
    def fails(*arguments):
        raise UserError('cuda is out of memory: lower the batch size.')

    monkeypatch.setattr(rehearsal, '_call', fails)
    (row,) = rehearse(RehearsalRequest(names=[FPN], data=tmp_path, output=tmp_path))
    assert row == {'name': FPN, 'failure': 'cuda is out of memory: lower the batch size.'}


def test_the_table_has_a_row_for_each_training(monkeypatch):
    measured = {'images': 8, 'seconds': 2.0, 'waiting_seconds': 0.5, 'peak_bytes': 2**31}
    measured |= {'days': 13.04, 'disk_bytes': 3 * 2**30}
    rows = [
        {'name': 'good', 'failure': '', **measured},
        {'name': 'large', 'failure': 'it was killed'},
    ]
    monkeypatch.setattr(sys, 'argv', ['reproduce', 'rehearse', 'maformer_b*'])
    text = as_text(rows)
    assert "`python -m reproduce rehearse 'maformer_b*'`" in text
    lines = [line for line in text.splitlines() if line.startswith('|')]
    cells = [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines[2:]]
    assert cells[0] == ['good', '2.0', '2', '4', '25%', '13.0', '3.0', 'passes']
    assert cells[1] == ['large', *[''] * 6, 'fails']
    assert text.endswith('\n\n* large: it was killed')


# ------------------------------------------------------------------------------------------------
# The whole


@pytest.mark.slow
def test_a_recipe_and_a_config_are_rehearsed(run, tmp_path):
    data = tmp_path / 'data'
    shapes.write(data, train=40, val=40)
    small = ('--steps', 1, '--batch-size', 2, '--workers', 0)
    code, out, err = run(
        *('rehearse', 'maformer_micro', FPN, '--data', data, '--output', tmp_path / 'out'),
        *(*small, '--format', 'json'),
    )
    found = json.loads(out)
    assert (code, found['passes']) == (0, True), found
    for row in found['trainings']:
        assert row['images'] == 2 and row['seconds'] > 0 and row['peak_bytes'] > 2**27
    assert err.splitlines() == ['maformer_micro: passes', f'{FPN}: passes']
    assert list((tmp_path / 'out').iterdir()) == []
