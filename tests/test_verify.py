"""The hash over a whole measurement, and the command that finds what differs."""

import json

import pytest
from conftest import record

from reproduce.evaluate import records
from reproduce.evaluate.attestation import parts
from reproduce.evaluate.harness import evaluate
from reproduce.statistics.image_hits import ImageHits
from reproduce.statistics.kept import read
from reproduce.tasks.job import Job

DEIT = 'deit_small_patch16_224'


@pytest.fixture(scope='module')
def outcome(embedded, sound):
    return evaluate(Job('imagenet', 'maformer_micro', sound, embedded, workers=0))


@pytest.fixture
def kept(outcome, tmp_path):
    return outcome.save(tmp_path)


def states(run, path, *options):
    code, out, err = run('verify', path, '--format', 'json', *options)
    assert err == ''
    found = json.loads(out)
    assert found['exit_code'] == code
    return code, {one['part']: one['state'] for one in found['parts']}


def test_a_record_that_nobody_changed_holds(run, kept, embedded, sound, monkeypatch):
    code, found = states(run, kept, '--data', embedded, '--checkpoint', sound)
    assert code == 0
    assert set(found.values()) == {'holds'}
    assert {'weights', 'data', 'code', 'configuration', 'libraries', 'predictions'} <= set(found)
    monkeypatch.setenv('COLUMNS', '80')
    code, out, _ = run('verify', kept)
    assert code == 0 and max(map(len, out.splitlines()[1:])) <= 80  # below the record's path


def change(path, **values):
    content = json.loads(path.read_text())
    for place, value in values.items():
        *outer, last = place.split('__')
        inner = content
        for key in outer:
            inner = inner[key]
        inner[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ('changes', 'part'),
    [
        ({'metrics__top1': 99.0}, 'metrics'),
        ({'checkpoint__sha256': 'b' * 64}, 'weights'),
        ({'data__fingerprint': 'b' * 16}, 'data'),
        ({'preprocessing__crop_pct': 0.5}, 'configuration'),
        ({'provenance__commit': 'b' * 40}, 'code'),
        ({'provenance__versions__torch': '1.0'}, 'libraries'),
        ({'attestation__parts__code': 'b' * 64}, 'attestation'),
    ],
)
def test_a_record_that_was_changed_names_what(run, kept, changes, part):
    change(kept, **changes)
    code, found = states(run, kept)
    assert code == 1
    assert found[part] == 'differs'
    assert next(name for name, state in found.items() if state == 'differs') == (
        'code' if part == 'attestation' else part
    )


@pytest.mark.parametrize('suffix', ['.csv.gz', '.images.npz'])
def test_a_file_that_was_changed_or_lost_is_named(run, kept, suffix):
    path = kept.with_name(kept.stem + suffix)
    part = 'predictions' if suffix == '.csv.gz' else 'statistics'
    path.write_bytes(path.read_bytes() + b' ')
    assert states(run, kept)[1][part] == 'differs'
    path.unlink()
    code, found = states(run, kept)
    assert (code, found[part]) == (0, 'unchecked')


def test_other_data_weights_and_libraries_are_named_and_are_no_error(run, kept, embedded, tmp_path):
    (tmp_path / 'other.safetensors').write_bytes(b'other')
    for name in ('one', 'two'):
        (tmp_path / 'others/val' / name).mkdir(parents=True)
        some = next(embedded.glob('val/*/*'))
        (tmp_path / 'others/val' / name / '1.jpg').write_bytes(some.read_bytes())
    options = ('--checkpoint', tmp_path / 'other.safetensors', '--data', tmp_path / 'others')
    code, found = states(run, kept, *options)
    assert code == 0
    assert [found[part] for part in ('weights', 'data', 'metrics')] == [
        *('other here', 'other here', 'holds')
    ]


def test_a_record_of_an_earlier_version_loads_and_has_no_attestation(run, tmp_path):
    path = records.save(record(DEIT, 79.9), b'', tmp_path)
    content = json.loads(path.read_text())
    del content['attestation'], content['statistics']
    path.write_text(json.dumps(content))
    assert records.load(path).attestation is None
    code, out, err = run('verify', path)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'evaluate again' in err
    assert run('show', path)[1].split()[-2:] == ['attestation', 'none']


def test_the_attestation_is_of_what_was_measured(outcome, kept):
    stored = records.load(kept)
    assert stored.attestation == outcome.evaluation.attestation
    assert parts(stored).items() <= stored.attestation.parts.items()
    images = read(kept.with_name(stored.statistics))
    assert isinstance(images.statistics, ImageHits)
    assert images.statistics.metrics() == stored.metrics
    assert len(set(images.images)) == stored.data.images
    other = outcome.evaluation.model_copy(update={'precision': 'bf16'})
    assert parts(other)['configuration'] != parts(stored)['configuration']


def test_an_unknown_record_is_one_line(run):
    code, out, err = run('verify', 'nothing')
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'name its file or its stem' in err
