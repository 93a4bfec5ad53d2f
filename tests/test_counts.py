"""Parameters and FLOPs, kept while nothing changes them."""

import os
import shutil
import signal
from dataclasses import fields
from pathlib import Path

import pytest

from reproduce.base.errors import UserError
from reproduce.base.folders import COUNTS
from reproduce.base.versions import CHECKOUT, sources_sha256
from reproduce.complexity import Complexity, counts
from reproduce.complexity.counts import key
from reproduce.complexity.measuring import measure_system
from reproduce.systems import load_systems

SYSTEMS = {system.name: system for system in load_systems()}
SMALL = SYSTEMS['maformer_small']


@pytest.fixture
def counted(monkeypatch):
    """The names of the systems that are counted; each is made up."""
    names = []

    def in_processes(_, arguments, *__):
        names.extend(arguments)
        ones = {field.name: 1 for field in fields(Complexity)}
        return dict.fromkeys(arguments, ones)

    monkeypatch.setattr(counts, 'in_processes', in_processes)
    return names


def test_only_what_changed_is_counted_again(tmp_path, counted, monkeypatch):
    path, other = tmp_path / 'counts.csv', SYSTEMS['maformer_small_3383']
    first = counts.count([SMALL], path)
    assert counts.count([SMALL, other], path)['maformer_small'] == first['maformer_small']
    counts.count([SMALL.model_copy(update={'input_size': 256}), other], path)
    assert counted == ['maformer_small', 'maformer_small_3383', 'maformer_small']
    installed = counts.libraries()
    monkeypatch.setattr(counts, 'libraries', lambda: {**installed, 'timm': '0.0.0'})
    counts.count([other], path)
    assert counted[3:] == ['maformer_small_3383']


def test_one_line_of_a_model_changes_the_key(tmp_path):
    for folder in ('model', 'operators', 'reproduce'):
        ignored = shutil.ignore_patterns('__pycache__', 'build')
        shutil.copytree(CHECKOUT / folder, tmp_path / folder, ignore=ignored)
    before = key(SMALL, tmp_path)
    assert before == key(SMALL)
    copy = tmp_path / 'operators' / 'build' / 'lib' / 'mmcv' / '_ext.py'  # as pip leaves it
    copy.parent.mkdir(parents=True)
    copy.write_text('# a copy\n')
    sources_sha256.cache_clear()
    assert key(SMALL, tmp_path) == before
    path = tmp_path / 'model' / 'maformer.py'
    path.write_text(path.read_text() + '# changed\n')
    sources_sha256.cache_clear()  # another run would read it again
    assert key(SMALL, tmp_path) != before


DETECTOR = 'mask-rcnn_maformer-base_fpn_1x_coco'


@pytest.mark.parametrize(
    'name', ['maformer_small_token_labeling', pytest.param(DETECTOR, marks=pytest.mark.slow)]
)
def test_the_counts_of_the_project_are_those_of_its_code(name, tmp_path, capsys):
    """A first run in a fresh clone counts nothing, if the versions are the same."""
    copy = shutil.copy(CHECKOUT / COUNTS, tmp_path)
    counted = counts.count([SYSTEMS[name]], Path(copy))
    if capsys.readouterr().err:
        pytest.skip('the kept counts are of other code or libraries')
    assert counted == {name: measure_system(SYSTEMS[name])}


def computed(what):
    if what == 'refused':
        raise UserError('it is missing: give one.')
    if what == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
    return {'params': what}


@pytest.mark.slow
def test_systems_are_counted_in_processes(capsys):
    wanted = {'a': SMALL.model_copy(update={'model': 'none'}), 'b': SMALL}
    assert counts.in_processes(computed, {'one': 1, 'two': 2})['two'] == {'params': 2}
    assert 'counted 2/2' in capsys.readouterr().err
    found = counts.in_processes(counts._count, wanted)
    assert (found['a'], found['b']['params'] > 0) == ('RuntimeError: Unknown model (none)', True)
    for what, message in (('refused', 'it is missing'), ('killed', '^a worker process was killed')):
        with pytest.raises(UserError, match=message):
            counts.in_processes(computed, {'a': 1, 'b': what})
