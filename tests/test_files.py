"""Files that are replaced whole or not at all, and what a killed process leaves of them."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from reproduce.base import files
from reproduce.base.errors import UserError
from reproduce.base.files import check_writable, read_toml, write_atomically

# Writes until it is killed, and says when it has begun.
WRITER = """
import os, sys, time
from pathlib import Path
from reproduce.base import files

os.replace = lambda *paths: (print('begun', flush=True), time.sleep(60))
files.write_atomically(Path('kept.json'), b'half')
"""


def begin_to_write(folder):
    process = subprocess.Popen(
        [sys.executable, '-c', WRITER],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': os.getcwd()},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == 'begun\n'
    return process


def unfinished(folder):
    return [path for path in folder.iterdir() if path.name.startswith('.kept.json.')]


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_left_is_removed_by_a_later_run(tmp_path, number):
    (tmp_path / 'kept.json').write_text('before')
    process = begin_to_write(tmp_path)
    check_writable(tmp_path)
    assert len(unfinished(tmp_path)) == 1  # a living process is writing it
    process.send_signal(number)
    process.wait()
    assert len(unfinished(tmp_path)) == 1
    check_writable(tmp_path)
    assert not unfinished(tmp_path)
    assert (tmp_path / 'kept.json').read_text() == 'before'


def test_writing_into_a_folder_removes_it_too(tmp_path):
    process = begin_to_write(tmp_path)
    process.kill()
    process.wait()
    write_atomically(tmp_path / 'other.json', 'whole')
    assert [path.name for path in tmp_path.iterdir()] == ['other.json']


def test_removing_and_writing_at_once_lose_nothing(tmp_path):
    end = time.monotonic() + 1

    def write(number):
        count = 0
        while time.monotonic() < end:
            write_atomically(tmp_path / f'{number}.txt', f'{count}')
            count += 1
        return count

    def remove(_):
        while time.monotonic() < end:
            files.remove_unfinished(tmp_path)

    with ThreadPoolExecutor(4) as pool:
        removing = [pool.submit(remove, i) for i in range(2)]
        counts = list(pool.map(write, range(2)))
        for future in removing:
            future.result()
    for number, count in enumerate(counts):
        assert (tmp_path / f'{number}.txt').read_text() == f'{count - 1}'


def test_a_toml_file_that_is_not_there_is_one_sentence(tmp_path):
    path = tmp_path / 'none.toml'
    message = f'{path} cannot be read (No such file or directory): name a TOML file.'
    with pytest.raises(UserError, match=f'^{re.escape(message)}$'):
        read_toml(path, dict)


def test_deeply_nested_toml_is_one_sentence(tmp_path):
    path = tmp_path / 'deep.toml'
    path.write_text('a = ' + '[' * 100_000 + ']' * 100_000)
    with pytest.raises(UserError, match=r'deep\.toml cannot be read as TOML: it is nested too'):
        read_toml(path, dict)
