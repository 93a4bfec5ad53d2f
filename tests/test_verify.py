"""The hash over a whole measurement, and the command that finds what differs."""

import json

import pytest
from conftest import record

from reproduce.base.versions import CHECKOUT, sources_sha256
from reproduce.evaluate import records
from reproduce.evaluate.attestation import attest
from reproduce.evaluate.harness import Job, evaluate
from reproduce.statistics.image_hits import ImageHits
from reproduce.statistics.kept import read

DEIT = 'deit_small_patch16_224'

# What an earlier version attested of `record(DEIT, 79.9)`, b'predictions' and b'statistics'.
OLD = {
    'sha256': '6bd1172c89797997939c299e5c1349ad0ab94ecbd83f16046df4426b849199ef',
    'parts': {
        'weights': 'a' * 64,
        'data': '9f8d3d877318625df44810632eeab1a2f774c65b56183f01e9f5f62d76cee6d4',
        'code': '12ae32cb1ec02d01eda3581b127c1fee3b0dc53572ed6baf239721a03d82e126',
        'configuration': '7a0efa7d903638b2bad48ab41c7bc85cc1e0a4109a6d4f06af1f3ab4a3f1d4d5',
        'libraries': '44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a',
        'metrics': '3dbbc246ea90207661f5f8f32188b6d782d73279a47bf0babd107fabd28148ff',
        'predictions': '174824b02c8aa83d8316308abc2373adfc42a3c656c6c74525615f6bc706f296',
        'statistics': '49d4843163a72a458423d1f1b5dd9ee20224d350c1f30e3882783feae8ba2e8b',
    },
}


@pytest.fixture(scope='module')
def outcome(embedded, sound):
    return evaluate(Job('imagenet', 'maformer_micro', sound, embedded, workers=0))


@pytest.fixture
def kept(outcome, tmp_path):
    return outcome.save(tmp_path)


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


def test_a_record_that_nobody_changed_holds(run, kept, embedded, sound, monkeypatch):
    code, found = checks(run, kept, '--data', embedded, '--checkpoint', sound)
    assert code == 0
    assert {state for state, _ in found.values()} == {'holds'}
    parts = {'attestation', 'record', 'predictions', 'statistics', 'metrics'}
    assert found.keys() == parts | {'weights', 'data', 'code', 'libraries'}
    monkeypatch.setenv('COLUMNS', '80')
    code, out, _ = run('verify', kept)
    assert code == 0 and max(map(len, out.splitlines()[1:])) <= 80  # below the record's path


@pytest.mark.parametrize(
    ('place', 'value'),
    [
        ('metrics.top1', 99.0),
        ('intervals.top1', [98.0, 99.9]),
        ('checkpoint.sha256', 'b' * 64),
        ('checkpoint.file', 'other.pth'),
        ('checkpoint.released', 'maformer_base'),
        ('data.fingerprint', 'b' * 16),
        ('data.complete', True),
        ('data.problems', []),
        ('data.classes', 1000),
        ('preprocessing.crop_pct', 0.5),
        ('overridden', ['crop_pct']),
        ('warnings', ['none']),
        ('system', DEIT),
        ('provenance.sources', 'b' * 16),
        ('provenance.date', '2030-01-01T00:00:00+00:00'),
        ('provenance.versions.torch', '1.0'),
        ('per_class', {'dog': {'top1': 99.0}}),
    ],
)
def test_a_field_that_was_changed_is_named(run, kept, place, value):
    """Everything that decides how a number is shown, judged or compared."""
    change(kept, place, value)
    code, found = checks(run, kept)
    assert code == 1
    assert found['record'] == ('differs', f'changed since: {place.partition(".")[0]}')


def test_a_changed_attestation_is_named(run, kept):
    change(kept, 'attestation.parts.data', 'b' * 64)
    code, found = checks(run, kept)
    assert (code, found['attestation'][0], found['record'][0]) == (1, 'differs', 'differs')


@pytest.mark.parametrize('suffix', ['.csv.gz', '.images.npz'])
def test_a_file_that_was_changed_or_lost_is_named(run, kept, suffix):
    path = kept.with_name(kept.stem + suffix)
    part = 'predictions' if suffix == '.csv.gz' else 'statistics'
    path.write_bytes(path.read_bytes() + b' ')
    assert checks(run, kept)[1][part][0] == 'differs'
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


def test_a_record_without_an_attestation_loads(run, tmp_path):
    path = records.save(record(DEIT, 79.9), b'', tmp_path)
    content = json.loads(path.read_text())
    del content['attestation'], content['statistics'], content['provenance']['sources']
    path.write_text(json.dumps(content))
    assert records.load(path).attestation is None
    code, out, err = run('verify', path)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'evaluate again' in err
    assert run('show', path)[1].split()[-2:] == ['attestation', 'none']


def test_an_attestation_of_an_earlier_version_says_what_it_binds(run, tmp_path):
    path = records.save(record(DEIT, 79.9, attestation=OLD), b'predictions', tmp_path)
    content = json.loads(path.read_text())
    del content['provenance']['sources']
    path.write_text(json.dumps(content))
    code, found = checks(run, path)
    assert (code, found['attestation'][0], found['predictions'][0]) == (0, 'holds', 'holds')
    assert found['record'][0] == 'holds'
    assert (
        'attested only weights, data, code, configuration, libraries, metrics'
        in (found['record'][1])
    )
    assert found['code'] == ('unchecked', 'not recorded')
    change(path, 'data.complete', False)  # not bound then
    assert checks(run, path)[0] == 0
    change(path, 'metrics.top1', 99.0)
    code, found = checks(run, path)
    assert (code, found['record']) == (1, ('differs', 'changed since: metrics'))


def test_the_attestation_is_of_what_was_measured(outcome, kept):
    stored = records.load(kept)
    assert stored.attestation == outcome.evaluation.attestation
    assert stored.provenance.sources == sources_sha256()
    images = read(kept.with_name(stored.statistics))
    assert isinstance(images.statistics, ImageHits)
    assert images.statistics.metrics() == stored.metrics
    assert len(set(images.images)) == stored.data.images
    other = outcome.evaluation.model_copy(update={'precision': 'bf16'})
    attested = attest(other, outcome.predictions, outcome.statistics)
    differ = {k for k, v in attested.parts.items() if stored.attestation.parts[k] != v}
    assert differ == {'precision'}


def test_the_hash_of_the_sources_has_every_module_and_needs_no_git(tmp_path):
    """Two different edits of a file that is already changed, and files that Git does not track."""
    (tmp_path / 'model').mkdir()
    seen = set()
    for content in ('a = 1\n', 'a = 2\n'):
        (tmp_path / 'model' / 'one.py').write_text(content)
        sources_sha256.cache_clear()
        seen.add(sources_sha256(checkout=tmp_path))
    (tmp_path / 'model' / 'untracked.py').touch()
    sources_sha256.cache_clear()
    seen.add(sources_sha256(checkout=tmp_path))
    sources_sha256.cache_clear()
    assert len(seen) == 3 and sources_sha256(checkout=CHECKOUT) not in seen


def test_an_unknown_record_is_one_line(run):
    code, out, err = run('verify', 'nothing')
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'name its file or its stem' in err
