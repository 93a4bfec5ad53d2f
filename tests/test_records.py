"""From evaluation records to the cells of Tables 1-4, and the regression gate."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import tomlkit
import torch
import typer
from conftest import INPUT, record, weights
from safetensors.torch import load_file, save_file

from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.commands import evaluate as command_line
from reproduce.evaluate import records
from reproduce.evaluate.apart import evaluate_command
from reproduce.judge.verdict import Verdict, judge_reference
from reproduce.openmmlab.cfg_options import parse
from reproduce.paper import load_tolerances
from reproduce.weights import registry
from reproduce.weights.registry import Reference, Released, load_manifest
from reproduce.weights.store import obtain

ROOT = Path(__file__).parents[1]


def cells(folder='results', table=4):
    frame = pd.read_csv(f'{folder}/table{table}.csv', dtype=str, keep_default_na=False)
    return frame[frame.metric == 'top1'].set_index('system')


def table(run, *evaluations, models, number=4, options=()):
    for evaluation in evaluations:
        records.save(evaluation, b'', Path('results/evaluations'))
    code, out, err = run('table', number, '--models', models, '--output', 'results', *options)
    assert err == ''
    return code, out, cells(table=number)


DEIT = 'deit_small_patch16_224'


@pytest.mark.parametrize(('top1', 'verdict', 'code'), [(79.9, 'match', 0), (79.0, 'worse', 1)])
def test_a_complete_record_fills_its_cell(run, tmp_path, top1, verdict, code):
    found, _, frame = table(run, record(DEIT, top1), models='DeiT-S')
    cell = frame.loc[DEIT]
    assert found == code
    assert float(cell.measured) == top1
    assert (cell.verdict, cell.reference_verdict, cell.reference) == (verdict, 'unprinted', '')
    assert cell.reason == (f'{DEIT}.safetensors (aaaaaaaa), 50,000 images, fp32 on GPU, 2026-01-01')


def test_a_subset_is_told_and_not_judged(run, tmp_path):
    code, _, frame = table(run, record(DEIT, 12.5, complete=False), models='DeiT-S')
    cell = frame.loc[DEIT]
    assert (code, cell.verdict, cell.measured) == (0, 'not-run', '')
    assert 'only a part was evaluated, 12.50 on 100 images' in cell.reason
    assert f'CHECKPOINTS/{DEIT}.safetensors' in cell.reason
    assert 'at DATA' in cell.reason


def test_the_last_complete_measurement_counts(run, tmp_path):
    evaluations = [
        record(DEIT, 79.8, date='2026-01-02T00:00:00+00:00'),
        record(DEIT, 70.0, sha256='b' * 64),
        record(DEIT, 60.0, overridden=('crop_pct',), preprocessing={**INPUT, 'crop_pct': 1.0}),
        record(DEIT, 50.0, complete=False, date='2026-01-03T00:00:00+00:00'),
    ]
    assert len({e.key for e in evaluations}) == 4
    _, _, frame = table(run, *evaluations, models='DeiT-S')
    assert float(frame.loc[DEIT].measured) == 79.8


def test_the_same_measurement_replaces_its_record(tmp_path):
    records.save(record(DEIT, 70.0), b'old', tmp_path)
    path = records.save(record(DEIT, 79.8, date='2026-01-02T00:00:00+00:00'), b'new', tmp_path)
    (kept,) = records.load_all(tmp_path)
    assert kept.metrics['top1'] == 79.8
    assert (tmp_path / kept.predictions).read_bytes() == b'new'
    assert path.stem == kept.stem


S, S_3383 = 'maformer_small', 'maformer_small_3383'


@pytest.mark.parametrize(
    ('scores', 'verdicts', 'code', 'strict'),
    [
        ({S_3383: 83.1}, {S: 'not-run', S_3383: 'match'}, 0, 0),
        ({S: 80.0, S_3383: 83.0}, {S: 'worse', S_3383: 'match'}, 0, 0),
        ({S: 80.0}, {S: 'worse', S_3383: 'not-run'}, 1, 1),
        ({}, {S: 'not-run', S_3383: 'not-run'}, 0, 1),
    ],
)
def test_a_row_of_s_is_satisfied_by_either_depth(run, scores, verdicts, code, strict):
    # The names are also those of the timm models of the row with token labeling.
    evaluations = [record('maformer_small_token_labeling', 83.7)]
    evaluations += [record(system, top1) for system, top1 in scores.items()]
    names = f'{S},{S_3383}'
    found, _, frame = table(run, *evaluations, models=names)
    assert frame.loc[[S, S_3383]].verdict.to_dict() == verdicts
    assert found == code
    for system, verdict in verdicts.items():
        if verdict in ('not-run', 'worse') and len(set(verdicts.values())) > 1 and not code:
            assert 'the row is satisfied by' in frame.loc[system].reason
    assert run('table', 4, '--models', names, '--strict')[0] == (strict or code)


def released(monkeypatch, *references, sha256='a' * 64):
    entry = Released(
        name='x',
        model=DEIT,
        file='x',
        sha256=sha256,
        licence='x',
        reference=[Reference(**r) for r in references],
    )
    monkeypatch.setattr(registry, 'load_manifest', lambda: (entry,))


@pytest.mark.parametrize(
    ('top1', 'reference_verdict', 'code'),
    [(79.95, 'match', 0), (80.0, 'better', 0), (79.7, 'worse', 1)],
)
def test_the_reference_of_the_very_weights(run, monkeypatch, top1, reference_verdict, code):
    """Held at 0.1, where the paper's tolerance is wider: its own 79.8 matches all of these."""
    released(monkeypatch, {'images': 50_000, 'metrics': {'top1': 79.85}, 'source': 'timm'})
    found, out, frame = table(run, record(DEIT, top1), models='DeiT-S')
    cell = frame.loc[DEIT]
    assert (cell.verdict, cell.reference, cell.reference_verdict) == (
        'match',
        '79.85',
        reference_verdict,
    )
    assert found == code
    assert 'same weights' in out


def test_a_reference_for_other_weights_or_images_does_not_hold(run, monkeypatch):
    whole = {'images': 50_000, 'metrics': {'top1': 70.0}, 'source': 'x'}
    released(monkeypatch, whole, sha256='b' * 64)
    assert table(run, record(DEIT, 79.8), models='DeiT-S')[2].loc[DEIT].reference == ''
    subset = {**whole, 'fingerprint': 'abc', 'images': 100}
    released(monkeypatch, subset)
    assert table(run, models='DeiT-S')[2].loc[DEIT].reference_verdict == 'unprinted'


@pytest.mark.parametrize(
    ('measured', 'target', 'images', 'verdict'),
    [
        (80.1, 80.0, 50_000, Verdict.MATCH),
        (80.102, 80.0, 50_000, Verdict.BETTER),
        (79.898, 80.0, 50_000, Verdict.WORSE),
        (100 * 79 / 120, 100 * 80 / 120, 120, Verdict.MATCH),
        (100 * 78 / 120, 100 * 80 / 120, 120, Verdict.WORSE),
        (65.83, 66.67, 120, Verdict.WORSE),
        (float('nan'), 80.0, 120, Verdict.ERROR),
    ],
)
def test_reference_verdicts(measured, target, images, verdict):
    assert judge_reference(measured, target, images, load_tolerances()['reference']) is verdict


def test_a_failed_write_leaves_the_old_record_whole(monkeypatch, tmp_path):
    records.save(record(DEIT, 79.8), b'old', tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full_disk(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full_disk)
    with pytest.raises(UserError, match='No space left'):
        records.save(record(DEIT, 10.0), b'new', tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_table_evaluates_the_checkpoints_that_are_there(run, embedded, tmp_path):
    """Each in a process of its own."""
    weights(tmp_path / 'weights' / f'{DEIT}.safetensors', DEIT)
    (tmp_path / 'weights' / 'swin_tiny_patch4_window7_224.pth').write_bytes(b'broken')
    code, _, _ = run(
        *('table', 4, '--models', 'DeiT-S,Swin-T,DeiT-B', '--data', embedded, '--limit', 3),
        *('--checkpoints', 'weights', '--workers', 0, '--output', 'results'),
    )
    frame = cells()
    assert code == 2
    assert frame.verdict.to_dict() == {
        DEIT: 'not-run',
        'swin_tiny_patch4_window7_224': 'error',
        'deit_base_patch16_224': 'not-run',
    }
    assert 'only a part was evaluated' in frame.loc[DEIT].reason
    assert 'fetch it again' in frame.loc['swin_tiny_patch4_window7_224'].reason
    assert 'weights/deit_base_patch16_224.safetensors' in frame.loc['deit_base_patch16_224'].reason
    (kept,) = records.load_all(Path('results/evaluations'))
    assert (kept.system, kept.data.images, kept.data.complete) == (DEIT, 3, False)


@pytest.mark.slow
def test_the_released_checkpoints_score_what_they_scored(run):
    assert run('regress')[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize('entry', load_manifest(), ids=lambda entry: entry.name)
def test_a_perturbed_release_fails(run, tmp_path, entry):
    """The released weights with noise on them, held against the released reference."""
    torch.manual_seed(0)
    state = load_file(obtain(entry))
    for value in state.values():
        if value.ndim > 1:
            value += 0.3 * value.std() * torch.randn(value.shape)
    save_file(state, tmp_path / 'perturbed.safetensors')
    content = tomlkit.parse(registry.MANIFEST.read_text())
    (perturbed,) = (e for e in content['checkpoint'] if e['name'] == entry.name)
    perturbed['file'] = 'perturbed.safetensors'
    perturbed['sha256'] = sha256_of(tmp_path / 'perturbed.safetensors')
    manifest = tmp_path / 'manifest.toml'
    manifest.write_text(tomlkit.dumps({'checkpoint': [perturbed]}))
    assert run('regress', '--manifest', manifest)[0] == 1


def test_a_record_of_impossible_numbers_does_not_load(tmp_path):
    path = tmp_path / 'x.json'
    content = json.loads(record('x', 70.0).model_dump_json())
    path.write_text(json.dumps(content))
    assert records.load(path).metrics['top1'] == 70
    for part, value in (
        *(('metrics', {'top1': value}) for value in (float('nan'), -5, 100.1)),
        ('metrics', {}),
        ('intervals', {'top1': [float('nan'), 80]}),
        ('per_class', {'dog': {'top1': -1}}),
        ('provenance', {**content['provenance'], 'date': 'zzzz'}),
        ('task', 'cifar'),
        *(
            ('preprocessing', {**INPUT, name: value})
            for name, value in (
                ('mean', [0.5, 0.5]),
                ('std', [0.5, float('nan'), 0.5]),
                ('input_size', [3, {}, 224]),
                ('input_size', [3, 10**9, 10**9]),
                ('crop_pct', 'x'),
            )
        ),
        ('preprocessing', {'crop_pct': 0.9}),
        ('statistics', '../x.npz'),
    ):
        path.write_text(json.dumps({**content, part: value}))
        with pytest.raises(UserError, match=rf'x\.json is not an evaluation record \({part}'):
            records.load(path)


def test_a_measurement_in_less_than_fp32_does_not_replace_one_in_it():
    full, later = record(DEIT, 79.8), record(DEIT, 79.7)
    later = later.model_copy(
        update={
            'precision': 'fp16',
            'provenance': later.provenance.model_copy(update={'date': '2027-01-01T00:00:00+00:00'}),
        }
    )
    assert records.latest([full, later], DEIT, 'top1') == full
    assert records.latest([later], DEIT, 'top1') == later


def test_the_command_of_an_evaluation_says_all_of_it():
    """As the command's own parser reads it."""
    preprocessing = {'img_size': 64, 'mean': [0.5, 0.4, 0.3], 'use_train_size': True}
    arguments = {'depths': [1, 1, 2, 1], 'fusion': 'local-enhanced', 'token_labeling': True}
    what = ('imagenet', 'maformer_micro', 'a b.pth', 'DATA')
    words = evaluate_command(*what, arguments, preprocessing)
    assert words[:3] == ['reproduce', 'evaluate', 'imagenet']
    command = typer.main.get_command(command_line.app).commands['imagenet']
    read = command.make_context('imagenet', words[3:]).params
    assert (read['model'], read['checkpoint'], str(read['data'])) == (*words[3:6:2], 'DATA')
    assert (read['img_size'], read['mean']) == (64, (0.5, 0.4, 0.3))
    assert read['use_train_size'] and read['crop_pct'] is None
    assert parse(read['model_kwargs']) == arguments
