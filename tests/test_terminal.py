"""What commands print: whole on every terminal, plain in a pipe, coloured where colours are."""

import io
from collections import Counter
from pathlib import Path

import pytest

from reproduce.base.progress import Progress
from reproduce.base.terminal import TextTable, show
from reproduce.judge.cells import load_results
from reproduce.report import listing

RESULTS = Path(__file__).parents[1] / 'results'


@pytest.fixture(scope='module')
def judged():
    """The cells of Tables 2, 5 and 7 as they are committed."""
    return load_results(RESULTS, (2, 5, 7))


def test_what_is_printed_fits_the_terminal(judged, monkeypatch, capsys):
    """Nothing is cut: every character of the text that is not wrapped is there."""
    parts = listing.render(judged)
    show(*parts)
    whole = Counter(capsys.readouterr().out)
    for width in ('80', '240'):
        monkeypatch.setenv('COLUMNS', width)
        show(*parts)
        text = capsys.readouterr().out
        assert {c: n for c, n in (whole - Counter(text)).items() if c not in ' ─='} == {}
        assert all(f'{c.measured:.4g}' in text for c in judged if c.measured is not None)
    assert max(map(len, text.splitlines())) <= 240


def test_a_pipe_gets_whole_lines_without_codes(capsys):
    sentence = '[x] a sentence that is longer than any terminal ' * 9
    path, word = 'a/very/long/path/' * 9, '[red]a[/red] :smile:'
    show(sentence, TextTable(['one', 'two'], [[word, path]]))
    text = capsys.readouterr().out
    assert len(text.splitlines()) == 5
    assert all(whole in text for whole in (sentence.strip(), path, word))
    assert '\x1b' not in text


def test_a_full_disk_is_one_sentence(run, monkeypatch):
    with open('/dev/full', 'w') as full:
        monkeypatch.setattr('sys.stdout', full)
        code, _, err = run('checkpoints', '--format', 'json')
    assert (code, err) == (2, 'error: the output cannot be written: No space left on device.\n')


def test_a_log_gets_a_line_a_minute_and_a_terminal_a_bar(monkeypatch):
    now, log, terminal = [0.0], io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr('tqdm.std.time', lambda: now[0])
    for stream in (log, terminal):
        monkeypatch.setattr('sys.stderr', stream)
        with Progress(total=90, initial=10, unit='image') as bar:
            for _ in range(80):
                now[0] += 1
                bar.update()
    lines = log.getvalue().splitlines()
    assert len(lines) == 1 and '70/90' in lines[0] and '\r' not in log.getvalue()
    assert terminal.getvalue().count('\r') > 10 and '90/90' in terminal.getvalue()
