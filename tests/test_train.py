"""Training classifiers: images, label maps, resuming, several processes, half precision."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from conftest import restored
from filelock import FileLock
from PIL import Image
from ranks import in_ranks
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.data import resolve_data_config
from torchvision.transforms import functional as TF

import model as _maformer  # noqa: F401
from datasets import imagenet, shapes
from reproduce.base.errors import UserError
from reproduce.base.processes import join
from reproduce.commands.train import train_imagenet
from reproduce.evaluate.harness import evaluate
from reproduce.tasks.job import Job
from reproduce.train import classifier, classifier_steps, tensorboard
from reproduce.train.classifier import best_epoch, train
from reproduce.train.classifier_steps import ClassifierTraining, build, default_precision
from reproduce.train.images import RememberedCrop, TrainingBatches, TrainingImages
from reproduce.train.jobs import TrainingJob
from reproduce.train.label_maps import make_labels
from reproduce.train.recipes import RECIPES, recipe_for
from reproduce.train.token_labeling import origin

# ------------------------------------------------------------------------------------------------
# Images


def test_the_crop_tells_where_it_was():
    ramp = np.stack(np.broadcast_arrays(*np.mgrid[:100, :200], 0), -1).astype(np.uint8)
    image = Image.fromarray(ramp)
    crop = RememberedCrop(50, (0.2, 0.5), interpolation='bilinear')
    for _ in range(5):
        pixels = np.asarray(crop(image), float)
        left, top, right, bottom = crop.box
        assert pixels[:, 0, 1].mean() == pytest.approx(200 * left, abs=4)
        assert pixels[:, -1, 1].mean() == pytest.approx(200 * right, abs=4)
        assert pixels[0, :, 0].mean() == pytest.approx(100 * top, abs=4)
        assert pixels[-1, :, 0].mean() == pytest.approx(100 * bottom, abs=4)


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


def test_the_box_is_the_one_of_the_image(root, labels):
    """The recorded crop, applied by hand, gives the image that was trained on, or its mirror."""
    data = imagenet.load(root, 'train')
    recipe = micro(True, rand_augment='', color_jitter=0, random_erasing=0, interpolation='bicubic')
    config = resolve_data_config({}, model=timm.create_model('maformer_micro'))
    images = TrainingImages(data, recipe, config, labels)
    flips = set()
    for index in range(6):
        item = images[0, index, 0]
        image = imagenet.open_image(data.samples[index][0])
        left, top, right, bottom = (
            round(float(c) * n) for c, n in zip(item['box'], image.size * 2, strict=True)
        )
        found = []
        for flip in (False, True):  # the image is flipped before it is cropped
            whole = TF.hflip(image) if flip else image
            crop = TF.resized_crop(
                whole, top, left, bottom - top, right - left, [32, 32], Image.BICUBIC
            )
            expected = TF.normalize(TF.to_tensor(crop), config['mean'], config['std'])
            found.append(torch.allclose(item['image'], expected, atol=1e-5))
        assert sum(found) == 1
        flips.add(found[1])
    assert flips == {True, False}


def test_a_batch_is_dealt_to_the_processes_whole():
    one = TrainingBatches(50, 8, 0, 1, seed=1)
    two = [TrainingBatches(50, 8, rank, 2, seed=1) for rank in range(2)]
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
    parts = [list(TrainingBatches(50, 8, rank, 4, 1, repeats=3)) for rank in range(4)]
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


def curve(rows):
    return [(row['loss'], row['top1'], row['ema_top1'], row['lr']) for row in rows]


def weights_of(folder, name='model.safetensors'):
    return load_file(folder / name)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize('token_labeling', [False, True])
def test_a_resumed_training_is_the_uninterrupted_one(root, labels, tmp_path, token_labeling):
    recipe = micro(token_labeling, drop_path=0.2)
    shared = {'data': root, 'labels': labels if token_labeling else None, 'device': 'cpu'}
    whole = train(TrainingJob(recipe, output=tmp_path / 'whole', workers=0, **shared))
    assert len(whole) == 3
    cut = TrainingJob(recipe, output=tmp_path / 'cut', until=1, workers=1, **shared)
    assert len(train(cut)) == 1
    assert not (tmp_path / 'cut/model.safetensors').exists()
    rest = train(TrainingJob(recipe, output=tmp_path / 'cut', resume=True, workers=0, **shared))
    assert curve(rest) == curve(whole)
    logged = pd.read_csv(tmp_path / 'cut/log.csv')
    assert logged['loss'].tolist() == pytest.approx([row['loss'] for row in whole])
    for name in ('model.safetensors', 'best.safetensors'):
        assert same(*(weights_of(tmp_path / folder, name) for folder in ('whole', 'cut')))


def test_what_a_training_leaves_behind(root, tmp_path):
    output = tmp_path / 'run'
    job = TrainingJob(
        micro(epochs=2, test_crops=(0.9, 1.0)), root, output, workers=0, tensorboard=True
    )
    rows = train(job)
    assert {path.name for path in output.iterdir()} == {
        *('recipe.json', 'train.log', 'log.csv', 'last.pth', 'summary.json', 'curve.png', '.lock'),
        *('model.safetensors', 'best.safetensors', 'tensorboard'),
    }
    with safe_open(output / 'model.safetensors', 'pt') as file:
        assert (file.metadata()['img_size'], file.metadata()['epoch']) == ('32', '2')
    network = timm.create_model('maformer_micro', num_classes=10)
    network.load_state_dict(load_file(output / 'model.safetensors'))
    log = (output / 'train.log').read_text()
    assert 'batch 16 = 1 x 16, learning rate' in log
    assert f'loss {rows[0]["loss"]:.4f}' in log
    with Image.open(output / 'curve.png') as picture:
        assert picture.size == (960, 360)
    events = EventAccumulator(str(output / 'tensorboard')).Reload()
    logged = {event.step: event.value for event in events.Scalars('epoch/loss')}
    steps = len(TrainingBatches(len(imagenet.load(root, 'train').samples), 16, 0, 1, 0))
    assert logged == {row['epoch'] * steps: pytest.approx(row['loss'], rel=1e-5) for row in rows}

    with pytest.raises(UserError, match='holds a training already'):
        train(TrainingJob(micro(epochs=1), root, output, workers=0))
    with pytest.raises(UserError, match=r'trained with epochs = 2, not 3'):
        train(TrainingJob(micro(epochs=3), root, output, workers=0, resume=True))
    (output / 'last.pth').write_bytes(b'PK broken')
    with pytest.raises(UserError, match=r'last\.pth cannot be resumed'):
        train(TrainingJob(micro(epochs=1), root, output, workers=0, resume=True))


def test_the_best_and_the_last_weights_are_kept_and_measured_at_every_crop(root, tmp_path):
    # Weights that are hardly averaged and learn fast: the last epoch is not the best one.
    recipe = micro(epochs=4, lr=0.02, lr_batch_size=16, ema_decay=0.1, test_crops=(0.5, 0.9))
    rows = train(TrainingJob(recipe, root, tmp_path, workers=0, device='cpu'))
    best = best_epoch(rows)
    assert best < 4
    assert rows[best - 1]['ema_top1'] == max(row['ema_top1'] for row in rows)
    summary = json.loads((tmp_path / 'summary.json').read_text())
    for name, epoch, file in (('last', 4, 'model'), ('best', best, 'best')):
        assert summary[name]['epoch'] == epoch
        assert summary[name]['file'] == f'{file}.safetensors'
        assert summary[name]['top1']['0.5'] == rows[epoch - 1]['ema_top1']
        with safe_open(tmp_path / f'{file}.safetensors', 'pt') as opened:
            assert opened.metadata()['epoch'] == str(epoch)
        # Another harness on the same weights, at the other crop.
        network = timm.create_model('maformer_micro', num_classes=10).eval()
        network.load_state_dict(weights_of(tmp_path, f'{file}.safetensors'))
        config = {**resolve_data_config({}, model=network), 'input_size': (3, 32, 32)}
        transform = timm.data.create_transform(**config | {'crop_pct': 0.9})
        samples = imagenet.load(root, 'val').samples
        images = torch.stack([transform(imagenet.open_image(path)) for path, _ in samples])
        with torch.inference_mode():
            right = network(images).argmax(1) == torch.tensor([label for _, label in samples])
        assert summary[name]['top1']['0.9'] == pytest.approx(100 * right.float().mean().item())
        # This project's evaluation takes size and crop from the file.
        job = Job(
            *('imagenet', 'maformer_micro', tmp_path / f'{file}.safetensors', root),
            **{'workers': 0, 'device': 'cpu'},
        )
        evaluation = evaluate(job).evaluation
        assert evaluation.metrics['top1'] == pytest.approx(rows[epoch - 1]['ema_top1'], abs=1e-9)
        assert evaluation.preprocessing['input_size'] == [3, 32, 32]
        assert evaluation.from_weights == ('crop_pct', 'img_size')
        assert evaluation.overridden == ('img_size',)  # no number of the system itself
    chosen = evaluate(replace(job, preprocessing={'img_size': 64})).evaluation
    assert chosen.preprocessing['input_size'] == [3, 64, 64]
    assert (chosen.from_weights, chosen.overridden) == (('crop_pct',), ('img_size',))
    log = (tmp_path / 'train.log').read_text()
    assert f'averaged weights of the best epoch, {best}: top-1' in log


def test_two_processes_train_as_one_does(root, labels, tmp_path):
    """Without what is drawn in each process by itself: mixing and stochastic depth."""
    recipe = micro(True, mix_prob=0, drop_path=0, epochs=2)
    shared = {'data': root, 'labels': labels, 'device': 'cpu'}
    one = train(TrainingJob(recipe, output=tmp_path / 'one', workers=0, **shared))
    two = in_ranks(2, train, TrainingJob(recipe, output=tmp_path / 'two', workers=0, **shared))
    for a, b in zip(one, two, strict=True):
        assert a['loss'] == pytest.approx(b['loss'], rel=1e-4)
        assert a['lr'] == b['lr']
    assert 'batch 16 = 2 x 8' in (tmp_path / 'two/train.log').read_text()
    with pytest.raises(UserError, match='holds a training already'):
        train(TrainingJob(recipe, output=tmp_path / 'two', workers=0, **shared))


@pytest.mark.parametrize('processes', [1, 2])
def test_accumulated_gradients_are_those_of_the_whole_batch(root, labels, tmp_path, processes):
    recipe = micro(True, mix_prob=0, drop_path=0, epochs=1)
    shared = {'data': root, 'labels': labels, 'device': 'cpu', 'workers': 0}
    (whole,) = train(TrainingJob(recipe, output=tmp_path / 'whole', **shared))
    parts = recipe.changed(accumulation=4)
    (summed,) = in_ranks(processes, train, TrainingJob(parts, output=tmp_path / 'parts', **shared))
    assert summed['loss'] == pytest.approx(whole['loss'], rel=1e-4)
    a, b = (weights_of(tmp_path / name) for name in ('whole', 'parts'))
    # Adam divides by the gradients' size: where they nearly vanish, their last bits count.
    close = [torch.isclose(a[name], b[name], atol=2e-4).float().mean() for name in a]
    assert min(close) > 0.98


def test_gradient_checkpointing_changes_the_memory_and_not_the_result(root, tmp_path):
    recipe = micro(epochs=2, drop_path=0.2)
    shared = {'data': root, 'device': 'cpu', 'workers': 0}
    train(TrainingJob(recipe, output=tmp_path / 'kept', **shared))
    # A training may be resumed with it, when its memory turned out to be too small.
    train(TrainingJob(recipe, output=tmp_path / 'again', until=1, **shared))
    recipe = recipe.changed(grad_checkpointing=True)
    train(TrainingJob(recipe, output=tmp_path / 'again', resume=True, **shared))
    assert same(weights_of(tmp_path / 'kept'), weights_of(tmp_path / 'again'))

    def kept_for_backward(recipe):
        numbers = []
        network = build(recipe.changed(drop_path=0), 10).train()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: numbers.append(tensor.numel()), lambda nothing: None
        ):
            network(torch.rand(2, 3, 32, 32))
        return sum(numbers)

    assert kept_for_backward(recipe) < 0.5 * kept_for_backward(micro())
    with pytest.raises(UserError, match="'convit_tiny' has no gradient checkpointing"):
        build(micro(model='convit_tiny', img_size=224, grad_checkpointing=True), 10)


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=() if name.startswith('maformer_small_t') else pytest.mark.slow)
        for name in RECIPES
        if 'micro' not in name
    ],
)
def test_every_recipe_takes_a_step_at_its_own_size_and_strength(root, labels, tmp_path, name):
    recipe = RECIPES[name].changed(batch_size=2)
    with join('cpu') as group:
        maps = labels if recipe.token_labeling else None
        job = TrainingJob(recipe, root, tmp_path, maps, workers=0, device='cpu')
        training = ClassifierTraining(job, group)
    training.take_step(next(training.batches()))
    assert training.skipped_steps() == (0, 0)
    assert 0 < training.mean_loss() < 30
    for parameter in training.model.parameters():
        assert parameter.grad.isfinite().all()
    for crop in recipe.test_crops:
        assert 0 <= training.top1(training.ema.module, crop, batches=1) <= 100


# ------------------------------------------------------------------------------------------------
# Precision, and steps whose gradients are not finite


def prepared(root, recipe, precision='off'):
    with join('cpu') as group:
        job = TrainingJob(recipe, root, root / 'none', workers=0, amp=precision)
        return ClassifierTraining(job, group)


def state_of(training):
    averaged = {f'ema.{k}': v.clone() for k, v in training.ema.module.state_dict().items()}
    return averaged | {k: v.clone() for k, v in training.model.state_dict().items()}


@pytest.mark.parametrize('precision', ['off', 'bf16', 'fp16'])
def test_a_step_whose_gradients_are_not_finite_is_skipped_and_counted(root, precision):
    training = prepared(root, micro(mix_prob=0), precision)
    batch = next(training.batches())
    bad = {**batch, 'image': torch.full_like(batch['image'], torch.nan)}
    training.take_step(batch)
    good = state_of(training)
    scale = training.scaler.get_scale()
    for _ in range(2):
        training.take_step(bad)
    assert training.skipped_steps() == (2, 2)
    skipped = state_of(training)
    weights = [name for name in good if not name.startswith('ema.')]
    assert all(torch.equal(good[name], skipped[name]) for name in weights)
    assert all(torch.isfinite(tensor).all() for tensor in skipped.values())
    training.take_step(batch)
    assert training.skipped_steps() == (2, 0)
    assert not same(skipped, state_of(training))
    assert training.step == 4
    assert np.isfinite(training.mean_loss())
    # fp16 tries a smaller scale of the loss; the others have none.
    assert (scale, training.scaler.get_scale()) == (
        (65536, 16384) if precision == 'fp16' else (1, 1)
    )


def test_many_skipped_steps_in_a_row_end_the_training_inside_its_epoch(root, tmp_path, monkeypatch):
    def broken(recipe, num_classes):
        network = build(recipe, num_classes)
        network.head.fc.weight.data[0, 0] = torch.nan
        return network

    monkeypatch.setattr(classifier_steps, 'build', broken)
    monkeypatch.setattr(classifier, 'LOG_STEPS', 2)
    monkeypatch.setattr(classifier, 'MOST_SKIPPED_IN_A_ROW', 4)
    job = TrainingJob(micro(batch_size=4), root, tmp_path / 'run', workers=0, device='cpu')
    with pytest.raises(
        UserError, match='gradients of the last 4 steps were not finite, in epoch 1'
    ):
        train(job)
    assert not (tmp_path / 'run/log.csv').exists()


def test_the_weights_do_not_wait_for_the_host(root, monkeypatch):
    """A step reads no number back from the device."""
    training = prepared(root, micro(True, epochs=1).changed(token_labeling=False))
    batch = next(training.batches())
    training.take_step(batch)
    read = []
    for name in ('item', 'tolist', '__bool__', '__float__', '__int__', 'cpu', 'numpy'):
        original = getattr(torch.Tensor, name)

        def recorded(tensor, *arguments, original=original, name=name, **options):
            read.append(name)
            return original(tensor, *arguments, **options)

        monkeypatch.setattr(torch.Tensor, name, recorded)
    training.take_step(batch)
    assert read == []


def test_bf16_is_taken_where_a_gpu_has_it_and_fp16_where_not(monkeypatch):
    assert default_precision(torch.device('cpu')) == 'fp32'
    for supported, expected in ((True, 'bf16'), (False, 'fp16')):
        monkeypatch.setattr(
            torch.cuda, 'is_bf16_supported', lambda including_emulation, s=supported: s
        )
        assert default_precision(torch.device('cuda', 0)) == expected


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_a_training_in_half_precision_goes_on_as_if_uninterrupted(root, tmp_path, precision):
    shared = {'data': root, 'device': 'cpu', 'workers': 0, 'amp': precision}
    recipe = micro(epochs=2)
    train(TrainingJob(recipe, output=tmp_path / 'whole', **shared))
    train(TrainingJob(recipe, output=tmp_path / 'cut', until=1, **shared))
    train(TrainingJob(recipe, output=tmp_path / 'cut', resume=True, **shared))
    assert same(weights_of(tmp_path / 'whole'), weights_of(tmp_path / 'cut'))
    assert f'; {precision}' in (tmp_path / 'cut/train.log').read_text()


# ------------------------------------------------------------------------------------------------
# What is refused


def test_an_error_in_one_of_two_processes_ends_both_with_its_sentence(root, tmp_path):
    broken = tmp_path / 'data'
    shutil.copytree(root, broken)
    path = sorted((broken / 'train').rglob('*.JPEG'))[3]
    path.write_bytes(path.read_bytes()[:300])
    for processes, workers in ((1, 1), (2, 0)):
        job = TrainingJob(micro(epochs=1), broken, tmp_path / 'run', workers=workers, device='cpu')
        with pytest.raises(UserError, match=f'^cannot read the image {path}'):
            in_ranks(processes, train, job)
        shutil.rmtree(tmp_path / 'run')


def test_a_job_that_does_not_fit_is_explained(root, labels, tmp_path, monkeypatch):
    def refused(match, recipe=None, **job):
        with pytest.raises(UserError, match=match):
            train(TrainingJob(recipe or micro(), **{'data': root, 'output': tmp_path / 'x'} | job))
        assert not Path(tmp_path / 'x').exists()

    refused('needs the annotator', micro(True))
    refused('for token labeling only', labels=labels)
    refused('is not a folder', micro(True), labels=tmp_path / 'absent')
    refused(r'there is no label map .*\.pt', micro(True), labels=tmp_path, workers=1)
    refused('do not fill a batch', micro(batch_size=1024))
    refused('cannot be mixed in pairs', micro(batch_size=15))
    refused('in 4 parts: choose a batch_size that 8 divides', micro(batch_size=12, accumulation=4))
    refused(r'no .*last\.pth to resume', resume=True)
    refused("'resnet18' has no auxiliary head", micro(True, model='resnet18'), labels=labels)
    refused("there is no model 'resnet'; the nearest are", micro(model='resnet'))
    refused("'tv_resnet50' under this name any more", micro(model='tv_resnet50'))
    refused("resnet50 has no weights 'nope'; it has a1_in1k", micro(model='resnet50.nope'))
    refused('--workers must be at least 0', workers=-1)
    monkeypatch.setattr(tensorboard, 'find_spec', lambda name: None)
    refused('--tensorboard needs TensorBoard, which is not installed', tensorboard=True)


def test_an_output_folder_that_cannot_be_locked_is_refused(root, tmp_path):
    (tmp_path / 'run' / '.lock').mkdir(parents=True)
    with pytest.raises(UserError, match=r'run/\.lock cannot be locked'):
        train(TrainingJob(micro(), root, tmp_path / 'run', workers=0))


@pytest.fixture(scope='module')
def stopped(root, tmp_path_factory):
    """A training of which one of two epochs is done, and the job that goes on with it."""
    output = tmp_path_factory.mktemp('stopped') / 'run'
    job = TrainingJob(micro(epochs=2), root, output, workers=0, device='cpu')
    train(replace(job, until=1))
    return replace(job, resume=True)


@pytest.mark.parametrize(
    'damage',
    [
        lambda s: s.pop('ema'),
        lambda s: s.pop('epoch'),
        lambda s: s.pop('recipe'),
        lambda s: s['model'].pop('head.fc.bias'),
        lambda s: s['model'].update({'head.fc.bias': torch.zeros(7)}),
        lambda s: s.update(losses=torch.zeros(5)),
        lambda s: s['optimizer'].pop('param_groups'),
        lambda s: [1, 2],
    ],
)
def test_a_damaged_checkpoint_is_not_resumed(stopped, damage):
    path = stopped.output / 'last.pth'
    with restored(path):
        state = torch.load(path, weights_only=True)
        changed = damage(state)
        torch.save(changed if isinstance(changed, list) and len(changed) == 2 else state, path)
        with pytest.raises(UserError, match=r'last\.pth cannot be resumed: '):
            train(stopped)


def test_an_output_folder_belongs_to_one_training(root, tmp_path):
    job = TrainingJob(micro(epochs=1), root, tmp_path / 'run', workers=0, device='cpu')
    (tmp_path / 'run').mkdir()
    with (
        FileLock(tmp_path / 'run/.lock'),
        pytest.raises(UserError, match=r'another process writes into .*run: wait'),
    ):
        train(job)
    train(job)


def test_an_output_folder_that_cannot_be_written_is_refused_before_data_is_read(tmp_path):
    (tmp_path / 'file').touch()
    job = TrainingJob(micro(), tmp_path / 'absent', tmp_path / 'file/run', workers=0)
    with pytest.raises(UserError, match=r'file/run cannot hold results'):
        train(job)


def test_label_maps_of_another_origin_are_refused(root, labels, tmp_path):
    shutil.copytree(labels, tmp_path / 'maps')
    record = json.loads((labels / 'labels.json').read_text())
    assert origin(labels) == {k: v for k, v in record.items() if k != 'complete'}
    shared = {'data': root, 'output': tmp_path / 'run', 'workers': 0, 'device': 'cpu'}
    train(TrainingJob(micro(True, epochs=2), labels=labels, until=1, **shared))
    (tmp_path / 'maps/labels.json').write_text(json.dumps({**record, 'annotator': 'other'}))
    with pytest.raises(UserError, match='was trained with other label maps'):
        train(TrainingJob(micro(True, epochs=2), labels=tmp_path / 'maps', resume=True, **shared))
    path = next((tmp_path / 'maps').rglob('*.pt'))
    torch.save(torch.zeros(2, 5, 4, 4), path)
    fresh = {**shared, 'output': tmp_path / 'other'}
    (tmp_path / 'maps/labels.json').write_text(json.dumps({**record, 'complete': False}))
    with pytest.raises(UserError, match='does not have all label maps, because they were inter'):
        train(TrainingJob(micro(True, epochs=1), labels=tmp_path / 'maps', **fresh))
    (tmp_path / 'maps/labels.json').unlink()
    with pytest.raises(UserError, match=r'is \[2, 5, \d, \d\] and the first label map \[2, 5, \d'):
        train(TrainingJob(micro(True, epochs=1), labels=tmp_path / 'maps', **fresh))


def test_the_command(root, tmp_path):
    small = ['img_size=32', 'epochs=1', 'batch_size=16']
    train_imagenet('maformer_micro', data=root, output=tmp_path / 'run', changes=small, workers=0)
    assert '16 = 1 x 16, learning rate 0.0005: scaled' in (tmp_path / 'run/train.log').read_text()
    with pytest.raises(UserError, match="'epochs' is not NAME=VALUE"):
        train_imagenet('maformer_micro', data=root, output=tmp_path, changes=['epochs'])
