"""Evaluation for real: small networks, drawn images, files that are wrong in every known way."""

import gzip
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from ranks import in_ranks
from safetensors.torch import save_file

from datasets.imagenet import load
from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.evaluate import harness, records, unfinished
from reproduce.evaluate.harness import evaluate
from reproduce.tasks.classification import preprocessing, resolve
from reproduce.tasks.classification_scores import Predictions, matched, order_warnings, read
from reproduce.tasks.job import Job

CLASSES = 3


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """17 images of three classes: a length that neither 2 nor 3 divides."""
    root = tmp_path_factory.mktemp('imagenet')
    rng = np.random.default_rng(0)
    for i in range(17):
        folder = root / 'val' / f'n0000000{i % CLASSES}'
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (40, 52, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'{i:02d}.JPEG')
    return root


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'maformer_micro.safetensors'
    save_file(timm.create_model('maformer_micro', num_classes=CLASSES).state_dict(), path)
    return path


def job(data, weights, **kwargs):
    options = {'batch_size': 4, 'workers': 0, 'preprocessing': {'img_size': 32}, 'device': 'cpu'}
    return Job('imagenet', 'maformer_micro', weights, data, **options | kwargs)


def evaluate_command(data, weights, *more):
    return (
        *('evaluate', 'imagenet', 'maformer_micro', '--checkpoint', weights, '--data', data),
        *('--img-size', 32, '--batch-size', 4, '--workers', 0),
        *('--device', 'cpu', *more),
    )


@pytest.fixture(scope='module')
def alone(data, weights):
    return evaluate(job(data, weights))


@pytest.fixture
def predictions(tmp_path):
    """What an outcome has predicted, as it is kept."""

    def predictions(outcome):
        path = tmp_path / f'outcome{outcome.evaluation.predictions}'
        path.write_bytes(outcome.predictions)
        return read(path)

    return predictions


def test_the_classes_are_those_of_the_bare_model(data, weights, alone, predictions):
    model = timm.create_model('maformer_micro', num_classes=CLASSES, checkpoint_path=weights).eval()
    config = timm.data.resolve_model_data_config(model, {'img_size': 32})
    transform = timm.data.create_transform(**config)
    samples = load(data).samples
    with torch.inference_mode():
        scores = torch.cat(
            [model(transform(Image.open(path))[None]).softmax(-1) for path, _ in samples]
        )
    best = scores.topk(CLASSES)
    predicted = predictions(alone)
    assert np.array_equal(predicted.classes, best.indices)
    np.testing.assert_allclose(predicted.scores, best.values, atol=1e-5)
    labels = torch.tensor([label for _, label in samples])
    expected = (best.indices[:, 0] == labels).double().mean().item() * 100
    metrics = {name: alone.evaluation.metrics[name] for name in ('top1', 'top5')}
    assert metrics == {'top1': pytest.approx(expected, abs=1e-12), 'top5': 100.0}
    assert alone.evaluation.data.images == 17
    assert not alone.evaluation.data.complete
    assert alone.evaluation.checkpoint.sha256 == sha256_of(weights)


def test_timms_weights_come_from_the_hub_with_their_preprocessing(run, data, monkeypatch):
    """The Hub is out of reach, and its client has kept one of two repositories."""
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:1')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(Path('hub').absolute()))
    code, out, err = run('evaluate', 'imagenet', 'resnet18', '--pretrained', '--data', data)
    assert (code, out, err.count('\n')) == (2, '', 1)
    repository = f'{constants.ENDPOINT}/timm/resnet18.a1_in1k'
    assert err.startswith(f'error: {repository} cannot be downloaded: Connection refused.')

    kept = Path('hub/models--timm--test_resnet.r160_in1k')
    (kept / 'refs').mkdir(parents=True)
    (kept / 'refs' / 'main').write_text('0' * 40)
    folder = kept / 'snapshots' / ('0' * 40)
    model = timm.create_model('test_resnet', num_classes=CLASSES)
    stated = {'crop_pct': 0.5, 'interpolation': 'bilinear'}
    for weights, is_safe, file in (
        (['--pretrained'], False, 'pytorch_model.bin'),
        (['--checkpoint', 'hf-hub:timm/test_resnet.r160_in1k'], 'both', 'model.safetensors'),
    ):
        timm.models.save_for_hf(model, folder, data_config=stated, safe_serialization=is_safe)
        loaded = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
        prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(loaded))
        with torch.inference_mode():
            images = torch.stack([prepare(Image.open(path)) for path, _ in load(data).samples])
            expected = loaded(images).softmax(-1).topk(CLASSES)
        options = (*weights, '--data', data, '--workers', 0, '--format', 'json')
        found = json.loads(run('evaluate', 'imagenet', 'test_resnet', *options)[1])
        predicted = read(Path(found['predictions']))
        assert np.array_equal(predicted.classes, expected.indices)
        np.testing.assert_allclose(predicted.scores, expected.values, atol=1e-5)
        sha256 = sha256_of(folder / file)
        assert found['checkpoint'] == {'file': file, 'sha256': sha256, 'released': ''}
        assert found['preprocessing']['crop_pct'] == 0.5 and 'crop_pct' in found['from_weights']
    (folder / 'config.json').unlink()  # timm's own download has only the weights
    code, _, err = run('evaluate', 'imagenet', 'test_resnet', *options)
    assert (code, 'has no model.safetensors and config.json' in err) == (2, True)


@pytest.mark.parametrize('processes', [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_processes_predicts_the_same(data, weights, alone, processes):
    together = in_ranks(processes, evaluate, job(data, weights))
    assert together.predictions == alone.predictions
    assert together.evaluation.metrics == alone.evaluation.metrics
    assert together.evaluation.intervals == alone.evaluation.intervals
    assert together.evaluation.key == alone.evaluation.key
    assert together.evaluation.data == alone.evaluation.data
    assert together.evaluation.provenance.processes == processes


def killed(job, folder):
    """Evaluate, and kill this rank when predictions of two batches are kept."""
    unfinished.SECONDS, kept = 0, unfinished.Unfinished.add

    def keep_and_die(self, found):
        kept(self, found)
        if len(list(self.folder.glob('*.pickle'))) >= 2:
            os.kill(os.getpid(), signal.SIGKILL)

    unfinished.Unfinished.add = keep_and_die
    evaluate(job, folder)


def test_a_killed_evaluation_is_resumed_on_another_number_of_processes(
    run, data, weights, alone, tmp_path
):
    with pytest.raises(UserError, match='ended by SIGKILL'):
        in_ranks(2, killed, job(data, weights), tmp_path)
    code, _, err = run(
        *evaluate_command(data, weights, '--resume', '--output', tmp_path, '--limit', 9)
    )
    assert (code, err.count('\n')) == (0, 1)
    assert re.match(
        r'note: of this evaluation nothing is kept; that in .* has another limit, ', err
    )
    resumed = evaluate(job(data, weights), tmp_path, resume=True)
    assert 8 <= resumed.evaluation.provenance.resumed < 17
    of_resumed, of_alone = (one.evaluation.attestation.parts for one in (resumed, alone))
    assert {k for k in of_alone if of_resumed[k] != of_alone[k]} == {'provenance'}
    resumed.save(tmp_path)
    assert not list(tmp_path.glob('.*.unfinished'))


def test_an_image_that_is_predicted_twice_or_not_at_all_is_found(data, weights, monkeypatch):
    everything = harness._batches

    def some(*arguments):
        first, *rest = everything(*arguments)
        return [first, first, *rest[1:]]

    monkeypatch.setattr(harness, '_batches', some)
    with pytest.raises(RuntimeError, match='not predicted exactly once'):
        evaluate(job(data, weights))


def test_an_unreadable_image_stops_the_run_and_is_named(run, data, weights, tmp_path):
    shutil.copytree(data, tmp_path / 'cut')
    bad = sorted(tmp_path.glob('cut/val/*/*'))[-1]
    bad.write_bytes(bad.read_bytes()[:600])
    code, out, err = run(*evaluate_command(tmp_path / 'cut', weights))
    assert (code, out) == (2, '')
    assert err.startswith(f'error: cannot read the image {bad}: ')
    assert err.count('\n') == 1
    assert not list(Path('results').rglob('*.*'))


def test_a_record_is_written_and_scored_again(run, data, weights, alone):
    code, out, _ = run(*evaluate_command(data, weights, '--format', 'json', '--output', 'kept'))
    assert code == 0
    result = json.loads(out)
    assert result['metrics'] == alone.evaluation.metrics
    assert result['overridden'] == ['img_size']
    options = ('--data', data, '--format', 'json')
    again = json.loads(run('score', 'imagenet', result['predictions'], *options)[1])
    assert again['metrics'] == result['metrics']
    assert again['intervals'] == result['intervals']


def test_options_in_a_file_are_those_of_the_command_line(run, data, weights, alone):
    run(*evaluate_command(data, weights, '--format', 'json', '--output', 'first'))
    (record,) = Path('first').glob('*.json')
    repeated = ('evaluate', 'imagenet', '--config', record.with_suffix('.toml'))
    assert json.loads(run(*repeated)[1])['metrics'] == alone.evaluation.metrics
    assert json.loads(run(*repeated, '--limit', 9)[1])['data']['images'] == 9
    Path('wrong.toml').write_text('btach_size = 4')
    code, out, err = run('evaluate', 'coco', '--config', 'wrong.toml')
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert "wrong.toml: 'btach_size' is not one of checkpoint, data, " in err


def test_predictions_must_fit_the_images(data, alone, predictions, tmp_path):
    p = predictions(alone)
    last, path = p.files[16], tmp_path / 'predictions.csv.gz'
    files, every = (*p.files, 'other.JPEG'), list(range(17))
    for chosen, message in (
        (every[:-1], f'{last} is not predicted'),
        ([*every, 3], f'{p.files[3]} is predicted more than once'),
        ([*every, 17], 'other.JPEG is predicted but not there'),
        ([], f'{p.files[0]} and 16 more are not predicted'),
        (every[::-1], None),  # the order of the file does not matter
    ):
        rows = [min(i, 16) for i in chosen]
        names = tuple(files[i] for i in chosen)
        some = Predictions(names, p.labels[rows], p.classes[rows], p.scores[rows])
        path.write_bytes(some.to_csv())
        if message is None:
            assert np.array_equal(matched(read(path), load(data), path).classes, p.classes)
        else:
            with pytest.raises(UserError, match=message):
                matched(read(path), load(data), path)


@pytest.fixture
def rows(data, tmp_path):
    """Write the predictions of the 17 images with other classes and scores, and return the file."""
    samples = load(data).samples

    def rows(classes, scores):
        path = tmp_path / 'rows.csv'
        columns = range(1, len(classes[0]) + 1)
        head = ['file', 'label', *(f'{n}{i}' for n in ('class', 'score') for i in columns)]
        lines = [
            ','.join(map(str, [file.name, label, *of_image, *scores]))
            for (file, label), of_image in zip(samples, classes, strict=True)
        ]
        path.write_text('\n'.join([','.join(head), *lines]))
        return path

    return rows, np.array([label for _, label in samples])


@pytest.mark.parametrize(
    ('change', 'scores', 'message'),
    [
        (lambda c: c + 1, [0.6, 0.4], r'have the class 3 for .* classes, 0 to 2'),
        (lambda c: c * 0, [0.6, 0.4], r'are damaged at \d+\.JPEG'),
        (lambda c: c, [0.4, 0.6], r'are damaged at \d+\.JPEG'),
        (lambda c: c, [0.6, ''], 'cannot be read'),
    ],
)
def test_classes_that_are_none_are_refused(run, data, rows, change, scores, message):
    write, labels = rows
    found = {}
    for score in (0.5, 7.5):
        path = write(labels[:, None], [score])
        code, out, _ = run('score', 'imagenet', path, '--data', data, '--format', 'json')
        found[score] = json.loads(out)
    # There is no Top-5 of one class, and no calibration error of what are no probabilities.
    assert found[0.5]['metrics'] == {'top1': 100.0, 'ece': pytest.approx(50, abs=1e-9)}
    assert (found[7.5]['metrics'], code) == ({'top1': 100.0}, 0)
    assert 'no probabilities' in found[7.5]['warnings'][0]
    classes = np.stack([labels, (labels + 1) % CLASSES], 1).astype(object)
    code, out, err = run('score', 'imagenet', write(change(classes), scores), '--data', data)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert re.search(message, err)


def test_confused_classes_are_counted(run, data, rows):
    write, labels = rows
    path = write(np.where(labels == 0, 2, labels)[:, None], [0.5])
    out = run('score', 'imagenet', path, '--data', data)[1]
    first, _, third = load(data).classes
    assert f'{first} {third} {(labels == 0).sum()}' in ' '.join(out.split())
    assert f'{first} 0.00' in ' '.join(out.split()) and f'{third} 100.00' in ' '.join(out.split())


def test_classes_numbered_otherwise_are_a_warning():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 4)

    def warned(predicted):
        return order_warnings(predicted, labels)

    def with_errors(predicted, share):
        return np.where(rng.random(400) < share, rng.integers(0, 100, 400), predicted)

    for share in (0.1, 0.5, 0.8, 0.97, 1):
        assert warned(with_errors(labels, share)) == ()
    assert warned(np.zeros(400, int)) == ()
    assert 'numbered in another order' in warned((labels + 1) % 100)[0]
    other = rng.permutation(100)
    for share in (0, 0.3):
        assert 'numbered in another order' in warned(with_errors(other[labels], share))[0]


def test_files_that_are_no_predictions(tmp_path):
    path = tmp_path / 'x.csv'
    damaged = gzip.compress(b'file,label')[:-9] + b'x' * 9
    for content in (damaged, b'file,label,class1,score1\na,1,two,0.5\n'):
        path.write_bytes(content)
        with pytest.raises(UserError, match='cannot be read'):
            read(path)


def test_a_model_is_a_system_where_it_is_one(cite):
    cite('dsnet_small')
    assert resolve('maformer_small', {'token_labeling': True})[0] == 'maformer_small_token_labeling'
    assert resolve('maformer_small', {'grid_size': 7})[0] is None
    assert resolve('resnet18.a1_in1k', {})[0] is None
    for name, message in (
        ('dsnet_small', 'only cited'),
        ('swin_tny', "there is no model 'swin_tny'"),
        ('resnet50.nope', "resnet50 has no weights 'nope'; it has a1_in1k, "),
    ):
        with pytest.raises(UserError, match=message):
            resolve(name, {})


def test_preprocessing_is_that_of_timms_own_validation():
    config = timm.get_pretrained_cfg('resnet50.a1_in1k')
    assert (config.test_input_size, config.test_crop_pct) == ((3, 288, 288), 1.0)
    own = preprocessing('resnet50.a1_in1k', {}, {})
    assert (own['input_size'], own['crop_pct']) == ([3, 288, 288], 1.0)
    training = preprocessing('resnet50.a1_in1k', {}, {'use_train_size': True})
    assert (training['input_size'], training['crop_pct']) == ([3, 224, 224], 0.95)
    chosen = preprocessing('resnet50.a1_in1k', {}, {'img_size': 256, 'crop_mode': 'squash'})
    assert chosen == {**own, 'input_size': [3, 256, 256], 'crop_mode': 'squash'}
    # Beyond 1, timm pads with black in all modes but border.
    border = {'crop_mode': 'border', 'crop_pct': 1.5}
    assert preprocessing('resnet50.a1_in1k', {}, border)['crop_pct'] == 1.5
    with pytest.raises(UserError, match=r'crop_pct 1\.1 .*more than 0 and at most 1\.'):
        preprocessing('resnet50.a1_in1k', {}, {'crop_mode': 'center', 'crop_pct': 1.1})


def test_a_diverged_model_is_an_error(data, tmp_path):
    state = timm.create_model('maformer_micro', num_classes=CLASSES).state_dict()
    for name, factor, message in (
        ('head.fc.bias', float('nan'), r'NaN or an infinity in head\.fc\.bias'),
        ('head.fc.weight', 1e38, r'NaN or infinity for \d+\.JPEG: its weights'),
    ):
        changed = {**state, name: state[name] * factor}
        changed['norm.weight'] = state['norm.weight'] * 1e30
        save_file(changed, tmp_path / 'x.safetensors')
        with pytest.raises(UserError, match=message):
            evaluate(job(data, tmp_path / 'x.safetensors'))


def test_a_model_of_another_input_size(data, tmp_path):
    model = timm.create_model('deit_tiny_patch16_224', num_classes=CLASSES)
    save_file(model.state_dict(), tmp_path / 'deit_tiny_patch16_224.safetensors')
    with pytest.raises(UserError, match=r'does not take images of 100 x 100 pixels.* img_size=100'):
        size = {'img_size': 100}
        evaluate(Job('imagenet', 'deit_tiny_patch16_224', tmp_path, data, preprocessing=size))


def test_what_was_measured_is_printed_where_the_disk_is_full(
    run, data, weights, alone, monkeypatch
):
    """The disk fills after the evaluation has begun."""

    def full(path, content):
        raise UserError(f'{path} cannot be written: No space left on device.')

    monkeypatch.setattr(records, 'write_atomically', full)
    code, _, err = run(*evaluate_command(data, weights))
    assert code == 2
    top1 = alone.evaluation.metrics['top1']
    assert f'No space left on device. Measured of maformer_micro: top1 {top1} %' in err
