"""Several processes: started here or by a scheduler, and ended together by the failure of one."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
import timm
import torch
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.utils.data import Dataset

from datasets import shapes
from reproduce import cli
from reproduce.base import distributed, launcher
from reproduce.base.data_loader import ErrorPreservingLoader
from reproduce.base.distributed import join
from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.launcher import in_group

WORK = """
import torch
from reproduce.base.distributed import join
from reproduce.base.launcher import in_group

assert in_group()
with join('cpu') as group:
    # One process may score COCO for minutes while the others wait.
    backend = torch.distributed.group.WORLD._get_backend(group.device)
    assert backend.options._timeout.total_seconds() >= 3600
    everything = group.gather([group.rank])
    print(group.rank, group.size, int(group.add(torch.tensor(group.rank + 1))), everything)
"""


def test_srun_starts_a_group():
    job = os.getpid()
    variables = {
        'SLURM_JOB_ID': str(job),
        'SLURM_STEP_NUM_TASKS': '3',
        'SLURM_STEP_NODELIST': 'localhost',
        'SLURM_STEP_TASKS_PER_NODE': '3',
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, '-c', WORK],
            env={**os.environ, **variables, 'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i)},
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
    launcher.set_torchrun_variables()
    assert os.environ['MASTER_ADDR'] == first
    assert (os.environ['RANK'], os.environ['WORLD_SIZE']) == ('9', '16')
    assert (os.environ['LOCAL_RANK'], os.environ['LOCAL_WORLD_SIZE']) == ('1', '8')
    assert os.environ['MASTER_PORT'] == '29500'


def test_steps_of_a_job_have_ports_of_their_own(monkeypatch):
    monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '2')
    monkeypatch.setenv('SLURM_STEP_NODELIST', 'node7')
    monkeypatch.setenv('SLURM_STEP_TASKS_PER_NODE', '2')
    monkeypatch.setenv('SLURM_PROCID', '0')
    monkeypatch.setenv('SLURM_LOCALID', '0')
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR'):
        monkeypatch.setenv(name, '')  # so that they are restored
        monkeypatch.delenv(name)
    ports = {}
    for job in (41_234_567, 41_234_568):
        for step in range(31):
            monkeypatch.setenv('MASTER_PORT', '')
            monkeypatch.delenv('MASTER_PORT')
            monkeypatch.setenv('SLURM_JOB_ID', str(job))
            monkeypatch.setenv('SLURM_STEP_ID', str(step))
            launcher.set_torchrun_variables()
            ports[job, step] = int(os.environ['MASTER_PORT'])
    assert len(set(ports.values())) == 62
    assert min(ports.values()) >= 20_000
    assert max(ports.values()) < 32_768  # where Linux begins to give ports to connections


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
    monkeypatch.setattr(cli, '_with_other_processes', nullcontext)
    for command in (('regress',), ('table', 4, '--data', '.')):
        code, out, err = run(*command)
        assert (code, out) == (2, '')
        assert 'evaluate one model at a time' in err


def product(group, factor):
    return factor * int(group.add(torch.tensor(group.rank + 1)))


def test_the_result_is_that_of_the_first_process():
    assert distributed.run(product, 10, device='cpu') == 10
    assert distributed.run(product, 10, processes=2, device='cpu') == 30
    with pytest.raises(UserError, match='0 processes can do no work'):
        distributed.run(product, 10, processes=0)


def waits_for(group, end, waiting):
    """The process 1 comes to an end, while the process 0 waits for it."""
    if group.rank == 1:
        end()
    elif waiting == 'agree':
        group.agree()
    elif waiting == 'gather':
        group.gather([0])
    else:
        time.sleep(300)


def raises():
    raise DataNotFound('there is no image: give one.')


def breaks():
    raise ValueError('seven is no number')


def runs_out_of_memory():
    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate\nmore than there is')


def is_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def leaves():
    os._exit(0)


@pytest.mark.parametrize('waiting', ['agree', 'sleep'])
def test_a_failure_ends_the_others_whatever_they_do(waiting):
    start = time.monotonic()
    with pytest.raises(DataNotFound, match=r'^there is no image: give one\.$') as error:
        distributed.run(waits_for, raises, waiting, processes=2, device='cpu')
    assert error.value.rank == 0  # of this test, which the command line would print it from
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ('end', 'sentence'),
    [
        (runs_out_of_memory, r'the memory of cpu does not hold a batch: lower the batch size\.'),
        (is_killed, r'process 1 of 2 was ended by the signal SIGKILL, as when .* is full\.'),
        (leaves, r'process 1 of 2 on \S+ ended without an error, .*log of its machine\.'),
    ],
)
def test_every_way_to_end_is_one_sentence(end, sentence):
    with pytest.raises(UserError, match=f'^{sentence}$'):
        distributed.run(waits_for, end, 'gather', processes=2, device='cpu')


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(RuntimeError, match=r'^process 1 of 2 failed: ValueError: seven') as error:
        distributed.run(waits_for, breaks, 'agree', processes=2, device='cpu')
    assert 'in breaks' in error.value.__notes__[0]
    with pytest.raises(ValueError, match='seven'):
        distributed.run(lambda group: breaks(), device='cpu')


PARENT = """
import os, time
from reproduce.base import distributed

def work(group):
    os.write(1, f'{os.getpid()}\\n'.encode())  # whole, where `print` writes the line's end apart
    time.sleep(300)

if __name__ == '__main__':
    distributed.run(work, processes=2, device='cpu')
"""


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """Also where it is killed, and can end nobody any more."""
    (tmp_path / 'parent.py').write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / 'parent.py'],
        env={**os.environ, 'PYTHONPATH': str(Path.cwd())},
        stdout=subprocess.PIPE,
        text=True,
    )
    children = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert (len(gone), alive) == (2, [])


def test_nothing_is_left_of_the_launcher_after_a_failure():
    """Its store joins a thread when it is deleted, which crashes in a process forked later."""
    with pytest.raises(UserError) as error:
        distributed.run(waits_for, raises, 'agree', processes=2, device='cpu')
    assert not [o for o in gc.get_objects() if type(o) is C10dRendezvousBackend]
    assert str(error.value)  # which was still there


FAIL = """
import sys
from reproduce import cli
from reproduce.base import distributed
from reproduce.base.errors import UserError

def fail(group):
    if group.rank == 1:
        raise UserError('one has failed: mend it.')
    group.gather([0])

cli.app = lambda: distributed.run(fail, device='cpu')
cli.run()
"""


def test_under_srun_the_process_that_failed_says_so_and_all_end():
    variables = {
        'SLURM_JOB_ID': str(os.getpid() + 1),
        'SLURM_STEP_NUM_TASKS': '2',
        'SLURM_STEP_NODELIST': 'localhost',
        'SLURM_STEP_TASKS_PER_NODE': '2',
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, '-c', FAIL],
            env={**os.environ, **variables, 'SLURM_PROCID': str(i), 'SLURM_LOCALID': str(i)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    printed = [task.communicate(timeout=60)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [2, 2]
    assert printed == ['', 'error: one has failed: mend it.\n']


class Numbers(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 4:
            raise UserError(f'cannot read the number {index}: restore it.')
        return index


@pytest.mark.parametrize('workers', [0, 2])
def test_an_error_of_a_loader_keeps_its_sentence(workers):
    read = []
    with pytest.raises(UserError, match=r'^cannot read the number 4: restore it\.$'):
        for batch in ErrorPreservingLoader(Numbers(), batch_size=2, num_workers=workers):
            read += batch.tolist()
    assert read == [0, 1, 2, 3]


def test_label_maps_on_two_processes_stop_at_a_damaged_image(run, tmp_path):
    shapes.write(tmp_path, train=40, val=20)
    bad = sorted((tmp_path / 'imagenet/train').rglob('*.JPEG'))[5]
    bad.write_bytes(bad.read_bytes()[:300])
    network = timm.create_model('test_resnet', num_classes=10)
    torch.save(network.state_dict(), tmp_path / 'annotator.pth')
    start = time.monotonic()
    code, out, err = run(
        *('labels', 'test_resnet', '--data', tmp_path / 'imagenet', '--output', 'maps'),
        *('--checkpoint', tmp_path / 'annotator.pth', '--img-size', 64, '--workers', 1),
        *('--processes', 2, '--device', 'cpu', '--batch-size', 2),
    )
    assert (code, out) == (2, '')
    assert err.startswith(f'error: cannot read the image {bad}: ')
    assert err.count('\n') == 1
    assert not json.loads(Path('maps/labels.json').read_text())['complete']
    assert time.monotonic() - start < 60
