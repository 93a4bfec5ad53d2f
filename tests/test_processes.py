"""Processes: how they start, fail and end, on this machine and under two torchruns."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from conftest import weights

from datasets import shapes
from reproduce.base import gpus
from reproduce.base.errors import UserError
from reproduce.base.processes import join, start_again


def test_one_process_is_a_group_of_its_own(monkeypatch):
    monkeypatch.delenv('TORCHELASTIC_RUN_ID', raising=False)
    start_again(1)
    with join('cpu') as group:
        assert (group.rank, group.size) == (0, 1)
        assert group.gather(['mine']) == ['mine']
        assert group.add(torch.ones(())) == 1
        group.check_same(lambda: pytest.fail('is not needed'))


def test_libraries_that_run_out_of_memory_are_understood():
    text = "NCCL error: unhandled cuda error. Last error: Cuda failure 2 'out of memory'"
    with pytest.raises(UserError, match=r'cpu: NCCL.*out of memory.*: lower'), join('cpu'):
        raise RuntimeError(text)


def test_gpus_that_are_too_few_or_too_old_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    for name in ('TORCHELASTIC_RUN_ID', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        monkeypatch.setenv(name, '1' if 'RANK' in name else '2')
    with pytest.raises(UserError, match='there are 1 GPUs for 2 processes'), join('cuda'):
        pass
    monkeypatch.delenv('TORCHELASTIC_RUN_ID')
    message = 'CUDA error: no kernel image is available for execution on the device'
    refused = pytest.raises(UserError, match=r'no kernel image.*CONSTRAINTS=requirements')
    with refused, join('cpu'):
        raise torch.AcceleratorError(message)


def test_emulated_bf16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Tesla')
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: False)
    gpu = torch.device('cuda', 0)
    gpus.check_precision(gpu, 'fp16')
    gpus.check_precision(torch.device('cpu'), 'bf16')
    with pytest.raises(UserError, match=r'Tesla has no bf16.*--amp fp16'):
        gpus.check_precision(gpu, 'bf16')


# A command line of one command that fails in the way that its argument says.
COMMAND = """
import os, signal, sys, time
from reproduce import cli
from reproduce.base.errors import UserError
from reproduce.base import processes
from reproduce.base.processes import join, rank, start, start_again

processes._AFTER_FIRST_RANK = 1.0

def run(how):
    start_again(2)
    with join('cpu') as group:
        group.check_same(lambda: {'lr': group.rank if how == 'different' else 0})
        if group.rank == 1:
            if how == 'one':
                raise UserError('one has failed.')
            if how == 'killed':
                os.kill(os.getpid(), signal.SIGKILL)
        os.write(1, f'{os.getpid()}\\n'.encode())
        if how == 'waiting':
            time.sleep(300)
        group.barrier()

def command(**_):
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        run(sys.argv[1])
    else:
        sys.exit(start(2, *sys.argv))

cli.app = command
cli.run()
"""


@pytest.fixture
def command(tmp_path):
    path = tmp_path / 'command.py'
    path.write_text(COMMAND)
    piped = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    return lambda how: subprocess.Popen(
        [sys.executable, path, how], start_new_session=True, **piped
    )


def left_over(word):
    """The processes whose command line has a word."""
    found = psutil.process_iter(['cmdline'])
    return [process for process in found if word in ' '.join(process.info['cmdline'] or ())]


@pytest.mark.parametrize(
    ('how', 'said'),
    [
        ('one', 'error: one has failed.\n'),
        ('different', 'error: the ranks do not have the same lr: rank 1 differs from rank 0. .*\n'),
        ('killed', 'error: rank 1 of 2 was ended by SIGKILL, as when the memory of .* is full.\n'),
    ],
)
def test_a_failure_is_one_sentence_and_ends_all(command, tmp_path, how, said):
    done = command(how)
    _, err = done.communicate(timeout=120)
    assert done.returncode == 2
    assert re.fullmatch(said, err), err
    assert not left_over(str(tmp_path))


def test_nothing_is_left_of_what_is_killed(command, tmp_path):
    parent = command('waiting')
    for _ in range(2):
        parent.stdout.readline()
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate(timeout=60)
    _, alive = psutil.wait_procs(left_over(str(tmp_path)), timeout=10)
    assert not alive


def test_different_data_under_two_torchruns_are_named(tmp_path):
    """As on two nodes."""
    weights(tmp_path / 'micro.safetensors')
    for name in ('here', 'other'):
        shapes.write(tmp_path / name, train=0, val=8)
    path = sorted((tmp_path / 'other/imagenet/val').rglob('*.JPEG'))[0]
    path.write_bytes(path.read_bytes() + b'more')
    with socket.create_server(('localhost', 0)) as server:
        port = server.getsockname()[1]
    command = (
        *(sys.executable, '-m', 'torch.distributed.run', '--nnodes=2', '--nproc-per-node=1'),
        *('--rdzv-backend=c10d', f'--rdzv-endpoint=localhost:{port}', '-m', 'reproduce'),
        *('evaluate', 'imagenet', 'maformer_micro', '--checkpoint', 'micro.safetensors'),
        *('--limit', '4', '--img-size', '32', '--workers', '0'),
        *('--device', 'cpu', '--output'),
    )
    piped = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    agents = [
        subprocess.Popen([*command, 'kept', '--data', f'{name}/imagenet'], cwd=tmp_path, **piped)
        for name in ('here', 'other')
    ]
    printed = ''.join(agent.communicate(timeout=200)[0] for agent in agents)
    (said,) = (line for line in printed.splitlines() if line.startswith('error: '))
    assert re.match('error: the ranks do not have the same (contents|fingerprint) of the val', said)
    assert not list(Path(tmp_path / 'kept').glob('*.json'))
