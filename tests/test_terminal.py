"""What commands print: whole on every terminal, plain in a pipe, coloured where colours are."""

import io
import re
from collections import Counter
from pathlib import Path

import pytest

from reproduce.audit import text as audit_text
from reproduce.audit.findings import audit
from reproduce.base.terminal import TextTable, as_text
from reproduce.base.wording import by_number, shortened
from reproduce.judge.cells import load_results
from reproduce.report import listing

RESULTS = Path(__file__).parents[1] / 'results'


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope='module')
def judged():
    """The cells of Tables 2, 5 and 7 as they are committed."""
    return load_results(RESULTS, (2, 5, 7))


@pytest.fixture(scope='module')
def printed(judged):
    return {
        'cells': listing.render(judged),
        'audit': audit_text.render(*audit(RESULTS), details=True),
    }


@pytest.mark.parametrize('what', ['cells', 'audit'])
def test_what_is_printed_fits_the_terminal(printed, what):
    """Nothing is cut: every character of the text that is not wrapped is there."""
    whole = Counter(as_text(*printed[what]))
    for width in (80, 240):
        text = as_text(*printed[what], width=width)
        assert {c: n for c, n in (whole - Counter(text)).items() if c not in ' ─='} == {}
    assert max(map(len, text.splitlines())) <= 240


def test_numbers_are_not_wrapped_on_a_narrow_terminal(judged):
    text = as_text(*listing.render(judged), width=80)
    assert all(f'{cell.measured:.4g}' in text for cell in judged if cell.measured is not None)


def test_a_pipe_gets_whole_lines_without_codes():
    sentence = '[x] a sentence that is longer than any terminal ' * 9
    path, word = 'a/very/long/path/' * 9, '[red]a[/red] :smile:'
    text = as_text(sentence, TextTable(['one', 'two'], [[word, path]]), stream=io.StringIO())
    assert len(text.splitlines()) == 5
    assert all(whole in text for whole in (sentence.strip(), path, word))
    assert '\x1b' not in text


def test_colours_are_for_terminals_that_want_them(judged, monkeypatch):
    for name in ('NO_COLOR', 'COLUMNS'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('TERM', 'xterm-256color')
    parts = listing.render(judged)
    coloured = as_text(*parts, width=120, stream=Terminal())
    assert '\x1b[32m✓' in coloured
    plain = [line.rstrip() for line in re.sub(r'\x1b\[[0-9;]*m', '', coloured).splitlines()]
    assert plain == as_text(*parts, width=120).splitlines()
    monkeypatch.setenv('NO_COLOR', '1')
    assert '\x1b[32m' not in as_text(*parts, width=120, stream=Terminal())


def test_marks_differ_in_ascii(judged, run, monkeypatch):
    """Those of verdicts, and those of tables in Markdown."""
    out = io.TextIOWrapper(io.BytesIO(), 'ascii')
    monkeypatch.setattr('sys.stdout', out)
    run('tables', '--results', RESULTS)
    print(as_text(*listing.render(judged)))
    out.flush()
    text = out.buffer.getvalue().decode('ascii')
    assert 'v match  ^ better  x worse  ~ known' in text
    assert '* measured, within' in text and '!= measured, outside' in text
    assert '?' not in text


def test_a_full_disk_is_one_sentence(run, monkeypatch):
    with open('/dev/full', 'w') as full:
        monkeypatch.setattr('sys.stdout', full)
        code, _, err = run('checkpoints', '--format', 'json')
    assert (code, err) == (2, 'error: the output cannot be written: No space left on device.\n')


def test_rows_of_one_name_are_told_apart(judged):
    text = as_text(*listing.render([cell for cell in judged if cell.table == 2]))
    rows = text.split('\n\n')[1].splitlines()[2:]
    names = [row.partition('   ')[0] for row in rows]
    assert len(names) == len(set(names)) == 8
    assert 'MAFormer-S: Cross-shaped, Convolution' in names
    assert 'MAFormer-S (3-3-8-3): Cross-shaped, Convolution' in names
    assert 'T2 MAFormer-S: Cross-shaped, Convolution' in text  # among the deviations


def test_a_list_is_cut_short():
    assert shortened(['a', 'b'], 2) == 'a, b'
    assert shortened(range(2001), 1) == '0 and 2,000 more'
    assert [by_number(range(n), 'is', 'are') for n in range(3)] == ['are', 'is', 'are']
