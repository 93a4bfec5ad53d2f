"""The hash over a whole measurement, and the command that finds what differs."""

import gzip
import io
import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from conftest import record, restored, weights
from PIL import Image

from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.base.versions import CHECKOUT, sources_sha256
from reproduce.evaluate import records
from reproduce.evaluate.attestation import attest, content_sha256, verify
from reproduce.evaluate.harness import evaluate
from reproduce.evaluate.rerun import rerun
from reproduce.statistics.classification_metrics import ImageHits
from reproduce.statistics.kept import read
from reproduce.tasks import TASKS
from reproduce.tasks.job import Job
from reproduce.weights.registry import MANIFEST

ATTESTED_FILES = ('predictions', 'statistics')
DEIT = 'deit_small_patch16_224'


@pytest.fixture
def kept(sound_outcome, tmp_path):
    return sound_outcome.save(tmp_path)


def checks(run, path, *options):
    """The exit status, and the state and the reason of each part."""
    code, out, err = run('verify', path, '--format', 'json', *options)
    assert err == ''
    found = json.loads(out)
    assert found['exit_code'] == code
    return code, {one['part']: (one['state'], one['reason']) for one in found['parts']}


def change(path, place, value):
    content = json.loads(path.read_text())
    *outer, last = place.split('.')
    inner = content
    for key in outer:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(content))


def attest_again(path):
    """Replace the attestation of a record by one of what the record and its files now are."""
    content = json.loads(path.read_text())
    content.pop('attestation')
    parts = {n: content_sha256(v) for n, v in content.items() if n not in ATTESTED_FILES}
    parts |= {name: sha256_of(path.parent / content[name]) for name in ATTESTED_FILES}
    content['attestation'] = {'sha256': content_sha256(parts), 'parts': parts}
    path.write_text(json.dumps(content))


def test_a_record_that_nobody_changed_holds(run, kept, embedded, sound):
    code, found = checks(run, kept, '--data', embedded, '--checkpoint', sound)
    assert code == 0
    assert {state for state, _ in found.values()} == {'holds'}
    parts = {'attestation', 'record', 'predictions', 'statistics', 'metrics'}
    assert found.keys() == parts | {'weights', 'data', 'bytes', 'code'}


CHANGES = {
    'metrics.top1': 99.0,
    'intervals.top1': [98.0, 99.9],
    'checkpoint.released': 'maformer_base',
    'data.complete': True,
    'preprocessing.crop_pct': 0.5,
    'system': DEIT,
    'provenance.date': '2030-01-01T00:00:00+00:00',
    'per_class': {'dog': {'top1': 99.0}},
}


def test_a_field_that_was_changed_is_named(run, kept):
    """Everything that decides how a number is shown, judged or compared."""
    for place, value in CHANGES.items():
        with restored(kept):
            change(kept, place, value)
            states = {one.part: (one.state, one.reason) for one in verify(kept)}
        assert states['record'] == ('differs', f'changed since: {place.partition(".")[0]}')
    change(kept, 'attestation.parts.data', 'b' * 64)
    code, found = checks(run, kept)
    assert (code, found['attestation'][0], found['record'][0]) == (1, 'differs', 'differs')


def test_a_file_that_was_changed_or_lost_is_named(run, kept):
    for suffix, part in (('.csv.gz', 'predictions'), ('.images.npz', 'statistics')):
        path = kept.with_name(kept.stem + suffix)
        with restored(path):
            path.write_bytes(path.read_bytes() + b' ')
            code, found = checks(run, kept)
            assert (code, found[part][0]) == (1, 'differs')
            path.unlink()
            code, found = checks(run, kept)
            assert (code, found[part][0]) == (0, 'unchecked')


def test_other_data_and_weights_are_named_and_are_not_an_error(run, kept, embedded, tmp_path):
    (tmp_path / 'other.safetensors').write_bytes(b'other')
    for name in ('one', 'two'):
        (tmp_path / 'others/val' / name).mkdir(parents=True)
        some = next(embedded.glob('val/*/*'))
        (tmp_path / 'others/val' / name / '1.jpg').write_bytes(some.read_bytes())
    options = ('--checkpoint', tmp_path / 'other.safetensors', '--data', tmp_path / 'others')
    code, found = checks(run, kept, *options)
    assert code == 0
    states = [found[part][0] for part in ('weights', 'data', 'metrics')]
    assert states == ['other here', 'other here', 'holds']


def flipped(path):
    """Change a bit in the middle of a file, and nothing of its length."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_an_image_of_which_a_byte_was_changed_is_named(run, kept, embedded, sound, tmp_path):
    data = shutil.copytree(embedded, tmp_path / 'data')
    image = sorted(data.glob('val/*/*'))[7]
    flipped(image)
    code, found = checks(run, kept, '--data', data)
    assert (code, found['data'][0]) == (0, 'holds')
    assert found['bytes'] == ('other here', f'1 of 30, first {image.name}')
    options = ('--rerun', 3, '--data', data, '--checkpoint', sound)
    code, _, err = run('verify', kept, *options)
    assert (code, 'bytes given by' in err) == (2, True)


def test_label_maps_and_annotations_are_hashed_with_the_images(both_splits, tmp_path):
    """A file with the same content and other bytes is named, too."""
    for name, pattern, expected in (
        ('ade20k', '**/annotations/validation/*1.png', 'label map of ADE_val_00000001.jpg'),
        ('coco', 'annotations/instances_val2017.json', 'instances_val2017.json'),
    ):
        root = shutil.copytree(both_splits / name, tmp_path / name)
        before = TASKS[name].load_data(root, limit=3)
        hashes = before.hashes(before.names)  # any hash for those that are known
        assert list(hashes)[:3] == list(before.names) == list(hashes.values())[:3]
        path = min(root.glob(pattern))
        path.write_bytes(path.read_bytes() + b'\n')
        after = TASKS[name].load_data(root, limit=3)
        assert after.fingerprint == before.fingerprint
        found = after.hashes(before.names)
        assert [file for file in found if found[file] != hashes[file]] == [expected]


RELEASED = {
    'coco': (
        'mask-rcnn_maformer-micro_fpn_shapes.py',
        'mask_rcnn_maformer_micro_shapes',
        'json.gz',
    ),
    'imagenet': ('maformer_micro', 'maformer_micro_shapes', 'csv.gz'),
    'ade20k': ('fpn_maformer-micro_shapes.py', 'sem_fpn_maformer_micro_shapes', 'zip'),
}


@pytest.fixture(scope='module', params=RELEASED)
def measured(request, both_splits, tmp_path_factory):
    """The record of a released checkpoint on a few images, and the options of its rerun."""
    name, file, _ = RELEASED[request.param]
    weights = MANIFEST.with_name('released') / f'{file}.safetensors'
    data = both_splits / request.param
    arguments = {'token_labeling': True} if request.param == 'imagenet' else {}
    settings = {'arguments': arguments, 'limit': 4, 'workers': 0, 'device': 'cpu'}
    outcome = evaluate(Job(request.param, name, weights, data, **settings))
    options = ('--data', data, '--checkpoint', weights, '--rerun', 9)
    return outcome.save(tmp_path_factory.mktemp('measured')), options


def forged(suffix, content):
    """Predictions in which the first image has others."""
    if suffix == 'json.gz':
        detections = json.loads(gzip.decompress(content))
        for one in detections:
            if one['image_id'] == detections[0]['image_id']:
                one['bbox'][0] += 20
        return gzip.compress(json.dumps(detections).encode())
    if suffix == 'zip':
        changed = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, 'w') as new:
            first, *others = old.namelist()
            maps = {name: old.read(name) for name in others}
            with Image.open(io.BytesIO(old.read(first))) as image:
                image.point(lambda label: 1).save(changed_map := io.BytesIO(), 'PNG')
            for name, png in {first: changed_map.getvalue(), **maps}.items():
                new.writestr(name, png)
        return changed.getvalue()
    head, first, *rest = gzip.decompress(content).decode().splitlines()
    file, label, one, two, *others = first.split(',')
    changed = [head, ','.join([file, label, two, one, *others]), *rest]
    return gzip.compress('\n'.join(changed).encode())


def test_a_forged_prediction_is_found_when_it_is_predicted_again(run, measured, tmp_path):
    """Also if metrics, counts and attestation are computed again from it."""
    path, options = measured
    code, found = checks(run, path, *options)
    assert (code, {state for state, _ in found.values()}) == (0, {'holds'})
    assert found['rerun'][1].startswith('4 of 4 images, seed ')
    assert found['rerun'][1].endswith('with 1 - (1 - p)^4, 3.9% for p = 1 %')
    shutil.copytree(path.parent, tmp_path / 'forged')
    path = tmp_path / 'forged' / path.name
    record = records.load(path)
    predictions, statistics = (path.with_name(getattr(record, name)) for name in ATTESTED_FILES)
    predictions.write_bytes(forged(RELEASED[record.task][2], predictions.read_bytes()))
    task = TASKS[record.task]
    data = task.load_part(options[1], record.data.images)
    scores, kept = task.score_file(predictions, data), read(statistics)
    assert scores.metrics != record.metrics
    statistics.write_bytes(replace(kept, statistics=scores.statistics).to_bytes())
    change(path, 'metrics', scores.metrics)
    attest_again(path)
    assert checks(run, path)[0] == 0
    code, found = checks(run, path, *options)
    assert (code, found['metrics'][0], found['rerun'][0]) == (1, 'holds', 'differs')
    assert found['rerun'][1].startswith('1 of 4 images, seed ')
    assert found['rerun'][1].endswith(f'first {data.names[0]}')


def test_metrics_that_the_predictions_do_not_have_are_found(run, kept, embedded, sound):
    record = records.load(kept)
    path = kept.with_name(record.statistics)
    images = read(path)
    none = ImageHits(images.statistics.labels, np.zeros_like(images.statistics.hits))
    path.write_bytes(replace(images, statistics=none).to_bytes())
    change(kept, 'metrics', none.metrics())
    attest_again(kept)
    options = ('--data', embedded, '--checkpoint', sound)
    assert checks(run, kept, *options)[0] == 0
    code, found = checks(run, kept, *options, '--rerun', 1, '--seed', 3)
    assert code == 1
    assert found['rerun'][0] == 'differs' and found['rerun'][1].startswith('top1 0.0, counted ')


def test_what_cannot_be_predicted_again_is_refused(kept, embedded, sound):
    change(kept, 'precision', 'bf16')
    with pytest.raises(UserError, match='--rerun takes records in fp32'):
        rerun(kept, sound, embedded, 1, 0)


def test_other_weights_are_not_predicted_with(run, kept, embedded, sound, tmp_path):
    other = weights(tmp_path / 'other.safetensors')
    for options, reason in (
        (('--data', embedded, '--checkpoint', other), 'the weights and the data of the record'),
        (('--data', embedded), 'the weights and the data of the record'),
    ):
        code, out, err = run('verify', kept, '--rerun', 3, *options)
        assert (code, out, err.count('\n')) == (2, '', 1)
        assert reason in err


def test_a_record_without_an_attestation_loads(run, tmp_path):
    path = records.save(record(DEIT, 79.9), b'', tmp_path)
    content = json.loads(path.read_text())
    del content['attestation'], content['statistics'], content['provenance']['sources']
    path.write_text(json.dumps(content))
    assert records.load(path).attestation is None
    code, out, err = run('verify', path)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'evaluate again' in err


def test_the_attestation_is_of_what_was_measured(sound_outcome, kept):
    stored = records.load(kept)
    assert stored.attestation == sound_outcome.evaluation.attestation
    assert stored.provenance.sources == sources_sha256()
    images = read(kept.with_name(stored.statistics))
    assert isinstance(images.statistics, ImageHits)
    assert images.statistics.metrics() == stored.metrics
    assert len(set(images.images)) == stored.data.images
    other = sound_outcome.evaluation.model_copy(update={'precision': 'bf16'})
    attested = attest(other, sound_outcome.predictions, sound_outcome.statistics)
    differ = {k for k, v in attested.parts.items() if stored.attestation.parts[k] != v}
    assert differ == {'precision'}


def test_the_hash_of_the_sources_has_every_module_and_needs_no_git(tmp_path):
    """Also modules that Git does not track."""
    (tmp_path / 'model').mkdir()
    seen = set()
    for name, content in (('one', 'a = 1\n'), ('one', 'a = 2\n'), ('untracked', '')):
        (tmp_path / f'model/{name}.py').write_text(content)
        sources_sha256.cache_clear()
        seen.add(sources_sha256(checkout=tmp_path))
    sources_sha256.cache_clear()
    assert len(seen) == 3 and sources_sha256(checkout=CHECKOUT) not in seen


def test_what_was_changed_is_not_published(run, kept, sound, tmp_path):
    """By no command that makes a reference, a row or a folder of it; `show` says so."""
    folder, files = ('--evaluations', kept.parent), ('--output', 'made', '--checkpoint', sound)
    publish = [
        ('export', kept, *files, '--licence', 'MIT'),
        ('accept', kept, '--reason', 'again', *folder),
        ('tables', 4, '--add', kept, '--results', CHECKOUT / 'results'),
    ]
    whole = kept.read_bytes()
    for change_it in (
        lambda: change(kept, 'metrics.top1', 99.0),
        lambda: kept.with_name(f'{kept.stem}.csv.gz').write_bytes(b'damaged'),
    ):
        change_it()
        for arguments in publish:
            code, out, err = run(*arguments)
            assert (code, out, err.count('\n')) == (2, '', 1)
            assert 'does not match its attestation: ' in err
        assert 'does not match its attestation: ' in run('show', kept)[1]
        kept.write_bytes(whole)
    assert not (tmp_path / 'made').exists()


def test_a_record_without_an_attestation_is_not_exported(run, kept, sound):
    assert 'does not match' not in run('show', kept)[1]
    change(kept, 'attestation', None)
    code, _, err = run('export', kept, '--output', 'made', '--checkpoint', sound)
    assert (code, 'has no attestation' in err) == (2, True)
    assert 'has no attestation' in run('show', kept)[1]
