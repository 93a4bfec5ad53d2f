"""The hash over a whole measurement, and the command that finds what differs."""

import json
import shutil

import pytest
from conftest import record, restored

from reproduce.base.files import sha256_of
from reproduce.base.versions import CHECKOUT, sources_sha256
from reproduce.evaluate import records
from reproduce.evaluate.attestation import attest, content_sha256, verify
from reproduce.statistics import ImageHits
from reproduce.statistics.kept import read

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


def test_an_image_of_which_a_byte_was_changed_is_named(run, kept, embedded, tmp_path):
    data = shutil.copytree(embedded, tmp_path / 'data')
    image = sorted(data.glob('val/*/*'))[7]
    flipped(image)
    code, found = checks(run, kept, '--data', data)
    assert (code, found['data'][0]) == (0, 'holds')
    assert found['bytes'] == ('other here', f'1 of 30 files, first {image.name}')


def test_a_record_that_does_not_bind_the_bytes_says_so(run, kept, embedded):
    content = json.loads(kept.read_text())
    del content['data']['sha256']
    kept.write_text(json.dumps(content))
    attest_again(kept)
    code, found = checks(run, kept, '--data', embedded)
    assert (code, found['record'][0], found['data'][0]) == (0, 'holds', 'holds')
    assert found['bytes'][0] == 'unchecked' and 'does not bind' in found['bytes'][1]


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
