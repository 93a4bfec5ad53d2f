"""Batches that worker processes read: their errors, their room in shared memory, their number."""

import os
from collections import namedtuple

import psutil
import pytest
import torch
from torch.utils.data import Dataset

from reproduce.base import loading
from reproduce.base.errors import DataNotFound
from reproduce.base.loading import Loader, default_workers


class Numbers(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 4:
            raise DataNotFound(f'cannot read the number {index}: restore it.')
        return torch.full((1000,), index)


@pytest.mark.parametrize('workers', [0, 2])
def test_an_error_keeps_its_type_and_sentence_and_workers_end(workers):
    read = []
    before = set(psutil.Process().children())  # of tests that ran before
    with pytest.raises(DataNotFound, match=r'^cannot read the number 4: restore it\.$'):
        for batch in Loader(Numbers(), batch_size=2, num_workers=workers):
            read += batch[:, 0].tolist()
    assert read == [0, 1, 2, 3]
    # Left to the garbage collector they take five seconds.
    workers = set(psutil.Process().children()) - before
    assert not psutil.wait_procs(workers, timeout=4)[1]


def test_a_small_shared_memory_is_refused_before_workers_hang(monkeypatch):
    usage = namedtuple('usage', 'total used free')
    # Two workers read two batches of 16,000 bytes and little more ahead.
    for free, refused in ((68_000, False), (63_000, True)):
        monkeypatch.setattr(loading.shutil, 'disk_usage', lambda _, f=free: usage(1 << 30, 0, f))
        batches = iter(Loader(Numbers(), batch_size=2, num_workers=2))
        if refused:
            with pytest.raises(loading.UserError, match=r'^/dev/shm is too small.*--shm-size'):
                next(batches)
        else:
            assert next(batches).shape == (2, 1000)


@pytest.mark.parametrize(
    ('slurm', 'own', 'of_parent', 'ranks', 'workers'),
    [
        (None, 16, 16, 8, 2),  # the ranks share the cores
        (None, 6, 48, 8, 6),  # each rank is bound to cores of its own
        ('64', 1, 1, 8, 8),
        ('4', 64, 64, 8, 1),
    ],
)
def test_the_number_of_workers_is_that_of_cores(monkeypatch, slurm, own, of_parent, ranks, workers):
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(ranks))
    monkeypatch.delenv('SLURM_CPUS_PER_TASK', raising=False)
    if slurm:
        monkeypatch.setenv('SLURM_CPUS_PER_TASK', slurm)
    cores = {0: set(range(own)), os.getppid(): set(range(of_parent))}
    monkeypatch.setattr(os, 'sched_getaffinity', cores.get)
    assert default_workers() == workers
