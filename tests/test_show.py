"""A cell or a record found by what people call it, and with what it takes to repeat it."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import record

from reproduce.base.folders import EVALUATIONS
from reproduce.evaluate import records
from reproduce.weights import registry
from reproduce.weights.registry import Reference, Released

DEIT = 'deit_small_patch16_224'


@pytest.fixture
def shown(run, cite):
    """Table 4's DeiT rows with a record of DeiT-S; a function that shows what is named."""
    cite('dsnet_small')
    path = records.save(record(DEIT, 79.9), b'', Path('results/evaluations'))
    run('table', 4, '--models', 'DeiT-S,DeiT-B,dsnet_small', '--output', 'results')

    def shown(*words):
        code, out, err = run('show', *words, '--format', 'json')
        assert (code, err) == (0, '')
        found = json.loads(out)
        cells = [f'{c["table"]}/{c["system"]}/{c["metric"]}' for c in found['cells']]
        return cells, [e['file'] for e in found['evaluations']], found

    return shown, str(path)


@pytest.mark.parametrize(
    'words',
    [
        (f'table4/{DEIT}/top1',),
        ('4', DEIT, 'top1'),
        ('T4/DeiT-S/top1',),
        ('top1', 'deit-s'),
        ('table4/deit_small.../top1',),
        (f'results/evaluations/{record(DEIT, 0).stem}.json',),
        (record(DEIT, 0).stem,),
        (f'{record(DEIT, 0).stem}.csv.gz',),
        (record(DEIT, 0).key,),
    ],
)
def test_many_names_for_one_cell(shown, words):
    show, path = shown
    assert show(*words)[:2] == ([f'4/{DEIT}/top1'], [path])


def test_less_of_a_name_shows_more(shown):
    show, path = shown
    cells, files, _ = show('DeiT-S')
    assert cells == [f'4/{DEIT}/{metric}' for metric in ('params_m', 'flops_g', 'top1')]
    assert files == [path]
    assert show('deit', 'top1')[0] == [f'4/{DEIT}/top1', '4/deit_base_patch16_224/top1']


def test_what_it_takes_to_repeat_a_cell(run, shown, monkeypatch):
    entry = Released(
        name='x',
        model=DEIT,
        file='x',
        sha256='a' * 64,
        licence='x',
        reference=[Reference(images=50_000, metrics={'top1': 79.85}, source='the makers')],
    )
    monkeypatch.setattr(registry, 'load_manifest', lambda: (entry,))
    run('table', 4, '--models', 'DeiT-S', '--output', 'results')
    code, out, _ = run('show', 4, 'DeiT-S', 'top1')
    assert code == 0
    lines = dict(line.strip().split('  ', 1) for line in out.splitlines() if '  ' in line.strip())
    told = {key: value.strip() for key, value in lines.items()}
    e = record(DEIT, 79.9)
    expected = {
        'paper': '79.8 ± 0.3916',
        'measured': '79.900000 (+0.1 against the paper)',
        'reference': '79.85',
        'verdict': 'match',
        'against the reference': 'match',
        'checkpoint': f'{DEIT}.safetensors, SHA-256 {"a" * 64}',
        'reference top1': '79.85, match: the makers',
        'config': f'SHA-256 {e.config_sha256}',
        'command': 'python -m reproduce',
        'date': e.provenance.date,
        'device': '8 x GPU, fp32, batches of 64, 60.0 s',
        'commit': 'not recorded',
    }
    assert {key: told[key] for key in expected} == expected
    assert f'fingerprint {e.data.fingerprint}' in told['data']
    assert '79.90 (95 %: 78.90 to 80.90)' in told['metrics']


def test_parameters_tell_the_command(shown):
    show, _ = shown
    (cell,) = show('4/DeiT-S/flops_g')[2]['cells']
    assert cell['repeat'] == f'python -m reproduce table 4 --models {DEIT}'
    assert float(cell['total_flops_g']) == float(cell['measured'])
    (cell,) = show('dsnet_small/top1')[2]['cells']
    assert (cell['verdict'], cell['reference_verdict'], cell['repeat']) == ('cited', 'cited', '')


def test_a_table_older_than_its_record_is_told(run, shown):
    assert 'write the table again' not in run('show', 4, 'DeiT-S', 'top1')[1]
    records.save(record(DEIT, 80.0), b'', Path('results/evaluations'))
    assert 'the record says 80.00: write the table again' in run('show', 4, 'DeiT-S', 'top1')[1]


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('5/DeiT-S/top1',), "for '5', the nearest are"),
        (('4/Diet-S/top1',), "for 'Diet-S', the nearest are DeiT-S"),
        (('4/DeiT-S/flops',), "for 'flops', the nearest are flops_g"),
        ((f'{DEIT}-0',), f"for '{DEIT}-0', the nearest are {DEIT}"),
        (('DeiT-S', '--results', 'nowhere'), 'nowhere has no tables'),
    ],
)
def test_what_is_not_there_is_one_line(run, shown, words, message):
    code, out, err = run('show', *words)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert message in err


def test_the_config_hash_tells_configs_apart():
    own = record(DEIT, 79.9)
    assert own.config_sha256 == record(DEIT, 10.0, sha256='b' * 64).config_sha256
    others = [{'preprocessing': {'crop_pct': 1.0}}, {'arguments': {'x': 1}}, {'model': 'y'}]
    assert len({own.config_sha256, *(record(DEIT, 1.0, **o).config_sha256 for o in others)}) == 4
    assert record(DEIT, 1.0, preprocessing={'config_sha256': 'abc'}).config_sha256 == 'abc'


def test_the_commit_of_the_checkout(tmp_path, monkeypatch):
    def git(*arguments):
        told = ('-c', 'user.name=x', '-c', 'user.email=x@example.org', *arguments)
        done = subprocess.run(
            ['git', *told], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    monkeypatch.setattr(records, 'CHECKOUT', tmp_path)
    assert records.commit_of_checkout() == ''
    git('init')
    assert records.commit_of_checkout() == ''
    (tmp_path / 'results').mkdir()
    for name in ('code.py', 'results/table1.csv'):
        (tmp_path / name).write_text('1')
    git('add', '.')
    git('commit', '-m', 'first')
    (tmp_path / 'results/table1.csv').write_text('2')
    assert records.commit_of_checkout() == git('rev-parse', 'HEAD')
    (tmp_path / 'code.py').write_text('2')
    assert records.commit_of_checkout() == git('rev-parse', 'HEAD') + '-dirty'


def test_weights_that_timm_published_have_their_reference(run):
    """The record names them, since their publisher names no hash that would tell what they are."""
    system = 'swin_tiny_patch4_window7_224'
    weights = {'file': f'{system}.safetensors', 'sha256': 'c' * 64}
    weights['released'] = f'timm:{system}.ms_in1k'
    kept = records.save(record(system, 81.376, checkpoint=weights), b'', EVALUATIONS)
    run('table', 4, '--models', system, '--output', 'results')
    code, out, _ = run('show', kept.stem, '--format', 'json')
    assert code == 0
    found = json.loads(out)
    assert found['evaluations'][0]['references']['top1']['value'] == 81.376
    assert found['evaluations'][0]['references']['top1']['verdict'] == 'match'
    # The table says the same, and names the record.
    (cell,) = (cell for cell in found['cells'] if cell['metric'] == 'top1')
    assert (cell['reference'], cell['reference_verdict']) == ('81.376', 'match')
    assert cell['record'] == kept.stem
