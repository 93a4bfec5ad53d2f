"""A paper that is a folder of data: chosen by `--paper`, measured and shown without code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.base.folders import COUNTS, PAPER_VARIABLE
from reproduce.base.versions import CHECKOUT

FILES = {
    'paper.toml': """
        title = "Tiny"
        address = "https://example.org/tiny"
        own = ["Swin-T"]
        [table.1]
        title = "Two networks, ImageNet-1K"
        descriptions = ["model"]
        metrics.classifier = ["params_m", "flops_g", "top1"]
    """,
    'table1.csv': 'model,params_m,flops_g,top1\nResNet-18,11.7,1.8,69.8\nSwin-T,28,4.5,81.3\n',
    'systems.toml': """
        [[system]]
        name = "resnet18"
        model = "resnet18"
        rows = [{ table = 1, model = "ResNet-18" }]
        [[system]]
        name = "swin_tiny_patch4_window7_224"
        rows = [{ table = 1, model = "Swin-T" }]
    """,
    'claims.csv': 'place,says,printed,relation,table,row,metric,rival,note,finding\n'
    '1,over ResNet-18,12.5,over,1,Swin-T,top1,ResNet-18,,\n',
}


@pytest.fixture
def reproduce(tmp_path):
    """Run the command in a folder of its own: (exit status, standard output, standard error)."""

    def run(*arguments, **variables):
        done = subprocess.run(
            [sys.executable, '-m', 'reproduce', *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {'PYTHONPATH': str(CHECKOUT)} | variables,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def paper(tmp_path):
    folder = tmp_path / 'tiny'
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.slow
def test_a_folder_outside_of_the_project_is_a_paper(reproduce, paper, tmp_path):
    code, out, _ = reproduce('--paper', './tiny', 'table')
    assert code == 0 and 'Table 1. Two networks, ImageNet-1K' in out
    assert '6 printed numbers: 4 match, 2 not-run' in ' '.join(out.split())
    assert (tmp_path / 'results/tiny/table1.csv').is_file()
    assert not list(tmp_path.glob('results/table*.csv'))
    code, out, _ = reproduce('show', 'Swin-T', 'top1', **{PAPER_VARIABLE: str(paper)})
    assert code == 0 and f'--paper {paper} table 1 --models swin_tiny' in out
    code, out, _ = reproduce('--paper', paper, 'audit', '--format', 'json')
    assert [finding['title'] for finding in json.loads(out)['findings']] == [
        'Statements that the tables contradict'
    ]
    code, out, _ = reproduce('--paper', paper, 'tables', '--format', 'latex')
    assert code == 0 and r'\label{tab:tiny-1}' in out
    code, out, _ = reproduce('--paper', paper, 'report')
    page = Path(tmp_path, 'results/tiny/report.html').read_text()
    assert code == 0 and 'Tiny: do the paper’s numbers hold?' in page and 'MAFormer' not in page


@pytest.mark.parametrize(
    ('name', 'old', 'new', 'sentence'),
    [
        ('systems.toml', 'model = "resnet18"', 'modle = "resnet18"', 'systems.toml: '),
        ('paper.toml', 'own =', 'owm =', 'paper.toml: '),
        ('table1.csv', '69.8', '69,8', 'table1.csv, line 2: '),
    ],
)
def test_damaged_files_of_a_paper(reproduce, paper, name, old, new, sentence):
    path = paper / name
    path.write_text(path.read_text().replace(old, new))
    code, _, err = reproduce('--paper', paper, 'plan')
    assert code == 2 and sentence in err and len(err.splitlines()) == 1


def test_an_unknown_paper(reproduce):
    code, _, err = reproduce('plan', '--paper', 'swim')
    assert code == 2
    assert err.startswith("error: no paper is called 'swim': name maformer")


def test_swin_transformer_is_read_and_measured(reproduce, tmp_path):
    """The committed tables are what the command writes, and the page has all of them."""
    (tmp_path / 'results').mkdir()
    shutil.copy(CHECKOUT / COUNTS, tmp_path / COUNTS)
    code, out, _ = reproduce('--paper', 'swin', 'table')
    assert code == 0 and '119 printed numbers: 50 match, 2 known, 56 not-run, 11 cited' in out
    for path in (CHECKOUT / 'results/swin').glob('table*.csv'):
        assert (tmp_path / 'results/swin' / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / COUNTS).read_bytes() == (CHECKOUT / COUNTS).read_bytes()
    code, out, _ = reproduce('--paper', 'swin', 'audit', '--details')
    assert code == 0 and 'Top-1 of Swin-B: 83.3 in the text, 83.5 by Table 1' in out
    code, _, _ = reproduce('--paper', 'swin', 'tables', '--output', 'tables')
    assert code == 0 and r'\bfseries 84.5' in (tmp_path / 'tables/table1.tex').read_text()
    code, _, _ = reproduce('--paper', 'swin', 'report')
    page = (tmp_path / 'results/swin/report.html').read_text()
    assert code == 0 and 'Swin Transformer: do' in page and 'MAFormer' not in page
    code, out, _ = reproduce('--paper', 'swin', 'figures', '--output', 'figures')
    assert code == 0 and 'Written: 3 figures' in out
