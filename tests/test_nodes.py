"""Two nodes: a torchrun for each, on this machine, whose processes differ or end in many ways.

Whatever it is, one sentence says so, and all processes end within seconds.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from datasets import shapes
from reproduce.base import lifeline
from reproduce.base.distributed import _difference
from reproduce.base.lifeline import Lifeline, wait_until

ROOT = Path(__file__).parents[1]

# Seconds from a failure to the end of the last process: the one that says why ends at once, the
# others give way for five seconds, and torchrun looks at its processes after that.
SOON = 30


@dataclass
class Node:
    """A torchrun with one process, and what the two have printed."""

    agent: subprocess.Popen
    lines: list[str] = field(default_factory=list)
    ended: float | None = None

    def worker(self):
        """Return the process that torchrun has started; None before that."""
        try:
            children = psutil.Process(self.agent.pid).children()
            return next((child for child in children if 'reproduce' in child.cmdline()), None)
        except psutil.Error:  # one is just ending
            return None


class TwoNodes:
    """The same command on two nodes, but for what is different on one of them."""

    def __init__(self, commands, environments=({}, {}), folders=(ROOT, ROOT)):
        self.begun = time.monotonic()
        torchrun = (
            *(sys.executable, '-m', 'torch.distributed.run', '--nnodes=2', '--nproc-per-node=1'),
            *('--rdzv-backend=c10d', f'--rdzv-endpoint=localhost:{free_port()}', '-m', 'reproduce'),
        )
        self.nodes = []
        for command, environment, folder in zip(commands, environments, folders, strict=True):
            agent = subprocess.Popen(
                [*torchrun, *map(str, command)],
                env={**os.environ, 'PYTHONPATH': str(folder), **environment},
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            node = Node(agent)
            threading.Thread(target=self._read, args=(node,), daemon=True).start()
            self.nodes.append(node)

    def _read(self, node):
        for line in node.agent.stdout:
            node.lines.append(line.rstrip())
        node.ended = time.monotonic()  # the last process that could print has ended

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            if node.agent.poll() is None:
                for process in (*psutil.Process(node.agent.pid).children(True), node.agent):
                    process.kill()

    def said(self):
        """Wait for the end of all processes; return what the project said, and after how long."""
        assert wait_until(lambda: all(node.ended for node in self.nodes), 300, poll=0.1), [
            node.lines for node in self.nodes
        ]
        said = [line for node in self.nodes for line in node.lines if line.startswith('error: ')]
        return said, max(node.ended for node in self.nodes) - self.begun

    def by_rank(self):
        """Return node and process by rank, as soon as both are started; torchrun numbers them."""
        started = {}

        def all_started():
            for node in self.nodes:
                if worker := node.worker():
                    # A process that was just forked has its parent's environment still.
                    with suppress(psutil.Error, KeyError):
                        started[worker.environ()['RANK']] = (node, worker)
            return len(started) == len(self.nodes)

        assert wait_until(all_started, 120)
        return started

    def kill(self, process):
        self.begun = time.monotonic()
        process.send_signal(signal.SIGKILL)


def free_port():
    with socket.create_server(('localhost', 0)) as server:
        return server.getsockname()[1]


def draw(root, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(12):
        folder = root / 'val' / f'n0000000{i % 3}'
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 52, 3), np.uint8)).save(folder / f'{i:02d}.JPEG')
    return root


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp('imagenet'))


def weights_of(path, seed):
    torch.manual_seed(seed)
    save_file(timm.create_model('test_resnet', num_classes=3).state_dict(), path)
    return path


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    return weights_of(tmp_path_factory.mktemp('weights') / 'test_resnet.safetensors', 0)


def evaluate(data, weights, output, *more):
    return (
        *('evaluate', 'imagenet', 'test_resnet', '--checkpoint', weights, '--data', data),
        *('--img-size', 32, '--batch-size', 2, '--workers', 0, '--device', 'cpu'),
        *('--output', output, *more),
    )


def copied(data, folder):
    for path in data.glob('val/*/*'):
        copy = folder / path.relative_to(data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return folder


def test_a_difference_is_one_sentence_that_names_it_and_the_processes():
    line = Lifeline(0, 3, 'token')
    line._hosts = {0: 'a', 1: 'b', 2: 'b'}
    same = {'lr': '0.001', 'images': 'abc'}
    assert _difference([same, same, same], line) == ''
    assert _difference([same, {**same, 'lr': '0.002'}, same], line) == (
        'the processes do not have the same lr: 0.001 in process 0 of 3 on a, process 2 of 3 on b; '
        '0.002 in process 1 of 3 on b; start all of them with the same code, command, weights and '
        'data.'
    )
    other = {'lr': '0.002', 'images': 'xyz'}
    assert 'the same lr (and images): ' in _difference([same, other, other], line)
    assert ': 0.001 in process 0 of 3 on a; nothing in' in _difference([same, {}, {}], line)
    long = [{'config': f'{"x" * 500}lr={i}{"y" * 500}'} for i in range(3)]
    assert 'xxlr=0yy' in _difference(long, line)
    assert len(_difference(long, line)) < 500


@pytest.fixture
def connected():
    """Three processes, played by this one."""
    first = Lifeline(0, 3, 'token')
    port = first.listen()
    others = [Lifeline(rank, 3, 'token') for rank in (1, 2)]
    for other in others:
        other.connect('localhost', port, 'here', 5)
    assert wait_until(lambda: not first.missing(), 5)
    yield first, *others
    for line in (first, *others):
        line.close()


def test_the_first_failure_is_everybodys(connected):
    _, second, third = connected
    assert second.fail('the disk is full.').rank == 1
    assert wait_until(lambda: all(line.failed.is_set() for line in connected), 5)
    assert third.fail('something else.').message == 'the disk is full.'
    assert {line.first.message for line in connected} == {'the disk is full.'}


def test_who_ends_without_leave_is_missed_and_who_takes_leave_is_not(connected):
    first, second, third = connected
    second.close()
    assert not wait_until(first.failed.is_set, 0.3)
    third._connections[0].shutdown(2)  # as the kernel does for a process that was killed
    assert wait_until(lambda: first.failed.is_set(), 5)
    assert first.first.lost
    assert first.first.rank == 0
    assert first.first.message.startswith('process 2 of 3 on ')
    assert 'ended without an error' in first.first.message


def test_who_cannot_look_at_a_failure_is_ended_and_says_it(connected, monkeypatch, capsys):
    """As in a collective operation on GPUs, which nothing interrupts."""
    ended = []
    monkeypatch.setattr(lifeline, 'GRACE', 0.2)
    monkeypatch.setattr(lifeline.os, '_exit', ended.append)
    _, second, third = connected
    third.known = True  # it is ending by itself
    second._connections[0].shutdown(2)
    assert wait_until(lambda: ended, 5)
    assert not wait_until(lambda: len(ended) > 2, 1)
    # The one whose connection broke takes the first one for lost, and is ended as well.
    assert ended == [2, 2]
    assert 'error: process 1 of 3 on ' in capsys.readouterr().err


def test_a_stranger_is_not_listened_to(connected):
    first, *_ = connected
    stranger = Lifeline(1, 3, 'another token')
    stranger.connect('localhost', first.port, 'here', 5)
    stranger.fail('I am the end.')
    assert not first.failed.is_set()


DIFFERENCES = {
    'data': 'contents of the val images|fingerprint of the val images',
    'crop': r'preprocessing crop_pct: .*\b0\.5 in process \d of 2 on',
    'weights': r'weights \(SHA-256\)',
    'batch': r'batch size: .*\b4 in process \d of 2 on',
    'precision': r'precision: .*\bbf16 in process \d of 2 on',
    'code': 'code of this project: ',
    'library': r'version of timm: .*\b0\.0\.7 in process \d of 2 on',
}


@pytest.mark.slow
@pytest.mark.parametrize('what', DIFFERENCES)
def test_a_difference_of_two_nodes_is_named(data, weights, tmp_path, what):
    command = evaluate(data, weights, tmp_path / 'kept')
    other, environment, folder = command, {}, ROOT
    if what == 'data':
        other = evaluate(draw(tmp_path / 'other', seed=1), weights, tmp_path / 'kept')
    elif what == 'weights':
        another = weights_of(tmp_path / 'test_resnet.safetensors', 1)
        other = evaluate(data, another, tmp_path / 'kept')
    elif what == 'code':
        folder = tmp_path / 'checkout'
        folder.mkdir()
        for room in ('model', 'datasets', 'operators'):
            (folder / room).symlink_to(ROOT / room)
        subprocess.run(['cp', '-r', ROOT / 'reproduce', folder], check=True)
        with (folder / 'reproduce' / 'base' / 'wording.py').open('a') as file:
            file.write('# changed\n')
    elif what == 'library':
        info = tmp_path / 'timm-0.0.7.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: timm\nVersion: 0.0.7\n')
        environment = {'PYTHONPATH': f'{tmp_path}:{ROOT}'}
    else:
        more = {'crop': '--crop-pct 0.5', 'batch': '--batch-size 4', 'precision': '--amp bf16'}
        other = (*command, *more[what].split())
    with TwoNodes([command, other], ({}, environment), (ROOT, folder)) as nodes:
        (sentence,), seconds = nodes.said()
    print(f'\n{what}: {sentence} [{seconds:.1f} s from the start]')
    assert re.search(
        f'^error: the processes do not have the same ({DIFFERENCES[what]})', sentence
    ), sentence
    assert not list((tmp_path / 'kept').glob('*.json'))


@pytest.mark.slow
def test_a_difference_of_two_trainings_is_named(tmp_path):
    shapes.write(tmp_path, train=40, val=20)
    command = ('train', 'imagenet', 'maformer_micro', '--data', tmp_path, '--workers', 0)
    command += ('--device', 'cpu', '--set', 'img_size=32', '--set', 'batch_size=8')
    commands = [(*command, '--output', tmp_path / 'run', '--set', f'lr={lr}') for lr in (0.1, 0.2)]
    with TwoNodes(commands) as nodes:
        (sentence,), seconds = nodes.said()
    print(f'\nlr: {sentence} [{seconds:.1f} s from the start]')
    assert sentence.startswith('error: the processes do not have the same lr: 0.')
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('--checkpoint nowhere', 'the checkpoint nowhere does not exist'),
        ('--data nowhere', 'nowhere is not a folder'),
        ('--batch-size 0', 'give 1 or more'),
        ('--output /proc/nowhere', '/proc/nowhere cannot hold results'),
    ],
)
def test_an_error_of_one_node_is_said_and_ends_the_other(data, weights, tmp_path, change, message):
    command = evaluate(data, weights, tmp_path / 'kept')
    with TwoNodes([command, (*command, *change.split())]) as nodes:
        (sentence,), seconds = nodes.said()
    print(f'\n{change}: {sentence} [{seconds:.1f} s from the start]')
    assert message in sentence


@pytest.mark.slow
def test_a_usage_error_of_one_node_ends_the_other(data, weights, tmp_path):
    command = evaluate(data, weights, tmp_path / 'kept')
    with TwoNodes([command, (*command, '--no-such-option')]) as nodes:
        said, seconds = nodes.said()
    print(f'\nusage: {said} [{seconds:.1f} s from the start]')
    assert any('No such option' in line for line in nodes.nodes[1].lines)


@pytest.mark.slow
def test_a_damaged_image_on_one_node_ends_both(data, weights, tmp_path):
    root = copied(data, tmp_path / 'copy')
    bad = sorted(root.glob('val/*/*'))[2]  # of the second batch, which is the second process's
    bad.write_bytes(bytes(bad.stat().st_size))
    commands = [evaluate(d, weights, tmp_path / 'kept') for d in (data, root)]
    with TwoNodes(commands) as nodes:
        (sentence,), seconds = nodes.said()
    print(f'\nimage: {sentence} [{seconds:.1f} s from the start]')
    assert f'cannot read the image {bad}' in sentence or 'contents of the val images' in sentence


@pytest.mark.slow
@pytest.mark.parametrize('rank', [0, 1])
def test_a_process_killed_before_it_joins_ends_the_other(data, weights, tmp_path, rank):
    command = evaluate(data, weights, tmp_path / 'kept')
    with TwoNodes([command, command]) as nodes:
        nodes.kill(nodes.by_rank()[str(rank)][1])
        said, seconds = nodes.said()
    lines = [line for node in nodes.nodes for line in node.lines]
    print(f'\nkilled before joining, {rank}: {said} [{seconds:.1f} s after the kill]')
    # A torchrun that keeps the state of both, and ends, ends the other one before it can speak.
    assert len(said) == 1 or any('SIGKILL' in line for line in lines), lines
    assert all(f'process {rank} of 2 ' in line for line in said)
    assert seconds < 90  # the other one was starting, and waits for a minute


@pytest.fixture
def blocking(data, tmp_path):
    """The images, one of which is a pipe: whoever reads it waits, and can be seen to."""
    root = copied(data, tmp_path / 'blocking')

    def block(batch):
        path = sorted(root.glob('val/*/*'))[2 * batch]
        path.unlink()
        os.mkfifo(path)

        def is_read():
            try:
                os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                return False
            return True

        return is_read

    return root, block


@pytest.mark.slow
@pytest.mark.parametrize('victim', ['process 0', 'process 1', 'torchrun 0', 'torchrun 1'])
def test_what_is_killed_in_the_midst_of_the_work_ends_everything(
    blocking, weights, tmp_path, victim
):
    root, block = blocking
    kind, rank = victim.split()
    # Batch i is of process i % 2.
    is_read = block(int(rank) + 2)
    command = evaluate(root, weights, tmp_path / 'kept')
    with TwoNodes([command, command]) as nodes:
        node, worker = nodes.by_rank()[rank]
        assert wait_until(is_read, 180, poll=0.1), [n.lines for n in nodes.nodes]
        nodes.kill(worker if kind == 'process' else node.agent)
        said, seconds = nodes.said()
        # What has ended is there until its parent, by now the system's first process, asks for it.
        assert wait_until(lambda: not worker.is_running(), 10)
    print(f'\n{victim} killed: {said} [{seconds:.1f} s after the kill]')
    assert len(said) == 1
    assert f'process {rank} of 2 on ' in said[0]
    assert 'ended without an error' in said[0]
    assert seconds < SOON
