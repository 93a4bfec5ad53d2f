"""A cell or a record found by what people call it, with the command that repeats it."""

import json
from pathlib import Path

import pytest
from conftest import record

from reproduce.evaluate import records
from reproduce.weights import registry
from reproduce.weights.registry import Reference, Released

DEIT = 'deit_small_patch16_224'
RESULTS = Path(__file__).parents[1] / 'results'


@pytest.fixture
def show(run, cite, monkeypatch):
    """Table 4's DeiT rows with a record of DeiT-S; a function that shows what is named."""
    reference = Reference(images=50_000, metrics={'top1': 79.85}, source='the makers')
    named = {'name': 'x', 'model': DEIT, 'file': 'x', 'sha256': 'a' * 64, 'licence': 'x'}
    entry = Released(**named, reference=[reference])
    monkeypatch.setattr(registry, 'load_manifest', lambda: (entry,))
    cite('dsnet_small')
    path = records.save(record(DEIT, 79.9), b'', Path('results/evaluations'))
    run('table', 4, '--models', 'DeiT-S,DeiT-B,dsnet_small', '--output', 'results')

    def show(*words):
        code, out, err = run('show', *words, '--format', 'json')
        assert (code, err) == (0, '')
        found = json.loads(out)
        cells = [f'{c["table"]}/{c["system"]}/{c["metric"]}' for c in found['cells']]
        return cells, [e['file'] == str(path) for e in found['evaluations']], found

    return show


def test_many_names_for_one_cell(show):
    stem = record(DEIT, 0).stem
    for words in ((f'table4/{DEIT}/top1',), ('top1', 'deit-s'), (stem,), (record(DEIT, 0).key,)):
        assert show(*words)[:2] == ([f'4/{DEIT}/top1'], [True]), words
    # A shorter name shows more.
    assert show('DeiT-S')[0] == [f'4/{DEIT}/{m}' for m in ('params_m', 'flops_g', 'top1')]


def facts(out):
    """The facts that were printed, by name."""
    lines = [line.strip().split('  ', 1) for line in out.splitlines() if '  ' in line.strip()]
    return {name: text.strip() for name, text in lines}


def test_what_it_takes_to_repeat_a_cell(run, show):
    code, out, _ = run('show', 4, 'DeiT-S', 'top1')
    assert code == 0
    found, e = facts(out), record(DEIT, 79.9)
    expected = {
        'paper': '79.8',
        'measured': '79.900000',
        'off by': '+0.10',
        'verdict': 'match',
        'checkpoint': f'{DEIT}.safetensors, SHA-256 {"a" * 64}',
        'reference top1': '79.85, match: the makers',
        'command': 'python -m reproduce',
        'device': '8 x GPU, fp32, batches of 64, 60.0 s',
    }
    assert {name: found[name] for name in expected} == expected
    assert found['tolerance'].startswith('± 0.4439.')
    assert f'fingerprint {e.data.fingerprint}' in found['data']
    assert '79.90 (95 %: 78.90 to 80.90)' in found['metrics']
    (cell,) = show('4/DeiT-S/flops_g')[2]['cells']
    assert cell['to_measure'] == [f'python -m reproduce table 4 --models {DEIT}']
    (cell,) = show('dsnet_small/top1')[2]['cells']
    assert (cell['verdict'], cell['reference_verdict'], cell['to_measure']) == (
        'cited',
        'cited',
        [],
    )


def test_a_cell_that_was_not_measured_says_what_to_run(run):
    system = 'swin_tiny_patch4_window7_224'
    code, out, err = run('show', f'table4/{system}/top1', '--results', RESULTS)
    assert (code, err) == (0, '')
    commands = facts(out)['to measure it'].split(' && ')
    assert commands[0].endswith(f'checkpoints {system} --checkpoints /weights --download')
    assert commands[1].endswith(f'4 --models {system} --data /data --checkpoints /weights')
    assert facts(out)['weights'].startswith('https://')
    _, out, _ = run('show', 'table4/MAFormer-B/top1', '--results', RESULTS)
    assert 'none are public' in out and '--download' not in out


def test_a_whole_table_is_a_line_for_each_row(run):
    code, out, _ = run('show', 'table5', '--results', RESULTS)
    rows = (RESULTS / 'table5.csv').read_text().count(',box_ap,')
    assert code == 0 and out.count('mask-rcnn_') >= rows and len(out.splitlines()) < 2 * rows + 30
    assert out.rstrip().endswith('show table5/mask-rcnn_r50_fpn_1x_coco/params_m')


def test_what_is_not_there_is_one_line(run, show):
    for words, message in (
        (('4/DeiT-S/flops',), "'flops' is not found"),
        (('DeiT-S', '--results', 'nowhere'), 'nowhere has no tables'),
    ):
        code, out, err = run('show', *words)
        assert (code, out, err.count('\n')) == (2, '', 1)
        assert message in err
