"""References taken from measurements: what is written, what is refused, and what the gate makes."""

import json
from pathlib import Path

import pytest
import torch
from conftest import record, write_manifest
from safetensors.torch import load_file, save_file

from reproduce.base.files import sha256_of
from reproduce.evaluate import records
from reproduce.tasks.classification import preprocessing
from reproduce.weights.registry import load_manifest

DEIT = 'deit_small_patch16_224'
WHY = ('--reason', 'the head was trained again')


def test_the_gate_fails_and_passes_again(run, in_process, embedded, sound, sound_outcome, tmp_path):
    """Sound weights pass and perturbed ones fail, until what they score is accepted."""
    state = load_file(sound)
    save_file(state, tmp_path / 'sound.safetensors')
    torch.manual_seed(0)
    state['head.fc.weight'] += 0.5 * torch.randn(state['head.fc.weight'].shape)
    save_file(state, tmp_path / 'perturbed.safetensors')
    top1 = sound_outcome.evaluation.metrics['top1']
    assert top1 > 80
    manifest = write_manifest(tmp_path, sound_outcome, sound=top1, perturbed=top1)
    manifest.write_text('# ours\n' + manifest.read_text().replace('= "me"', '= "me"  # long ago'))

    def gate():
        options = ('--data', embedded, '--workers', 0, '--output', 'kept', '--format', 'json')
        code, out, err = run('regress', '--manifest', manifest, *options)
        assert '2 of 2: perturbed on imagenet: ' in err  # as soon as it is evaluated
        return code, {c['name']: (c['verdict'], c['reason']) for c in json.loads(out)['checks']}

    code, found = gate()
    assert (code, found['sound'][0], found['perturbed'][0]) == (1, 'match', 'worse')
    sha256 = sha256_of(tmp_path / 'perturbed.safetensors')
    (measured,) = (e for e in records.load_all(Path('kept')) if e.checkpoint.sha256 == sha256)
    accept = ('accept', f'kept/{measured.stem}.json', '--manifest', manifest)

    before = manifest.read_bytes()
    code, _, err = run(*accept, '--reason', ' ')
    assert (code, 'give --reason' in err) == (2, True)
    assert manifest.read_bytes() == before
    code, _, err = run(*accept, *WHY)
    assert (code, err) == (0, '')
    entry = next(e for e in load_manifest(manifest) if e.name == 'perturbed')
    assert [r.metrics for r in entry.reference] == [{'top1': measured.metrics['top1']}]
    for text in (WHY[1], measured.stem, measured.provenance.command):
        assert text in entry.reference[0].source
    lines = zip(before.decode().splitlines(), manifest.read_text().splitlines(), strict=True)
    changed = [(a, b) for a, b in lines if a != b]
    assert [a.split(' = ')[0] for a, _ in changed] == ['metrics', 'source']
    assert changed[1][1].endswith('# long ago')

    # A lost file is an error of its own.
    (tmp_path / 'sound.safetensors').unlink()
    code, found = gate()
    assert (code, found['sound'][0], found['perturbed'][0]) == (2, 'error', 'match')


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


OTHER = {'checkpoint': {'file': 'x', 'sha256': 'b' * 64}}
PART = {
    'data': {
        'split': 'val',
        'images': 200,
        'classes': 1000,
        'fingerprint': 'b' * 16,
        'complete': False,
    }
}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (OTHER, 'has 0 references of x (SHA-256 bbbbbbbbbbbbbbbb...) on the images of the record'),
        (PART, 'has 0 references of'),
        ({'metrics': {'top5': 95.0}}, 'the record has no top1, which the reference has'),
        ({'precision': 'fp16'}, 'measured in fp16, the gate measures in fp32'),
    ],
)
def test_what_is_refused(run, listed, changes, message):
    manifest, evaluation = listed
    before = manifest.read_bytes()
    Path('record.json').write_text(json.dumps(evaluation.model_dump(mode='json') | changes))
    code, out, err = run('accept', 'record.json', '--manifest', manifest, *WHY)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert message in err
    assert manifest.read_bytes() == before
