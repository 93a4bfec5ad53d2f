"""Rehearsals: a few steps of each training by the real commands, and the drawn data."""

import json
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
from reproduce.train.rehearsal import rehearse, select
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


@pytest.mark.slow
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
    assert calls[0].startswith('train imagenet maformer_small --recipe maformer_small_token_')
    assert '--set batch_size=8 --set grad_checkpointing=true --token-labeling' in calls[0]
    assert calls[3].startswith(f'train config {FPN} --amp bf16 --cfg-options train_dataloader.')
    assert (calls[1], calls[4]) == (calls[0], calls[3])  # the resumptions
    assert calls[2].startswith('evaluate imagenet maformer_small ')
    assert calls[5].startswith(f'evaluate ade20k --config {FPN} --checkpoint ')
    # 16 images a second, and two iterations a second.
    epochs, schedule = RECIPES[names[0]].total_epochs, load_config(FPN).train_cfg
    assert recipe['days'] == pytest.approx(epochs * 1_281_167 / 16 / 86_400)
    assert config['days'] == pytest.approx(schedule.max_iters / 2 / 86_400)
    assert recipe['disk_bytes'] == 220
    assert list(tmp_path.iterdir()) == []


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
