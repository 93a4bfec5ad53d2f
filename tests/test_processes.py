"""Processes that a scheduler starts."""

import os
import subprocess
import sys

import pytest
import torch

from reproduce.distributed import in_group, join

WORK = """
import torch
from reproduce.distributed import in_group, join

assert in_group()
with join('cpu') as group:
    everything = group.gather([group.rank])
    print(group.rank, group.size, int(group.add(torch.tensor(group.rank + 1))), everything)
"""


def test_srun_starts_a_group():
    job = os.getpid()
    told = {
        'SLURM_JOB_ID': str(job),
        'SLURM_STEP_NUM_TASKS': '3',
        'SLURM_STEP_NODELIST': 'localhost',
        'SLURM_STEP_TASKS_PER_NODE': '3',
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, '-c', WORK],
            env={**os.environ, **told, 'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(3)
    ]
    printed = [task.communicate(timeout=60)[0].strip() for task in tasks]
    assert printed == ['0 3 6 [0, 1, 2]', '1 3 6 None', '2 3 6 None']


@pytest.mark.parametrize(
    ('nodes', 'first'),
    [
        ('node7', 'node7'),
        ('node[03-05,08]', 'node03'),
        ('gpu-a12,gpu-b3', 'gpu-a12'),
        ('rack1-node[12,14]', 'rack1-node12'),
    ],
)
def test_the_first_node_of_a_list(monkeypatch, nodes, first):
    from reproduce import distributed

    for name, value in {
        'SLURM_JOB_ID': '1234567',
        'SLURM_STEP_NUM_TASKS': '16',
        'SLURM_STEP_NODELIST': nodes,
        'SLURM_STEP_TASKS_PER_NODE': '8(x2)',
        'SLURM_PROCID': '9',
        'SLURM_LOCALID': '1',
    }.items():
        monkeypatch.setenv(name, value)
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR'):
        monkeypatch.setenv(name, '')  # so that they are restored
        monkeypatch.delenv(name)
    monkeypatch.setenv('MASTER_PORT', '29500')  # one's own choice stays
    distributed._as_torchrun()
    assert os.environ['MASTER_ADDR'] == first
    assert (os.environ['RANK'], os.environ['WORLD_SIZE']) == ('9', '16')
    assert (os.environ['LOCAL_RANK'], os.environ['LOCAL_WORLD_SIZE']) == ('1', '8')
    assert os.environ['MASTER_PORT'] == '29500'


def test_one_task_under_srun_is_no_group(monkeypatch):
    monkeypatch.setenv('SLURM_PROCID', '0')
    monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '1')
    assert not in_group()
    with join('cpu') as group:
        assert (group.rank, group.size) == (0, 1)
        assert group.gather(['mine']) == ['mine']
        assert group.add(torch.ones(())) == 1


def test_what_evaluates_several_models_is_started_alone(run, monkeypatch):
    monkeypatch.setenv('SLURM_PROCID', '0')
    monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '2')
    for command in (('regress',), ('table', 4, '--data', '.')):
        code, out, err = run(*command)
        assert (code, out) == (2, '')
        assert 'evaluate one model at a time' in err
