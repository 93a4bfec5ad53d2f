"""The LaTeX tables, compiled as they are written."""

import re
import subprocess
from pathlib import Path

import pytest

from reproduce.judge import cells

RESULTS = Path(__file__).parents[2] / 'results'


def compiled(folder):
    """The text of the compiled `tables.tex`, page by page, and pdflatex's log."""
    command = ['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 'tables.tex']
    for _ in range(2):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
    text = subprocess.run(
        ['pdftotext', '-layout', 'tables.pdf', '-'], cwd=folder, capture_output=True, check=True
    )
    return text.stdout.decode(), (folder / 'tables.log').read_text(errors='replace')


@pytest.mark.parametrize('show', ['measured', 'printed', 'both'])
def test_all_tables_compile(run, tmp_path, show):
    options = ('--show', show, '--results', RESULTS, '--output', tmp_path)
    assert run('tables', *options)[0] == 0
    text, log = compiled(tmp_path)
    assert not re.search(r'Overfull|undefined|multiply defined|siunitx Error', log)
    assert [int(n) for n in re.findall(r'Table (\d):', text)] == list(range(1, 8))
    for cell in cells.load_results(RESULTS):
        if cell.measured is not None and show != 'printed':
            assert f'{cell.measured:.1f}' in text
        elif cell.paper:
            assert cell.paper in text


def test_a_row_with_every_special_character_compiles(run, tmp_path):
    name = r'A&B_c 100% #1 ${x}^2~ \alpha'
    path = tmp_path / 'mine.csv'
    path.write_text(f'model,block,params_m,top1\n"{name}",MAFormer-B,40.5,86.1\n')
    options = ('--format', 'latex', '--results', RESULTS, '--output', tmp_path)
    assert run('tables', 4, '--add', path, *options)[0] == 0
    text, _ = compiled(tmp_path)
    (line,) = [line for line in text.splitlines() if 'A&B' in line]
    for part in ('100% #1 ${x}', '\\alpha', '40.5', '86.1'):
        assert part in line
