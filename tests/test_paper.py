"""The transcription against the paper's own text, and what happens to damaged files."""

import shutil

import pytest

from reproduce import paper
from reproduce.audit.misprints import load_misprints
from reproduce.base.errors import UserError
from reproduce.judge.known_deviations import load_known
from reproduce.systems import load_systems


@pytest.fixture
def folder(tmp_path):
    for path in paper.FOLDER.glob('*.*'):
        shutil.copy(path, tmp_path)
    return tmp_path


def cell(table, metric, **description):
    (row,) = (
        r
        for r in paper.load_table(table)
        if all(r.description[k] == v for k, v in description.items())
    )
    printed = row.cells[metric]
    return printed and printed.text


def test_every_printed_row_is_there():
    assert [len(paper.load_table(n)) for n in paper.TABLES] == [3, 5, 3, 32, 26, 12, 15]


# Numbers that the paper's text repeats in its sentences, each held against its table's cell.
@pytest.mark.parametrize(
    ('table', 'description', 'metric', 'text'),
    [
        (1, {'model': 'MAFormer-S'}, 'top1', '83.7'),
        (4, {'model': 'MAFormer-L'}, 'top1', '85.9'),
        (4, {'model': 'MAFormer-L'}, 'flops_g', '22.6'),
        (5, {'model': 'MAFormer-S'}, 'box_ap', '47.0'),
        (5, {'model': 'MAFormer-B'}, 'box_ap', '49.6'),
        (5, {'model': 'MAFormer-L'}, 'box_ap', '50.7'),
        (6, {'model': 'MAFormer-S'}, 'box_ap', '52.6'),
        (6, {'model': 'MAFormer-B'}, 'box_ap', '54.4'),
        (6, {'model': 'MAFormer-L'}, 'box_ap', '54.7'),
        (7, {'model': 'MAFormer-S'}, 'sem_fpn_miou', '47.9'),
        (7, {'model': 'MAFormer-B'}, 'sem_fpn_miou', '49.8'),
        (7, {'model': 'MAFormer-B'}, 'upernet_miou', '51.1'),
    ],
)
def test_numbers_of_the_text(table, description, metric, text):
    assert cell(table, metric, **description) == text


# Differences that the text states: row minus row, in the units of the table.
@pytest.mark.parametrize(
    ('table', 'metric', 'ours', 'theirs', 'difference'),
    [
        (4, 'top1', 'MAFormer-L', 'CSWin-B', 1.7),
        (4, 'top1', 'MAFormer-L', 'LV-ViT-L', 0.6),
        (5, 'box_ap', 'MAFormer-S', 'CSWin-T', 0.3),
        (5, 'box_ap', 'MAFormer-B', 'CSWin-S', 1.7),
        (5, 'box_ap', 'MAFormer-L', 'CSWin-B', 2.0),
        (5, 'mask_ap', 'MAFormer-S', 'CSWin-T', 0.5),
        (5, 'mask_ap', 'MAFormer-B', 'CSWin-S', 1.4),
        (5, 'mask_ap', 'MAFormer-L', 'CSWin-B', 1.5),
        (6, 'box_ap', 'MAFormer-S', 'CSWin-T', 0.1),
        (6, 'box_ap', 'MAFormer-B', 'CSWin-S', 0.7),
        (6, 'box_ap', 'MAFormer-L', 'CSWin-B', 0.8),
        (6, 'mask_ap', 'MAFormer-B', 'CSWin-S', 0.4),
        (6, 'mask_ap', 'MAFormer-L', 'CSWin-B', 0.9),
        (7, 'sem_fpn_miou', 'MAFormer-S', 'Swin-T', 6.4),
        (7, 'upernet_miou', 'MAFormer-B', 'Swin-B', 3.0),
    ],
)
def test_differences_that_the_text_states(table, metric, ours, theirs, difference):
    a, b = (float(cell(table, metric, model=name)) for name in (ours, theirs))
    assert a - b == pytest.approx(difference)


def test_what_is_not_printed_is_empty_and_odd_digits_stay():
    assert cell(7, 'upernet_miou', model='Res101') is None
    assert cell(7, 'upernet_ms_miou', model='Res101') == '44.9'
    assert cell(5, 'box_ap50', model='Twins-L') is None
    assert cell(5, 'mask_ap', model='ViL-S') == '41.'
    assert cell(4, 'top1', model='Shuffle-B') == '84'
    assert cell(4, 'params_m', model='CaiT-M36', train_size='') == '271'


def test_misprints_are_listed_apart_and_stay_as_printed():
    for misprint in load_misprints():
        printed = {
            row.description.get(misprint.metric) or row.cells[misprint.metric].text
            for row in paper.load_table(misprint.table)
            if row.model == misprint.model
        }
        assert printed == {misprint.printed}
        assert misprint.reason and misprint.likely != misprint.printed


def test_every_row_is_a_system_in_every_framework_that_it_prints():
    systems = load_systems()
    for table in paper.TABLES:
        for row in paper.load_table(table):
            filled = {c.name for s in systems if s.stands_for(row) for c in s.columns(table)}
            printed = {c for c, value in row.cells.items() if value}
            assert printed <= filled, (table, row.model)


def test_every_small_row_has_both_depths():
    systems = load_systems()
    for table in paper.TABLES:
        for row in paper.load_table(table):
            if row.model == 'MAFormer-S':
                names = [s.name for s in systems if s.stands_for(row)]
                assert len([n for n in names if '3383' in n]) * 2 == len(names)


def test_known_deviations_give_reasons():
    assert all(entry.reason for entry in load_known().values())


@pytest.mark.parametrize(
    ('before', 'after', 'message'),
    [
        ('MAFormer-S,64-128-320-512,3-5-8-3,23,4.5,83.7', 'MAFormer-S,64,3,23,4.5', 'line 2'),
        ('83.7', '83,7', 'line 2'),
        ('83.7', 'high', 'column top1'),
        ('83.7', 'nan', 'column top1'),
        ('top1', 'accuracy', 'line 1'),
    ],
)
def test_damaged_tables_are_refused_by_place(folder, before, after, message):
    path = folder / 'table1.csv'
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(UserError, match=message) as error:
        paper.load_table(1, folder)
    assert 'table1.csv' in str(error.value)


@pytest.mark.parametrize(
    ('before', 'after', 'message'),
    [
        ('[top1]', '[top_1]', 'top1'),
        ('relative = 0.02', 'relative = "much"', 'params_m.relative'),
        ('relative = 0.02', 'relative = -1', 'params_m.relative'),
        ('relative = 0.02', 'relativ = 0.02', 'params_m.relativ'),
        ('[params_m]', '[params_m', 'TOML'),
    ],
)
def test_damaged_tolerances_are_refused_by_place(folder, before, after, message):
    path = folder / 'tolerances.toml'
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(UserError, match=message):
        paper.load_tolerances(folder)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r'table3\.csv'):
        paper.load_table(3, tmp_path)
    with pytest.raises(UserError, match=r'tolerances\.toml'):
        paper.load_tolerances(tmp_path)
