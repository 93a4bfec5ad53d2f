"""Parameters and FLOPs, kept or counted in other processes: those that `measure_system` counts."""

import shutil
from pathlib import Path

import pytest

from reproduce.base.folders import COUNTS
from reproduce.base.versions import CHECKOUT
from reproduce.complexity import counts
from reproduce.complexity.counts import Complexity, definition
from reproduce.complexity.flops import measure_system
from reproduce.systems import System, load_systems

SYSTEMS = {system.name: system for system in load_systems()}
SMALL = SYSTEMS['maformer_small']


def test_counted_in_other_processes_and_kept(tmp_path, capsys):
    """A system that fails is its own affair."""
    path = tmp_path / 'counts.csv'
    wrong = System(name='wrong', rows=[], model='maformer_small', arguments={'blocks': 7})
    outcome = counts.count([wrong, SMALL], path)
    assert outcome['maformer_small'] == measure_system(SMALL)
    assert outcome['wrong'].startswith('TypeError: ')
    assert 'counting parameters and FLOPs: 2/2' in capsys.readouterr().err
    assert counts.count([SMALL], path) == {'maformer_small': outcome['maformer_small']}
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    'change',
    [
        {'model': 'maformer_base'},
        {'arguments': {'num_classes': 10}},
        {'input_size': 256},
        {'model': None, 'config': 'mask-rcnn_maformer-small_fpn_1x_coco.py'},
    ],
)
def test_what_decides_the_counts_is_in_the_definition(change):
    assert definition(SMALL.model_copy(update=change)) != definition(SMALL)


@pytest.mark.parametrize(
    'name', ['maformer_large_token_labeling', 'mask-rcnn_maformer-base_fpn_1x_coco']
)
def test_the_counts_of_the_project_are_those_of_its_code(name, tmp_path, capsys):
    """Whoever clones it has a first run without counting, if the versions are the same."""
    copy = shutil.copy(CHECKOUT / COUNTS, tmp_path)
    counted = counts.count([SYSTEMS[name]], Path(copy))
    if capsys.readouterr().err:
        pytest.skip('the kept counts are of other code or libraries')
    assert counted == {name: measure_system(SYSTEMS[name])}
    assert isinstance(counted[name], Complexity)
