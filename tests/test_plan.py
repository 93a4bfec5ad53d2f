"""What is planned is what the tables then do."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
from conftest import record, weights

from reproduce import paper
from reproduce.evaluate import planning, records
from reproduce.evaluate.accuracies import find_inputs
from reproduce.evaluate.planning import CellState
from reproduce.systems import load_systems

DEIT, SWIN = 'deit_small_patch16_224', 'swin_tiny_patch4_window7_224'
MODELS = ('--models', 'DeiT-S,Swin-T,DeiT-B,dsnet_small,maformer_small')


def test_the_plan_is_what_the_table_does(run, in_process, embedded, tmp_path, cite):
    cite('dsnet_small')
    weights(tmp_path / 'weights' / f'{DEIT}.safetensors', DEIT)
    records.save(record(SWIN, 81.2), b'', Path('results/evaluations'))
    options = (4, *MODELS, '--data', embedded, '--limit', 3, '--checkpoints', 'weights')
    code, out, _ = run('plan', *options, '--format', 'json')
    cells = {(c['system'], c['metric']): c for c in json.loads(out)['cells']}
    assert code == 0
    run('table', *options, '--workers', 0, '--output', 'results')
    frame = pd.read_csv('results/table4.csv', keep_default_na=False).set_index(['system', 'metric'])
    assert cells.keys() == set(frame.index)
    assert {c['state'] for c in cells.values()} == set(CellState) - {CellState.NO_DATA}
    for key, cell in cells.items():
        then = frame.loc[key]
        match cell['state']:
            case 'public' | 'unreleased':
                assert (then.verdict, then.reason) == ('not-run', cell['reason'])
            case 'on record':
                assert then.measured != ''
                assert cell['reason'] in then.reason
            case 'cited':
                assert then.verdict == 'cited'
            case 'counted':
                assert then.measured != ''
            case 'evaluate':
                assert 'only a part was evaluated' in then.reason
                assert 'on 3 images of' in cell['reason'] and 'a subset' in cell['reason']


def test_public_weights_of_all_tables():
    """Counted another way: Top-1 of 23 systems, of three in two tables; six APs; (ms) mIoU."""
    rows = [row for table in paper.TABLES for row in paper.load_table(table)]
    systems = load_systems()
    before, after = (
        Counter(c.state for c in planning.plan(rows, systems, find_inputs(systems), earlier))
        for earlier in ([], [record(DEIT, 79.8)])
    )
    assert before[CellState.PUBLIC] == 26 + 14 * 6 + 6 + 8 * 2
    assert after[CellState.RECORD] == 1
    assert after[CellState.PUBLIC] == before[CellState.PUBLIC] - 1
    assert after.total() == before.total()
