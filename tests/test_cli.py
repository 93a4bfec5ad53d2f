"""The command as a user meets it: exit codes, files, JSON, and one line for each mistake."""

import json
import shlex
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from click import Context
from typer.main import get_command

from reproduce import cli, paper
from reproduce.complexity import counts
from reproduce.systems import selection

ROOT = Path(__file__).parents[1]
DEIT = 'deit_small_patch16_224'
MASK_RCNN = 'mask-rcnn_r50_fpn_1x_coco'
COLUMNS = (
    *('table', 'model', 'system', 'metric', 'convention', 'paper', 'reference', 'measured'),
    *('difference', 'tolerance', 'verdict', 'reference_verdict', 'reason'),
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_table_is_measured_judged_and_written(run):
    code, out, _ = run('table', 1)
    assert code == 0
    frame = pd.read_csv('results/table1.csv', dtype={'paper': str}, keep_default_na=False)
    assert tuple(frame.columns)[: len(COLUMNS)] == COLUMNS
    assert len(frame) == 4 * 3
    flops = frame[frame.metric == 'flops_g'].set_index('system')
    assert flops.verdict.to_dict() == {
        'maformer_small_token_labeling': 'known',
        'maformer_small_3383_token_labeling': 'match',
        'maformer_base_token_labeling': 'match',
        'maformer_large_token_labeling': 'match',
    }
    assert set(flops.convention) == {'total'}
    assert (flops.measured == flops.total_flops_g).all()
    assert (flops.layer_flops_g.astype(float) < flops.total_flops_g.astype(float)).all()
    assert 'Table 1: 9 printed numbers: 5 match, 1 known, 3 not-run (12 lines).' in out


def test_the_committed_results_are_what_the_command_writes(run):
    """Byte for byte, for the tables that take no OpenMMLab."""
    run('table', 2, 3, '--output', 'fresh')
    for number in (2, 3):
        name = f'table{number}.csv'
        assert Path('fresh', name).read_bytes() == (ROOT / 'results' / name).read_bytes()


def test_json_is_one_object_and_nothing_else(run):
    code, out, _ = run('table', 3, '--format', 'json', '--models', 'MAFormer-S')
    result = json.loads(out)
    assert code == result['exit_code'] == 0
    assert result['written'] == []
    assert not Path('results').exists()
    cells = result['tables']['3']
    assert {cell['model'] for cell in cells} == {'MAFormer-S'}
    assert len(cells) == 8  # of each number, the two depths
    assert sum(result['summary'].values()) == 4


def test_a_selection_goes_only_where_output_says(run):
    run('table', 4, '--models', 'Swin-T,deit_small_patch16_224', '--output', 'chosen')
    frame = pd.read_csv('chosen/table4.csv')
    assert set(frame.model) == {'Swin-T', 'DeiT-S'}


def tampered(monkeypatch, change):
    """Let `change` make of what was counted what it likes."""

    def count(systems, true=counts.count):
        return {name: change(name, complexity) for name, complexity in true(systems).items()}

    monkeypatch.setattr(counts, 'count', count)


def test_a_deviation_that_is_not_registered_fails(run, monkeypatch):
    tampered(monkeypatch, lambda _, c: replace(c, params=2 * c.params))
    code, out, _ = run('table', 1, '--models', 'MAFormer-B')
    assert code == 1
    assert '1 match, 1 worse, 1 not-run' in out


def test_a_registered_deviation_that_matches_is_an_error(run, monkeypatch):
    tampered(monkeypatch, lambda _, c: replace(c, total_flops=4_500_000_000))
    code, out, _ = run('table', 1, '--models', 'maformer_small_token_labeling')
    assert code == 2
    assert 'correct known.toml' in ' '.join(out.split())


def test_an_error_is_its_cells_own(run, monkeypatch):
    swin = 'swin_tiny_patch4_window7_224'
    tampered(monkeypatch, lambda name, c: 'RuntimeError: out of luck' if name == swin else c)
    code, out, _ = run('table', 4, '--models', 'Swin-T,DeiT-S')
    assert code == 2
    assert '2 match, 2 not-run, 2 error' in out
    assert 'RuntimeError: out of luck' in out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('table', '4', '--models', 'swin-t '), "'swin-t'; the nearest are Swin-T"),
        (('table', '4', '--models', 'maformer_smal'), 'maformer_small'),
        (('table', '8'), 'no Table 8'),
        (('table', '1', '--output', 'file/inside'), 'file/inside cannot hold results'),
    ],
)
def test_mistakes_are_one_line_each(run, arguments, message):
    Path('file').write_text('')
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ''
    assert message in err
    assert err.startswith('error: ')
    assert err.count('\n') == 1


def test_a_damaged_paper_file_is_one_line(run, monkeypatch, tmp_path):
    (tmp_path / 'table1.csv').write_text('model,params_m\nMAFormer-S,23\n')
    damaged = partial(paper.load_table, folder=tmp_path)
    monkeypatch.setattr(selection, 'load_table', damaged)
    code, out, err = run('table', 1)
    assert (code, out) == (2, '')
    assert 'table1.csv, line 1' in err
    assert err.count('\n') == 1


def test_an_interrupted_run_leaves_the_old_results_whole(run, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(counts, 'count', interrupted)
    Path('results').mkdir()
    Path('results/table4.csv').write_text('old\n')
    code, out, err = run('table', 4)
    assert (code, out) == (130, '')
    assert err == 'interrupted: earlier results are as they were\n'
    assert Path('results/table4.csv').read_text() == 'old\n'
    assert len(list(Path('results').iterdir())) == 1


def test_help_says_whole_sentences(run):
    for command in ([], ['evaluate'], ['score'], ['train']):
        code, out, _ = run(*command, '--help')
        assert code == 0
        assert '...' not in out.replace('[ARGS]...', '')


def test_help_says_of_each_command_what_the_command_says_itself():
    group = get_command(cli.app)
    for name, says in cli.COMMANDS.items():
        command = group.get_command(Context(group), name)
        assert ' '.join(command.help.split()).startswith(says)


def test_mixed_precision_is_one_option_everywhere(run):
    """`--amp` takes the same values in every command that has it."""
    commands = [(name,) for name in cli.COMMANDS if name not in ('evaluate', 'train')]
    commands += [('evaluate', name) for name in ('imagenet', 'coco', 'ade20k')]
    commands += [('train', name) for name in ('imagenet', 'config')]
    found = [run(*command, '--help')[1] for command in commands]
    with_amp = [text for text in found if '--amp' in text]
    assert len(with_amp) == 8
    assert all('--amp <fp16|bf16|off>' in text for text in with_amp)


@pytest.mark.parametrize(
    ('target', 'words'),
    [
        (
            'reproduce',
            ['table', '5', '--data', '/a b', '--checkpoints', "/it's", '--processes', '8'],
        ),
        ('reproduce-table4', ['table', '4', '--data', '/a b', '--checkpoints', "/it's"]),
        ('plan', ['plan', '5', '--data', '/a b', '--checkpoints', "/it's"]),
        ('ablation', ['ablation', 'my study.toml', '--data', '/a b']),
        ('checkpoints', ['checkpoints', '--checkpoints', "/it's", '--table', '5', '--download']),
    ],
)
def test_make_takes_paths_with_spaces(target, words):
    """What make would run, read as the shell reads it; the set-up counts as done."""
    constraints = 'requirements/my v100.txt'
    command = ['make', '-n', '-o', '.venv/.ready-my_v100.txt', target, 'TABLE=5', 'GPUS=8']
    command += ['DATA=/a b', "CHECKPOINTS=/it's", 'STUDY=my study.toml']
    command += [f'CONSTRAINTS={constraints}']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spoken = shlex.split(done.stdout.replace('\\\n', ' '))
    start = spoken.index('reproduce') + 1
    assert spoken[start : start + len(words)] == words
