"""Kept parameters and FLOPs: taken while nothing that decides them has changed, and never after."""

import shutil
from pathlib import Path

import pytest

from reproduce import counts
from reproduce.complexity import measure_system
from reproduce.counts import Complexity, count_key
from reproduce.folders import COUNTS
from reproduce.systems import System, load_systems
from reproduce.versions import CHECKOUT, sources_sha256

SYSTEMS = {system.name: system for system in load_systems()}
SMALL = SYSTEMS['maformer_small']


@pytest.fixture
def in_processes(monkeypatch):
    """The names of the systems that are counted anew."""
    counted = []

    def watched(systems, true=counts._count_in_processes):
        counted.extend(system.name for system in systems)
        return true(systems)

    monkeypatch.setattr(counts, '_count_in_processes', watched)
    return counted


def test_counts_are_kept_and_taken_again(tmp_path, in_processes):
    path = tmp_path / 'counts.csv'
    first = counts.count([SMALL], path)
    assert in_processes == ['maformer_small']
    assert first == {'maformer_small': measure_system(SMALL)}
    before = path.read_bytes()
    assert counts.count([SMALL], path) == first
    assert in_processes == ['maformer_small']
    assert path.read_bytes() == before


def test_those_of_other_systems_stay(tmp_path, in_processes):
    path = tmp_path / 'counts.csv'
    counts.count([SMALL], path)
    other = SYSTEMS['maformer_base_token_labeling']
    counts.count([other], path)
    assert set(counts.count([SMALL, other], path)) == {'maformer_small', other.name}
    assert in_processes == ['maformer_small', other.name]


def test_a_kept_count_of_another_key_is_not_taken(tmp_path, in_processes):
    path = tmp_path / 'counts.csv'
    true = counts.count([SMALL], path)
    path.write_text(path.read_text().replace(count_key(SMALL), '0' * 16))
    assert counts.count([SMALL], path) == true
    assert in_processes == ['maformer_small'] * 2
    assert '0' * 16 not in path.read_text()


def test_the_key_changes_with_one_line_of_a_model(tmp_path):
    for folder in ('model', 'operators', 'reproduce'):
        shutil.copytree(
            CHECKOUT / folder, tmp_path / folder, ignore=shutil.ignore_patterns('__pycache__')
        )
    before = count_key(SMALL, tmp_path)
    assert before == count_key(SMALL)
    path = tmp_path / 'model' / 'maformer.py'
    path.write_text(path.read_text() + '# changed\n')
    sources_sha256.cache_clear()  # another run would read it again
    assert count_key(SMALL, tmp_path) != before


@pytest.mark.parametrize(
    'change',
    [{'model': 'maformer_base'}, {'arguments': {'num_classes': 10}}, {'input_size': 256}],
)
def test_the_key_changes_with_the_definition(change):
    assert count_key(SMALL.model_copy(update=change)) != count_key(SMALL)


def test_the_key_changes_with_a_library(monkeypatch):
    before = count_key(SMALL)
    installed = counts.libraries()
    monkeypatch.setattr(counts, 'libraries', lambda: {**installed, 'timm': '0.0.0'})
    assert count_key(SMALL) != before


def test_a_system_that_fails_is_its_own_affair_and_is_not_kept(tmp_path):
    path = tmp_path / 'counts.csv'
    wrong = System(name='wrong', rows=[], model='maformer_small', arguments={'blocks': 7})
    outcome = counts.count([wrong, SMALL], path)
    assert isinstance(outcome['maformer_small'], Complexity)
    assert outcome['wrong'].startswith('TypeError: ')
    assert 'wrong' not in path.read_text()


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    outcome = counts.count([SMALL], tmp_path / 'file' / 'counts.csv')
    assert isinstance(outcome['maformer_small'], Complexity)
    assert 'the counts are not kept' in capsys.readouterr().err


@pytest.mark.parametrize(
    'name', ['maformer_large_token_labeling', 'mask-rcnn_maformer-base_fpn_1x_coco']
)
def test_the_counts_of_the_project_are_those_of_its_code(name, in_processes, tmp_path):
    """Whoever clones it has a first run without counting, if the versions are the same."""
    copy = shutil.copy(CHECKOUT / COUNTS, tmp_path)
    kept = counts.count([SYSTEMS[name]], Path(copy))
    if in_processes:
        pytest.skip('the kept counts are of other code or libraries')
    assert kept[name] == measure_system(SYSTEMS[name])
