"""The transcription against the paper's own text, and what happens to damaged files."""

import shutil

import pytest

from reproduce import paper
from reproduce.audit.sources import load_misprints
from reproduce.base.errors import UserError
from reproduce.systems import load_systems


@pytest.fixture
def folder(tmp_path):
    for path in paper.FOLDER.glob('*.*'):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_every_printed_row_is_there():
    assert [len(paper.load_table(n)) for n in paper.TABLES] == [3, 5, 3, 32, 26, 12, 15]


def test_a_block_ends_with_the_own_models_that_it_is_compared_with():
    for table in (4, 5, 6, 7):
        blocks = dict.fromkeys(row.block for row in paper.load_table(table))
        for block in blocks:
            rows = [row for row in paper.load_table(table) if row.block == block]
            assert rows[-1].own and rows[-1].model == block
            assert {row.model for row in rows if row.own} == {block}
    for table in (1, 2, 3):
        for row in paper.load_table(table):
            assert (row.block, row.own) == ('', row.model.startswith('MAFormer'))


def test_numbers_of_the_text():
    """Numbers that the paper's sentences repeat; the audit compares the differences they state."""
    for table, metric, printed in (
        (1, 'top1', {'S': '83.7'}),
        (4, 'top1', {'L': '85.9'}),
        (4, 'flops_g', {'L': '22.6'}),
        (5, 'box_ap', {'S': '47.0', 'B': '49.6', 'L': '50.7'}),
        (6, 'box_ap', {'S': '52.6', 'B': '54.4', 'L': '54.7'}),
        (7, 'sem_fpn_miou', {'S': '47.9', 'B': '49.8'}),
        (7, 'upernet_miou', {'B': '51.1'}),
    ):
        rows = {row.model: row.cells[metric] for row in paper.load_table(table)}
        assert {size: rows[f'MAFormer-{size}'].text for size in printed} == printed


def test_what_is_not_printed_is_empty_and_odd_digits_stay():
    tables = {n: {row.model: row.cells for row in paper.load_table(n)} for n in (4, 5, 7)}
    assert tables[7]['Res101']['upernet_miou'] is None
    assert tables[7]['Res101']['upernet_ms_miou'].text == '44.9'
    assert tables[5]['ViL-S']['mask_ap'].text == '41.'
    assert tables[4]['Shuffle-B']['top1'].text == '84'


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
            of_row = [system for system in systems if system.stands_for(row)]
            filled = {column.name for s in of_row for column in s.columns(table)}
            assert {c for c, value in row.cells.items() if value} <= filled, (table, row.model)
            if row.model == 'MAFormer-S':  # both depths
                assert sum('3383' in system.name for system in of_row) * 2 == len(of_row)


def test_systems_are_defined_once_and_name_rows_uniquely():
    systems = load_systems()
    assert len({system.name for system in systems}) == len(systems)
    for system in systems:
        assert sum(way is not None for way in (system.model, system.config, system.cited)) == 1
        assert system.config is None or system.flops is not None
        assert not system.protocol or system.weights
        for selector in system.rows:
            named = system.model_copy(update={'rows': [selector]})
            rows = paper.load_table(selector['table'])
            assert sum(named.stands_for(row) for row in rows) == 1, (system.name, selector)


@pytest.mark.parametrize(
    ('file', 'before', 'after', 'message'),
    [
        ('table1.csv', '3-5-8-3,23,4.5,83.7', '3,23,4.5', 'table1.csv, line 2'),
        ('table1.csv', '83.7', 'nan', 'line 2: top1'),
    ],
)
def test_damaged_files_are_refused_by_place(folder, file, before, after, message):
    path = folder / file
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(UserError, match=message):
        paper.load_table(1, folder)
