"""Files that are replaced whole or not at all, and what a killed process leaves of them."""

import os
import subprocess
import sys

import pytest

from reproduce.base.errors import UserError
from reproduce.base.files import write_atomically


def test_a_killed_process_leaves_the_earlier_file_whole(tmp_path):
    (tmp_path / 'kept.json').write_text('before')
    code = """
import os, signal
from pathlib import Path
from reproduce.base import files

os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(Path('kept.json'), 'half')
"""
    assert subprocess.run([sys.executable, '-c', code], cwd=tmp_path).returncode == -9
    assert (tmp_path / 'kept.json').read_text() == 'before'


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / 'kept.json').write_text('before')

    def full(*paths):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(UserError, match=r'kept\.json: No space left'):
        write_atomically(tmp_path / 'kept.json', 'half')
    assert [path.name for path in tmp_path.iterdir()] == ['kept.json']
    assert (tmp_path / 'kept.json').read_text() == 'before'
