"""Rehearsals: a few steps of each training by the real commands."""

import json
from pathlib import Path

import pytest

from datasets import shapes
from reproduce.base.errors import UserError
from reproduce.openmmlab.configs import load_config
from reproduce.train import rehearsal
from reproduce.train.jobs import RehearsalRequest
from reproduce.train.output_folder import STEPS
from reproduce.train.recipes import RECIPES
from reproduce.train.rehearsal import rehearse, select

FPN = 'fpn_maformer-micro_shapes.py'


def test_everything_is_rehearsed_unless_named():
    everything = select(())
    configs = [name for name, recipe in everything.items() if recipe is None]
    assert list(everything) == [*RECIPES, *configs]
    assert len(configs) == 14
    with pytest.raises(UserError, match="no recipe or config 'maformer_bse': expected "):
        select(['maformer_bse'])


def test_the_real_commands_are_called(monkeypatch):
    data, calls = Path('/data'), []

    def called(*arguments):
        calls.append(' '.join(map(str, arguments)).partition(' --output')[0])
        if arguments[0] == 'train':
            run = Path(arguments[arguments.index('--output') + 1])
            run.mkdir(parents=True, exist_ok=True)
            measured = {'images': 8, 'seconds': 0.5, 'loss': 2.0, 'waiting_seconds': 0}
            (run / STEPS).write_text(json.dumps(measured))

    monkeypatch.setattr(rehearsal, '_call', called)
    options = {'batch_size': 4, 'grad_checkpointing': True, 'processes': 2, 'amp': 'bf16'}
    places = {'data': data, 'labels': data / 'maps'}
    names = ('maformer_small_token_labeling', FPN)
    request = RehearsalRequest(names=names, **places, **options)
    recipe, config = rehearse(request)
    assert calls[0].startswith('train imagenet maformer_small --recipe maformer_small_token_')
    assert ' --processes 2 --amp bf16 --set ' in calls[0]
    assert '--set batch_size=8 --set grad_checkpointing=true --token-labeling' in calls[0]
    assert calls[3].startswith(f'train config {FPN} --processes 2 --amp bf16 --cfg-options ')
    assert (calls[1], calls[4]) == (calls[0], calls[3])  # the resumptions
    assert calls[2].startswith('evaluate imagenet maformer_small ')
    assert calls[5].startswith(f'evaluate ade20k --config {FPN} --checkpoint ')
    # 16 images a second, and two iterations a second.
    epochs, schedule = RECIPES[names[0]].total_epochs, load_config(FPN).train_cfg
    assert recipe['days'] == pytest.approx(epochs * 1_281_167 / 16 / 86_400)
    assert config['days'] == pytest.approx(schedule.max_iters / 2 / 86_400)


@pytest.mark.slow
def test_a_recipe_and_a_config_are_rehearsed(run, tmp_path):
    data = tmp_path / 'data'
    shapes.write(data, train=40, val=40)
    small = ('--steps', 1, '--batch-size', 2)
    code, out, err = run(
        *('rehearse', 'maformer_micro', FPN, '--data', data),
        *(*small, '--format', 'json'),
    )
    found = json.loads(out)
    assert (code, found['passes']) == (0, True), found
    for row in found['trainings']:
        assert row['images'] == 2 and row['seconds'] > 0 and row['peak_bytes'] > 2**27
    assert err.splitlines() == ['maformer_micro: passes', f'{FPN}: passes']
