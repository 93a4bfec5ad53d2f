"""What several test files use."""

import sys

import pytest

from reproduce import cli


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command in a folder of its own: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['reproduce', *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run
