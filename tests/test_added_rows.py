"""Rows that users add to the paper's tables, from records and from released weights."""

import json
from pathlib import Path

import pytest
from conftest import record

from reproduce.evaluate import records

RESULTS = Path(__file__).parents[1] / 'results'
DEIT = 'deit_small_patch16_224'


def saved(folder, name, top1, **changes):
    changes = {'preprocessing': {'input_size': [3, 224, 224]}} | changes
    return records.save(record(name, top1, **changes), b'', folder)


def parsed(text):
    """The rows of each Markdown table, by its number."""
    tables, rows = {}, []
    for line in text.splitlines():
        if line.startswith('**Table '):
            rows = tables[int(line[8])] = []
        elif line.startswith('|') and not line.startswith('|:'):
            rows.append([field.strip() for field in line.strip('|').split(' | ')])
    return tables


@pytest.fixture
def tables(run):
    def tables(*arguments):
        code, out, err = run('tables', *arguments, '--results', RESULTS)
        assert (code, err) == (0, '')
        return parsed(out)

    return tables


def test_a_record_stands_in_the_block_of_its_size(tables, tmp_path):
    path = saved(tmp_path, DEIT, 83.2, from_weights=('img_size',))
    rows = tables(4, '--add', f'Ours={path}')[4]
    names = [row[0] for row in rows]
    assert names[names.index('Ours') - 1] == 'MAFormer-S† (3-3-8-3)'
    ours, deit = rows[names.index('Ours')], rows[names.index('DeiT-S')]
    assert ours == ['Ours', '224²', '224²', '22.1⋆', '4.6ᵗ⋆', '83.2⋆']
    assert [ours[i].rstrip('⋆') for i in (3, 4)] == [deit[i].partition(' ')[0] for i in (3, 4)]
    other = saved(tmp_path, DEIT, 83.9, checkpoint={'file': 'b.pth', 'sha256': 'b' * 64})
    rows = tables(4, '--add', f'Ours={path}', '--add', other)[4]
    assert [row for row in rows if row[0] == f'{DEIT.replace("_", chr(92) + "_")} (b)'] == [
        [rf'{DEIT.replace("_", chr(92) + "_")} (b)', '', '224²', '22.1⋆', '4.6ᵗ⋆', '**83.9**⋆']
    ]


def test_columns_that_say_what_a_maformer_is(tables, tmp_path):
    changes = {'model': 'maformer_small_3383_shifted_window', 'arguments': {'token_labeling': True}}
    path = saved(tmp_path, None, 83.0, **changes)
    found = tables(1, 2, 3, 4, '--add', f'Ours={path}')
    ours = {
        number: next(row for row in rows if row[0][:4] == 'Ours') for number, rows in found.items()
    }
    assert ours[1][:3] == ['Ours', r'\[64, 128, 320, 512]', r'\[3, 3, 8, 3]']
    assert ours[2][2:4] == ['Shifted Window', 'GLD']
    assert ours[3][2] == 'Multi-scale Fusion Attention'
    assert ours[4][0] == 'Ours†'
    printed = [
        row for row in found[2] if row[0] == 'MAFormer-S (3-3-8-3)' and row[2:4] == ours[2][2:4]
    ]
    assert ours[2][1].rstrip('⋆') == printed[0][1].partition(' ')[0]  # the same network


def test_a_part_of_the_data_is_named_and_never_the_best(tables, tmp_path):
    path = saved(tmp_path, DEIT, 99.0, complete=False)
    rows = tables(4, '--add', f'Ours={path}')[4]
    (ours,) = [row for row in rows if row[0].startswith('Ours')]
    assert (ours[0], ours[-1]) == ('Ours (100 images)', '99.0⋆')
    assert '**83.7**' in [row[-1] for row in rows]


def test_a_segmenter_of_each_framework_is_one_row(tables, tmp_path):
    paths = [
        saved(
            *(tmp_path, None, 1.0),
            task='ade20k',
            model=f'{name}_maformer-micro_shapes.py',
            metrics={'miou': miou},
            intervals={},
            preprocessing={'config_sha256': 'a' * 16},
        )
        for name, miou in (('fpn', 44.4), ('upernet', 46.6))
    ]
    added = [argument for path in paths for argument in ('--add', f'Ours={path}')]
    (ours,) = [row for row in tables(7, *added)[7] if row[0] == 'Ours']
    assert (ours[3], ours[6], ours[7]) == ('44.4⋆', '46.6⋆', '–')
    assert all(field.endswith('⋆') for field in (ours[1], ours[2], ours[4], ours[5]))


def test_released_weights_state_what_they_score(tables):
    rows = tables(4, '--add', 'Ours=maformer_micro_shapes')[4]
    (ours,) = [row for row in rows if row[0].startswith('Ours')]
    assert (ours[0], ours[-1]) == ('Ours† (200 images)', '69.0◇')
    assert ours[4] == '0.02ᵗ⋆'  # not 0.0
    rows = tables(4, '--add', f'Ours={DEIT}')[4]
    (ours,) = [row for row in rows if row[0].startswith('Ours')]
    assert ours[1:3] == ['224²', '224²'] and ours[-1].endswith('◇')


@pytest.mark.parametrize(
    ('what', 'message'),
    [
        ('no_such', "'no_such' is no CSV, record, or released weights"),
        ('maformer_small', 'has no public weights: evaluate yours, and add the record'),
        ('Ours=mine.csv', 'a CSV names its rows itself'),
    ],
)
def test_a_mistake_is_one_line(run, what, message):
    code, out, err = run('tables', 4, '--add', what, '--results', RESULTS)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert message in err


def test_a_model_of_another_table_is_told_where_it_belongs(run, tmp_path):
    path = saved(tmp_path, DEIT, 79.9)
    code, out, err = run('tables', 5, '--add', path, '--results', RESULTS)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'is a classifier, which belongs to Table 4; shown are 5' in err


def test_a_cell_that_was_not_measured_says_what_to_run(run):
    system = 'swin_tiny_patch4_window7_224'
    code, out, err = run('show', f'table4/{system}/top1', '--results', RESULTS)
    assert (code, err) == (0, '')
    assert f'checkpoints {system} --checkpoints /weights --download && ' in out
    assert f'table 4 --models {system} --data /data --checkpoints /weights' in out
    assert 'https://' in out
    _, out, _ = run('show', 'table4/maformer_base/top1', '--results', RESULTS)
    assert 'none are public' in out and '--download' not in out
    _, out, _ = run('show', f'table4/{system}/top1', '--results', RESULTS, '--format', 'json')
    (cell,) = json.loads(out)['cells']
    assert len(cell['to_measure']) == 2 and cell['public_weights'].startswith('https://')
    _, out, _ = run('show', f'table4/{system}/params_m', '--results', RESULTS)
    assert 'to measure it' not in out
