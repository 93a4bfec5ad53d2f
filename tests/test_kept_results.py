"""Kept results: taken while nothing that decides them has changed, and never after."""

import shutil

import pytest

from reproduce.base.versions import CHECKOUT, sources_sha256
from reproduce.complexity import kept_results
from reproduce.complexity.counts import CODE
from reproduce.complexity.kept_results import KeptLine, code_key, kept_or_computed


class Square(KeptLine):
    square: int


class Squares:
    """Keeps squares in a file, and notes which of them it computes."""

    def __init__(self, path):
        self.path, self.computed = path, []

    def __call__(self, code='code', **numbers):
        def compute(names):
            self.computed += names
            return {n: {'square': numbers[n] ** 2} if numbers[n] else 'no zeros' for n in names}

        found = kept_or_computed(self.path, Square, code, numbers, compute)
        return {n: line if isinstance(line, str) else line.square for n, line in found.items()}


@pytest.fixture
def squares(tmp_path):
    return Squares(tmp_path / 'squares.csv')


def test_results_are_kept_and_taken_again(squares):
    assert squares(two=2) == {'two': 4}
    before = squares.path.read_bytes()
    assert squares(two=2) == {'two': 4}
    assert squares.computed == ['two']
    assert squares.path.read_bytes() == before


def test_other_results_of_the_same_code_stay(squares):
    squares(two=2)
    squares(three=3)
    assert squares(three=3, two=2) == {'three': 9, 'two': 4}
    assert squares.computed == ['two', 'three']


def test_other_inputs_are_computed_and_the_earlier_ones_stay(squares):
    squares(number=2)
    assert squares(number=3) == {'number': 9}
    assert squares(number=2) == {'number': 4}
    assert squares.computed == ['number', 'number']


def test_results_of_other_code_are_not_taken_and_go(squares):
    squares('before', two=2, three=3)
    squares('after', two=2)
    assert squares.computed == ['two', 'three', 'two']
    assert squares.path.read_text().count('\n') == 2
    squares('before', two=2)
    assert squares.computed == ['two', 'three', 'two', 'two']


@pytest.mark.parametrize('damage', ['', 'name\n', 'name,code,key,square\na,code,b,many\n', '\0'])
def test_a_damaged_file_is_made_again(squares, damage):
    squares.path.write_text(damage)
    assert squares(two=2) == squares(two=2) == {'two': 4}
    assert squares.computed == ['two']


def test_what_fails_is_not_kept(squares):
    assert squares(zero=0, two=2) == {'zero': 'no zeros', 'two': 4}
    squares(zero=0, two=2)
    assert squares.computed == ['zero', 'two', 'zero']


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    assert Squares(tmp_path / 'file' / 'squares.csv')(two=2) == {'two': 4}
    assert 'what was computed is not kept' in capsys.readouterr().err


def test_one_line_of_a_model_changes_the_code(tmp_path):
    for folder in ('model', 'operators', 'reproduce'):
        ignored = shutil.ignore_patterns('__pycache__', 'build')
        shutil.copytree(CHECKOUT / folder, tmp_path / folder, ignore=ignored)
    before = code_key(CODE, tmp_path)
    assert before == code_key(CODE)
    copy = tmp_path / 'operators' / 'build' / 'lib' / 'mmcv' / '_ext.py'  # as pip leaves it
    copy.parent.mkdir(parents=True)
    copy.write_text('# a copy\n')
    sources_sha256.cache_clear()
    assert code_key(CODE, tmp_path) == before
    path = tmp_path / 'model' / 'maformer.py'
    path.write_text(path.read_text() + '# changed\n')
    sources_sha256.cache_clear()  # another run would read it again
    assert code_key(CODE, tmp_path) != before


def test_a_library_changes_the_code(monkeypatch):
    before = code_key(CODE)
    installed = kept_results.libraries()
    monkeypatch.setattr(kept_results, 'libraries', lambda: {**installed, 'timm': '0.0.0'})
    assert code_key(CODE) != before
