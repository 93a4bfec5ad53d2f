"""Batches of workers where shared memory is short, as in a Docker container."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from torch.utils.data import TensorDataset

from reproduce.base import shared_memory
from reproduce.base.data_loader import ErrorPreservingLoader
from reproduce.base.errors import UserError  # noqa: F401  (the other process takes it from here)

IMAGES = torch.arange(12 * 3 * 64 * 64, dtype=torch.int32).view(12, 3, 64, 64)
LABELS = torch.arange(12)


def read(kind):
    loader = kind(TensorDataset(IMAGES, LABELS), batch_size=4, num_workers=2)
    return list(loader)


def check(batches):
    assert torch.equal(torch.cat([images for images, _ in batches]), IMAGES)
    assert torch.equal(torch.cat([labels for _, labels in batches]), LABELS)


@pytest.mark.parametrize('free', [1 << 40, 200_000, 0])
def test_batches_are_the_same_however_they_travel(monkeypatch, free):
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(1 << 40, 0, free))
    batches = read(ErrorPreservingLoader)
    check(batches)
    # 196,608 bytes of a batch, and as many of another worker, need four times as much.
    assert {images.is_shared() for images, _ in batches} == {free > 800_000}
    assert {labels.is_shared() for _, labels in batches} == {free > 0}


def test_there_is_no_room_where_there_is_no_shared_memory(monkeypatch):
    assert shared_memory.has_room(1000)
    monkeypatch.setattr(shared_memory, 'PLACE', '/nowhere')
    assert not shared_memory.has_room(1000)


IN_A_CONTAINER = """
import sys
sys.path[:0] = ['tests', '.']
import test_shared_memory as t
try:
    t.check(t.read(t.ErrorPreservingLoader))
    print('read')
except t.UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ('size', 'said'),
    [
        ('256k', 'read'),  # of which a batch takes 192
        ('4k', '/dev/shm is full, so no data-loading worker starts: give it more (--shm-size'),
    ],
)
def test_a_small_shared_memory_is_no_hang(size, said):
    small = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    command = ['unshare', '--mount', 'sh', '-c', small, 'sh']
    if shutil.which('unshare') is None or subprocess.run([*command, 'true']).returncode:
        pytest.skip('mounting a small /dev/shm is not allowed here')
    done = subprocess.run(
        [*command, sys.executable, '-c', IN_A_CONTAINER],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.startswith(said), done.stderr[-2000:]
