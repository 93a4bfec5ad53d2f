"""References taken from measurements: what is written, what is refused, and what the gate makes."""

import json
import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import record, weights, write_manifest
from safetensors.torch import load_file, save_file

from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.evaluate import records
from reproduce.evaluate.harness import evaluate
from reproduce.judge.references import compare_counts
from reproduce.statistics import kept
from reproduce.statistics.image_hits import ImageHits
from reproduce.tasks.classification import preprocessing
from reproduce.tasks.job import Job
from reproduce.weights.registry import Reference, load_manifest

DEIT = 'deit_small_patch16_224'
WHY = ('--reason', 'the head was trained again')


def test_the_gate_fails_and_passes_again(run, embedded, sound, tmp_path):
    state = load_file(sound)
    save_file(state, tmp_path / 'modest.safetensors')
    torch.manual_seed(0)
    state['head.fc.weight'] += 0.5 * torch.randn(state['head.fc.weight'].shape)
    save_file(state, tmp_path / 'perturbed.safetensors')
    outcome = evaluate(Job('imagenet', 'maformer_micro', sound, embedded, workers=0))
    top1 = outcome.evaluation.metrics['top1']
    manifest = write_manifest(tmp_path, outcome, modest=top1 - 10, perturbed=top1)
    manifest.write_text('# ours\n' + manifest.read_text().replace('= "me"', '= "me"  # long ago'))

    def gate():
        options = ('--data', embedded, '--workers', 0, '--output', 'kept', '--format', 'json')
        code, out, _ = run('regress', '--manifest', manifest, *options)
        checks = {c['name']: c for c in json.loads(out)['checks']}
        return code, checks['modest']['verdict'], checks['perturbed']

    code, modest, perturbed = gate()
    assert (code, modest, perturbed['verdict']) == (1, 'better', 'worse')
    sha256 = sha256_of(tmp_path / 'perturbed.safetensors')
    (measured,) = (e for e in records.load_all(Path('kept')) if e.checkpoint.sha256 == sha256)
    accept = ('accept', f'kept/{measured.stem}.json', '--manifest', manifest)

    before = manifest.read_bytes()
    code, _, err = run(*accept, '--reason', ' ')
    assert (code, 'give --reason' in err) == (2, True)
    assert manifest.read_bytes() == before
    code, out, err = run(*accept, *WHY)
    assert (code, err) == (0, '')
    old, new = top1, measured.metrics['top1']
    assert f'top1  {old:.2f} -> {new:.2f}  ({new - old:+.2f})' in out
    entry = next(e for e in load_manifest(manifest) if e.name == 'perturbed')
    assert [r.metrics for r in entry.reference] == [{'top1': new}]
    for text in (
        WHY[1],
        measured.stem,
        measured.provenance.command,
        measured.provenance.versions['torch'],
    ):
        assert text in entry.reference[0].source
    lines = before.decode().splitlines()
    changed = [
        (a, b) for a, b in zip(lines, manifest.read_text().splitlines(), strict=True) if a != b
    ]
    assert [a.split(' = ')[0] for a, _ in changed] == ['metrics', 'source']
    assert changed[1][1].endswith('# long ago')

    code, modest, perturbed = gate()
    assert (code, modest, perturbed['verdict']) == (0, 'better', 'match')


@pytest.fixture
def listed(tmp_path):
    """A manifest with DeiT-S in it, and a sound record of the same weights."""
    path = tmp_path / 'manifest.toml'
    path.write_text(f"""
[[checkpoint]]
name = "deit"
model = "{DEIT}"
url = "https://example.org/deit.pth"
sha256 = "{'a' * 64}"
licence = "Apache-2.0"
reference = [{{ images = 50000, metrics = {{ top1 = 79.8 }}, source = "me" }}]
""")
    return path, record(DEIT, 79.7, preprocessing=preprocessing(DEIT, {}, {}))


def accepted(run, manifest, evaluation, *options):
    path = records.save(evaluation, b'', Path('results/evaluations'))
    return run('accept', path.stem, '--manifest', manifest, *WHY, *options)


def test_other_images_get_a_reference_of_their_own(run, listed):
    manifest, evaluation = listed
    part = evaluation.data.model_copy(update={'images': 200, 'complete': False})
    fingerprints = ('0123456789abcdef', load_manifest()[0].reference[0].fingerprint)
    for fingerprint in fingerprints:
        data = part.model_copy(update={'fingerprint': fingerprint})
        code, out, _ = accepted(run, manifest, evaluation.model_copy(update={'data': data}))
        assert code == 0
        assert 'top1  none -> 79.70' in out
        # The drawn data are a set of their own, and no part of one.
        assert ('WARNING: a subset of the images' in out) == (fingerprint == fingerprints[0])
    (entry,) = load_manifest(manifest)
    assert [(r.data, r.fingerprint) for r in entry.reference] == [
        ('full', ''),
        ('full', fingerprints[0]),
        ('shapes', fingerprints[1]),
    ]
    assert [r.source.startswith('ON A SUBSET OF 200 IMAGES') for r in entry.reference] == [
        False,
        True,
        False,
    ]


def test_the_same_weights_twice_need_a_name(run, listed):
    manifest, evaluation = listed
    text = manifest.read_text()
    manifest.write_text(text + text.replace('"deit"', '"twin"'))
    code, _, err = accepted(run, manifest, evaluation)
    assert code == 2
    assert 'as deit, twin: choose one with --name' in err
    assert accepted(run, manifest, evaluation, '--name', 'twin')[0] == 0
    first, second = load_manifest(manifest)
    assert [e.reference[0].metrics['top1'] for e in (first, second)] == [79.8, 79.7]


def test_a_cell_stands_for_its_record(run, listed):
    manifest, evaluation = listed
    records.save(evaluation, b'', Path('results/evaluations'))
    run('table', 4, '--models', 'DeiT-S', '--output', 'results')
    options = ('--manifest', manifest, *WHY, '--format', 'json')
    code, out, _ = run('accept', 4, 'DeiT-S', 'top1', *options)
    assert (code, json.loads(out)['changes']) == (0, {'top1': {'old': 79.8, 'new': 79.7}})
    (entry,) = load_manifest(manifest)
    assert [(r.images, r.metrics) for r in entry.reference] == [(50_000, {'top1': 79.7})]
    code, _, err = run('accept', 4, 'DeiT-S', 'params_m', '--manifest', manifest, *WHY)
    assert (code, 'has these records: none' in err) == (2, True)


@pytest.mark.parametrize(
    ('changes', 'options', 'message'),
    [
        (
            {'checkpoint': {'sha256': 'b' * 64}},
            (),
            'has no entry with the weights of the record, x, SHA-256 bbbbbbbbbbbbbbbb...',
        ),
        (
            {'checkpoint': {'sha256': 'b' * 64}},
            ('--name', 'deit'),
            'has no entry deit with the weights of the record, x, SHA-256 bbbbbbbbbbbbbbbb...',
        ),
        ({}, ('--name', 'other'), 'has no entry other with the weights'),
        ({}, ('--name', 'x', '--licence', 'MIT'), 'with all of --name, --licence and --weights'),
        (
            {},
            ('--name', 'deit', '--licence', 'MIT', '--weights', 'https://example.org/x'),
            'has the checkpoint deit already',
        ),
        ({'metrics': {'top1': float('nan')}}, (), 'is not an evaluation record (metrics.top1: '),
        ({'metrics': {'top5': 95.0}}, (), 'the record has no top1, which the reference has'),
        ({'precision': 'fp16'}, (), 'measured in fp16, the gate measures in fp32'),
    ],
)
def test_what_is_refused(run, listed, changes, options, message):
    manifest, evaluation = listed
    changes = {
        key: {**getattr(evaluation, key).model_dump(), 'file': 'x', **value}
        if key == 'checkpoint'
        else {**evaluation.preprocessing, **value}
        if key == 'preprocessing'
        else value
        for key, value in changes.items()
    }
    content = evaluation.model_dump(mode='json') | changes
    refused(run, manifest, json.dumps(content), message, *options)


def refused(run, manifest, content, message, *options):
    before = manifest.read_bytes()
    Path('record.json').write_text(content)
    code, out, err = run('accept', 'record.json', '--manifest', manifest, *WHY, *options)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert message in err
    assert manifest.read_bytes() == before


def test_a_failed_write_leaves_the_manifest_whole(run, listed, monkeypatch):
    manifest, evaluation = listed
    records.save(evaluation, b'', Path('results/evaluations'))

    def full_disk(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full_disk)
    before = sorted(p.name for p in manifest.parent.iterdir()), manifest.read_bytes()
    code, _, err = run('accept', evaluation.stem, '--manifest', manifest, *WHY)
    assert code == 2
    assert 'No space left' in err
    assert (sorted(p.name for p in manifest.parent.iterdir()), manifest.read_bytes()) == before


def test_a_checkpoint_of_ones_own_with_one_command(run, embedded, tmp_path):
    """What is added is what was evaluated: the gate measures the very same."""
    path = weights(tmp_path / 'mine' / 'net.safetensors', token_labeling=True)
    run(
        *('evaluate', 'imagenet', 'maformer_micro', '--checkpoint', path, '--data', embedded),
        *('--model-kwargs', 'token_labeling=true', '--img-size', 64, '--crop-pct', 0.8),
        *('--workers', 0),
    )
    (measured,) = records.load_all(Path('results/evaluations'))
    accept = (
        'accept',
        measured.stem,
        '--manifest',
        'own.toml',
        '--name',
        'net',
        '--licence',
        'MIT',
    )
    (tmp_path / 'other').write_text('')
    code, _, err = run(*accept, '--weights', 'other', *WHY)
    assert code == 2
    assert 'other is not the released net: its SHA-256 is' in err
    assert not Path('own.toml').exists()
    assert run(*accept, '--weights', path, *WHY)[0] == 0
    (entry,) = tomllib.loads(Path('own.toml').read_text())['checkpoint']
    assert entry['file'] == 'mine/net.safetensors'
    assert entry['preprocessing'] == {'crop_pct': 0.8, 'img_size': 64}
    gate = ('regress', '--manifest', 'own.toml', '--data', embedded, '--workers', 0)
    code, out, _ = run(*gate, '--output', 'again', '--format', 'json')
    assert code == 0
    assert [c['verdict'] for c in json.loads(out)['checks']] == ['match']
    (again,) = records.load_all(Path('again'))
    assert again.key == measured.key


def test_counts_tell_a_significant_drop_from_chance(tmp_path):
    """Where those of the reference are kept, of 30 images."""
    labels = np.zeros(30, int)

    def counts(name, right):
        hits = np.arange(30)[:, None] < right
        images = tuple(map(str, range(30)))
        path = tmp_path / name
        path.write_bytes(kept.KeptImages(ImageHits(labels, hits), images, ('x',)).to_bytes())
        return path

    counts('then.npz', 27)
    metrics, manifest = {'top1': 90.0}, tmp_path / 'manifest.toml'
    reference = Reference(images=30, metrics=metrics, source='me', statistics='then.npz')
    for right, p, significant in ((27, 1.0, False), (24, 0.25, False), (12, 2 / 2**15, True)):
        found = compare_counts(reference, counts('now.npz', right), manifest)['top1']
        assert (found.p, found.significant) == (pytest.approx(p), significant)
    other = reference.model_copy(update={'metrics': {'top1': 50.0}})
    with pytest.raises(UserError, match='other values of top1 than the reference'):
        compare_counts(other, tmp_path / 'now.npz', manifest)
    (tmp_path / 'now.npz').write_bytes(b'damaged')
    with pytest.raises(UserError, match='evaluate or score again'):
        compare_counts(reference, tmp_path / 'now.npz', manifest)


def test_the_gate_tests_a_drop_where_counts_are_kept(run, embedded, sound, tmp_path):
    outcome = evaluate(Job('imagenet', 'maformer_micro', sound, embedded, workers=0))
    shutil.copy(sound, tmp_path / 'net.safetensors')
    manifest = write_manifest(tmp_path, outcome, net=1.0)
    accept = ('accept', outcome.save(tmp_path / 'kept'), '--manifest', manifest, *WHY)
    assert run(*accept, '--keep-counts')[0] == 0
    (reference,) = load_manifest(manifest)[0].reference
    assert (tmp_path / reference.statistics).is_file()
    gate = ('regress', '--manifest', manifest, '--data', embedded, '--workers', 0)
    code, out, _ = run(*gate, '--format', 'json')
    (check,) = json.loads(out)['checks']
    assert (code, check['verdict']) == (0, 'match')
    assert check['reason'].endswith('as the reference')
