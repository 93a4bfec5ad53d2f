"""Training classifiers: images, label maps, resuming, several processes, half precision."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from conftest import restored
from filelock import FileLock
from ranks import in_ranks
from safetensors import safe_open
from safetensors.torch import load_file
from timm.data import resolve_data_config

import model as _maformer  # noqa: F401
from datasets import imagenet, shapes
from reproduce.base.errors import UserError
from reproduce.base.processes import join
from reproduce.evaluate import harness
from reproduce.evaluate.harness import evaluate
from reproduce.tasks.job import Job
from reproduce.train import building, classifier_steps, output_folder
from reproduce.train.classifier import train
from reproduce.train.classifier_steps import ClassifierTraining
from reproduce.train.images import TrainingBatches, TrainingImages
from reproduce.train.jobs import TrainingJob
from reproduce.train.label_maps import make_labels
from reproduce.train.recipes import RECIPES, recipe_for
from reproduce.train.token_labeling import origin

# ------------------------------------------------------------------------------------------------
# Images


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    shapes.write(root, train=50, val=50)
    return root / 'imagenet'


@pytest.fixture(scope='module')
def labels(root, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('labels')
    annotator = timm.create_model('test_resnet', num_classes=10)
    torch.save(annotator.state_dict(), folder.with_suffix('.pth'))
    make_labels('test_resnet', root, folder, folder.with_suffix('.pth'), 96, workers=0)
    return folder


def micro(token_labeling=False, **changes):
    small = {'img_size': 32, 'epochs': 3, 'warmup_epochs': 1, 'batch_size': 16, 'ema_decay': 0.9}
    return recipe_for('maformer_micro', token_labeling).changed(**small | changes)


def test_augmentation_depends_on_seed_epoch_and_image_alone(root, labels):
    data = imagenet.load(root, 'train')
    config = resolve_data_config({}, model=timm.create_model('maformer_micro'))

    def item(epoch, index):
        return TrainingImages(data, micro(True), config, labels)[epoch, index, 0]

    state = torch.get_rng_state()
    first = item(0, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again, later = item(0, 5), item(1, 5)
    assert torch.equal(first['image'], again['image'])
    assert not torch.equal(first['image'], later['image'])
    assert set(first) == {'image', 'label', 'map', 'box'}


def test_a_batch_is_dealt_to_the_processes_whole():
    recipe = micro(batch_size=8)
    one = TrainingBatches(50, recipe, 0, 1)
    two = [TrainingBatches(50, recipe, rank, 2) for rank in range(2)]
    assert len(one) == 6
    whole = list(one)
    for batch, *parts in zip(whole, *two, strict=True):
        assert sorted(batch) == sorted(parts[0] + parts[1])
        assert len(parts[0]) == len(parts[1])
    assert len({index for batch in whole for _, index, _ in batch}) == 48
    one.first = 4
    assert (len(one), list(one)) == (2, whole[4:])
    one.epoch, one.first = 1, 0
    assert [key[1] for batch in one for key in batch] != [k[1] for batch in whole for k in batch]


def test_repeats_of_an_image_are_augmented_anew_and_meet_different_processes(root):
    """DeiT's repeated augmentation: an epoch is as long, and has a third of the images."""
    recipe = micro(batch_size=8, repeats=3)
    parts = [list(TrainingBatches(50, recipe, rank, 4)) for rank in range(4)]
    assert [len(part) for part in parts] == [6] * 4
    keys = [key for part in parts for batch in part for key in batch]
    assert len(set(keys)) == len(keys) == 48
    assert len({index for _, index, _ in keys}) == 16
    for batches in zip(*parts, strict=True):
        for batch in batches:
            assert len({index for _, index, _ in batch}) == len(batch)
    config = resolve_data_config({}, model=timm.create_model('maformer_micro'))
    images = TrainingImages(imagenet.load(root, 'train'), micro(), config, None)
    assert not torch.equal(images[0, 3, 0]['image'], images[0, 3, 1]['image'])


# ------------------------------------------------------------------------------------------------
# Training


def weights_of(folder, name='model.safetensors'):
    return load_file(folder / name)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_resumed_training_is_the_uninterrupted_one(root, labels, tmp_path):
    recipe = micro(True, drop_path=0.2)
    options = {'workers': 0, 'device': 'cpu', 'amp': 'fp16'}
    job = TrainingJob(recipe, root, tmp_path / 'whole', labels, **options)
    whole = train(job)
    assert len(whole) == 3
    steps = len(imagenet.load(root, 'train').samples) // recipe.batch_size
    job = replace(job, output=tmp_path / 'cut')
    # In the middle of an epoch, and at the end of one before its evaluation.
    for max_steps in (steps + 1, 2 * steps):
        rows = train(replace(job, max_steps=max_steps, workers=1, resume=max_steps > steps + 1))
        assert len(rows) == 1
        measured = json.loads((tmp_path / 'cut' / output_folder.STEPS).read_text())
        assert measured['images'] == 16 and measured['peak_bytes'] > 2**20
        assert 0 <= measured['waiting_seconds'] < measured['seconds']
    rest = train(replace(job, resume=True))
    for rows in (whole, rest):
        for row in rows:
            del row['seconds']
    assert rest == whole
    logged = pd.read_csv(tmp_path / 'cut/log.csv')
    assert logged['loss'].tolist() == pytest.approx([row['loss'] for row in whole])
    for name in ('model.safetensors', 'best.safetensors'):
        assert same(*(weights_of(tmp_path / folder, name) for folder in ('whole', 'cut')))


def test_the_best_and_the_last_weights_are_kept(root, tmp_path, monkeypatch):
    deterministic = []
    for module in (classifier_steps, harness):
        monkeypatch.setattr(
            module, 'use_deterministic_algorithms', lambda: deterministic.append(True)
        )
    # Weights that are hardly averaged and learn fast: the last epoch is not the best one.
    recipe = micro(epochs=4, lr=0.02, lr_batch_size=16, ema_decay=0.1, test_crops=(0.5,))
    job = TrainingJob(recipe, root, tmp_path, workers=0, device='cpu')
    rows = train(replace(job, deterministic=True))
    assert json.loads((tmp_path / 'recipe.json').read_text())['deterministic'] and deterministic
    best = int(np.argmax([row['ema_top1'] for row in rows])) + 1
    assert best < 4
    for epoch, file in ((4, 'model'), (best, 'best')):
        with safe_open(tmp_path / f'{file}.safetensors', 'pt') as opened:
            assert opened.metadata()['epoch'] == str(epoch)
    # The evaluation takes size and crop from the file.
    weights = tmp_path / 'best.safetensors'
    job = Job('imagenet', 'maformer_micro', weights, root, workers=0, device='cpu')
    evaluation = evaluate(job).evaluation
    assert evaluation.metrics['top1'] == pytest.approx(rows[best - 1]['ema_top1'], abs=1e-9)
    assert evaluation.preprocessing['input_size'] == [3, 32, 32]
    assert evaluation.from_weights == ('crop_pct', 'img_size')
    assert evaluation.overridden == ('img_size',)  # not a number of the system itself
    assert not evaluation.provenance.deterministic and len(deterministic) == 1
    again = replace(job, preprocessing={'img_size': 64}, deterministic=True)
    chosen = evaluate(again).evaluation
    assert chosen.provenance.deterministic and len(deterministic) == 2
    assert chosen.preprocessing['input_size'] == [3, 64, 64]
    assert (chosen.from_weights, chosen.overridden) == (('crop_pct',), ('img_size',))


def test_two_processes_and_accumulated_gradients_train_as_one_batch_does(root, labels, tmp_path):
    """Without what is drawn in each process by itself: mixing and stochastic depth."""
    recipe = micro(True, mix_prob=0, drop_path=0, epochs=1)
    job = TrainingJob(recipe, root, tmp_path / 'whole', labels, workers=0, device='cpu')
    (whole,) = train(job)
    for processes, parts in ((1, 4), (2, 2)):
        folder = tmp_path / str(processes)
        other = replace(job, recipe=recipe.changed(accumulation=parts), output=folder)
        (row,) = in_ranks(processes, train, other)
        assert row['loss'] == pytest.approx(whole['loss'], rel=1e-4)
        assert row['lr'] == whole['lr']
        a, b = (weights_of(place) for place in (tmp_path / 'whole', folder))
        # Adam divides by the gradients' size: where they nearly vanish, their last bits count.
        close = [torch.isclose(a[name], b[name], atol=2e-4).float().mean() for name in a]
        assert min(close) > 0.98


def test_gradient_checkpointing_does_not_change_the_result(root, tmp_path):
    recipe = micro(epochs=1, drop_path=0.2)
    job = TrainingJob(recipe, root, tmp_path / 'kept', workers=0, device='cpu')
    train(job)
    # A training may be resumed with it, when its memory turned out to be too small.
    train(replace(job, output=tmp_path / 'again', max_steps=1))
    recipe = recipe.changed(grad_checkpointing=True)
    train(replace(job, recipe=recipe, output=tmp_path / 'again', resume=True))
    assert same(weights_of(tmp_path / 'kept'), weights_of(tmp_path / 'again'))


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in RECIPES if 'micro' not in name])
def test_every_recipe_takes_a_step_at_its_own_size_and_strength(root, labels, tmp_path, name):
    recipe = RECIPES[name].changed(batch_size=2)
    with join('cpu') as group:
        maps = labels if recipe.token_labeling else None
        job = TrainingJob(recipe, root, tmp_path, maps, workers=0, device='cpu')
        training = ClassifierTraining(job, group)
    training.take_step(next(training.batches()))
    loss, taken = training.loss_and_steps()
    assert taken == 1 and 0 < loss < 30
    for parameter in training.model.parameters():
        assert parameter.grad.isfinite().all()


# ------------------------------------------------------------------------------------------------
# Precision, and steps whose gradients are not finite


def prepared(root, recipe, precision='off'):
    with join('cpu') as group:
        job = TrainingJob(recipe, root, root / 'none', workers=0, amp=precision)
        return ClassifierTraining(job, group)


def state_of(training):
    averaged = {f'ema.{k}': v.clone() for k, v in training.ema.module.state_dict().items()}
    return averaged | {k: v.clone() for k, v in training.model.state_dict().items()}


@pytest.mark.parametrize('precision', ['off', 'fp16'])
def test_a_step_whose_gradients_are_not_finite_is_skipped_and_counted(root, precision):
    training = prepared(root, micro(mix_prob=0), precision)
    batch = next(training.batches())
    bad = {**batch, 'image': torch.full_like(batch['image'], torch.nan)}
    training.take_step(batch)
    good = state_of(training)
    scale = training.scaler.get_scale()
    for _ in range(2):
        training.take_step(bad)
    assert training.loss_and_steps()[1] == 1
    skipped = state_of(training)
    weights = [name for name in good if not name.startswith('ema.')]
    assert all(torch.equal(good[name], skipped[name]) for name in weights)
    assert all(torch.isfinite(tensor).all() for tensor in skipped.values())
    training.take_step(batch)
    assert not same(skipped, state_of(training))
    loss, taken = training.loss_and_steps()
    assert (training.step, taken) == (4, 2) and np.isfinite(loss)
    # fp16 tries a smaller scale of the loss; the others have none.
    assert (scale, training.scaler.get_scale()) == (
        (65536, 16384) if precision == 'fp16' else (1, 1)
    )


@pytest.mark.parametrize('drop_path', [0.0, 0.3])
def test_stochastic_depth_is_the_recipes_and_not_the_models_own(drop_path):
    recipe = recipe_for('swin_tiny_patch4_window7_224', name='maformer_micro')
    network = building.build(recipe.changed(drop_path=drop_path, img_size=224), num_classes=2)
    rates = [getattr(module, 'drop_prob', 0.0) for module in network.modules()]
    assert max(rates) == pytest.approx(drop_path)


# ------------------------------------------------------------------------------------------------
# What is refused


def test_a_job_that_does_not_fit_is_explained(root, tmp_path):
    def refused(match, recipe=None, **job):
        with pytest.raises(UserError, match=match):
            train(TrainingJob(recipe or micro(), **{'data': root, 'output': tmp_path / 'x'} | job))
        assert {path.name for path in (tmp_path / 'x').glob('*')} <= {'.lock'}

    refused('token labeling needs label maps', micro(True))
    refused('do not fill a batch', micro(batch_size=1024))
    refused('in 4 parts: choose a batch_size that 8 divides', micro(batch_size=12, accumulation=4))
    refused('holds no checkpoint', resume=True)
    refused("there is no model 'resnet'", micro(model='resnet'))
    with pytest.raises(UserError, match=r'cannot read the label map .*\.pt'):
        train(TrainingJob(micro(True), root, tmp_path / 'y', tmp_path, workers=1))


def test_what_cannot_be_resumed_is_explained(run, root, tmp_path):
    output = tmp_path / 'run'
    small = ('--set', 'img_size=32', '--set', 'epochs=1', '--set', 'batch_size=16')
    command = ('train', 'imagenet', 'maformer_micro', '--data', root, '--output', output, *small)
    assert run(*command, '--workers', 0, '--max-steps', 1)[0] == 0
    job = TrainingJob(micro(epochs=1, warmup_epochs=2, ema_decay=0.98), root, output, workers=0)
    with pytest.raises(UserError, match='holds a training already'):
        train(job)
    job = replace(job, resume=True)
    with pytest.raises(UserError, match=r'trained with epochs = 1, not 3'):
        train(replace(job, recipe=job.recipe.changed(epochs=3)))
    path = output / 'last.pth'
    with restored(path):
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(UserError, match=r'last\.pth cannot be resumed: '):
            train(job)
    with (
        FileLock(output / '.lock'),
        pytest.raises(UserError, match='another process writes into '),
    ):
        train(job)


def test_label_maps_of_another_origin_are_refused(root, labels, tmp_path):
    shutil.copytree(labels, tmp_path / 'maps')
    record = json.loads((labels / 'labels.json').read_text())
    assert origin(labels) == {k: v for k, v in record.items() if k != 'complete'}
    job = TrainingJob(micro(True), root, tmp_path / 'run', labels, workers=0, device='cpu')
    train(replace(job, max_steps=1))
    other = replace(job, labels=tmp_path / 'maps')
    (tmp_path / 'maps/labels.json').write_text(json.dumps({**record, 'annotator': 'other'}))
    with pytest.raises(UserError, match='was trained with label maps = '):
        train(replace(other, resume=True))
    (tmp_path / 'maps/labels.json').write_text(json.dumps({**record, 'complete': False}))
    with pytest.raises(UserError, match='does not have all label maps, because they were inter'):
        train(replace(other, output=tmp_path / 'other'))
