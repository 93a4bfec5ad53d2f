"""The command as a user meets it: exit codes, files, JSON, and one line for each mistake."""

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from reproduce.complexity import counts

ROOT = Path(__file__).parents[1]
COMMAND = ROOT / '.venv/bin/reproduce'
COLUMNS = (
    *('table', 'model', 'system', 'metric', 'convention', 'paper', 'reference', 'measured'),
    *('difference', 'tolerance', 'verdict', 'reference_verdict', 'reason'),
)


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
    assert not Path('results').exists()
    cells = result['tables']['3']
    assert {cell['model'] for cell in cells} == {'MAFormer-S'}
    assert len(cells) == 8  # of each number, the two depths
    assert sum(result['summary'].values()) == 4


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


def test_a_shell_completes_commands_and_options(run, monkeypatch):
    monkeypatch.setenv('_REPRODUCE_COMPLETE', 'complete_bash')
    for words, completed in (('reproduce ev', 'evaluate'), ('reproduce flops --by', '--by-stage')):
        monkeypatch.setenv('COMP_WORDS', words)
        monkeypatch.setenv('COMP_CWORD', str(words.count(' ')))
        assert run()[1].split() == [completed]


WHERE = ('--checkpoint', 'x', '--data', 'x')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('table', '4', '--models', 'swin-t '), "is called 'swin-t'."),
        (('table', '8'), 'no Table 8'),
        (('evaluate', 'imagenet', 'x', *WHERE), 'x does not exist: expected the folder of'),
    ],
)
def test_mistakes_are_one_line_each(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert message in err


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, "results/released is '"),
        (b'{"task"', 'own.json: Invalid JSON'),
        (b'{}', 'own.json: task: Field required.'),
    ],
)
def test_a_malformed_file_is_named_in_one_line(run, content, message):
    if content is not None:
        Path('own.json').write_bytes(content)
    code, out, err = run('verify', 'own.json')
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert message in err


@pytest.mark.parametrize(
    ('cause', 'sentence'),
    [
        (lambda: Path('absent.txt').read_text(), 'error: absent.txt: No such file or directory.\n'),
        (lambda: json.loads('{'), 'error: Expecting property name'),
        (lambda: b'\xff'.decode(), "error: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_an_error_of_a_file_has_no_traceback(run, monkeypatch, cause, sentence):
    monkeypatch.setattr(counts, 'count', lambda _: cause())
    code, out, err = run('table', 4)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert err.startswith(sentence)


def test_an_error_of_the_program_keeps_its_traceback(run, monkeypatch):
    monkeypatch.setattr(counts, 'count', lambda _: {}['absent'])
    with pytest.raises(KeyError):
        run('table', 4)


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


@pytest.mark.parametrize(
    ('target', 'words'),
    [
        ('reproduce', ['table', '5', '--data', '/a b', '--checkpoints', "/it's"]),
        ('ablation', ['ablation', 'my study.toml', '--data', '/a b']),
    ],
)
def test_make_takes_paths_with_spaces(target, words):
    """What make would run, read as the shell reads it; the set-up counts as done."""
    command = ['make', '-n', '-o', '.venv/.ready', target, 'TABLE=5', 'GPUS=8']
    command += ['DATA=/a b', "CHECKPOINTS=/it's", 'STUDY=my study.toml']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spoken = shlex.split(done.stdout.replace('\\\n', ' '))
    start = spoken.index('reproduce') + 1
    assert spoken[start : start + len(words)] == words


@pytest.mark.skipif(not COMMAND.exists(), reason='`make setup` writes the command')
def test_the_command_runs_in_any_folder(tmp_path):
    (tmp_path / 'model').mkdir()  # names that the project has as well
    (tmp_path / 'datasets.py').write_text('raise ImportError')
    done = subprocess.run(
        [COMMAND, 'plan', '4', '--format', 'json'], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert json.loads(done.stdout)
