"""Trainings that are ended early, by a scheduler or for good, and go on to the same weights."""

import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from datasets import shapes
from reproduce.base import distributed
from reproduce.base.errors import UserError
from reproduce.train.classifier import TrainingJob, train
from reproduce.train.classifier_steps import ClassifierTraining
from reproduce.train.recipes import recipe_for
from reproduce.train.stopping import StopRequests, TrainingStopped

CHECKOUT = Path(__file__).parents[1]

# 12 steps an epoch.
SMALL = {'img_size': 32, 'epochs': 2, 'warmup_epochs': 1, 'batch_size': 4, 'drop_path': 0.2}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    shapes.write(root, train=50, val=20)
    return root / 'imagenet'


@pytest.fixture(scope='module')
def uninterrupted(root, tmp_path_factory):
    """The weights of the whole training, by the number of its processes."""
    found = {}

    def weights(processes):
        if processes not in found:
            folder = tmp_path_factory.mktemp('whole')
            train(TrainingJob(recipe(), root, folder, workers=0, device='cpu'), processes)
            found[processes] = load_file(folder / 'model.safetensors')
        return found[processes]

    return weights


def recipe():
    return recipe_for('maformer_micro').changed(**SMALL)


def command(root, output, *more):
    changes = [('--set', f'{name}={value}') for name, value in SMALL.items()]
    return [
        *(sys.executable, '-m', 'reproduce', 'train', 'imagenet', 'maformer_micro'),
        *('--data', str(root), '--output', str(output), '--device', 'cpu'),
        *chain.from_iterable(changes),
        *map(str, more),
    ]


def begin(*arguments):
    return subprocess.Popen(
        command(*arguments),
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(path, task):
    end = time.monotonic() + 120
    while not path.exists():
        assert task.poll() is None, task.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ('number', 'processes', 'workers', 'everywhere'),
    [
        (signal.SIGTERM, 1, 2, True),  # to all processes of the job, the workers too
        (signal.SIGUSR1, 2, 1, True),
        (signal.SIGKILL, 1, 0, False),
        pytest.param(signal.SIGTERM, 1, 0, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 2, 1, False, marks=pytest.mark.slow),
    ],
)
def test_a_training_that_is_ended_in_an_epoch_goes_on_to_the_same_weights(
    root, uninterrupted, tmp_path, number, processes, workers, everywhere
):
    output = tmp_path / 'run'
    options = ('--processes', processes, '--workers', workers, '--checkpoint-steps', 1)
    task = begin(root, output, *options)
    wait_for(output / 'last.pth', task)
    if everywhere:
        os.killpg(task.pid, number)
    else:
        task.send_signal(number)
    _, err = task.communicate(timeout=120)
    state = torch.load(output / 'last.pth')
    assert (state['epoch'], 0 < state['step'] < 12) == (0, True)
    if number == signal.SIGKILL:
        assert task.returncode == -number
    else:
        assert task.returncode == 128 + number, err
        assert err.splitlines()[-1] == (
            f'stopped: {number.name} came after {state["step"]} of 12 steps of epoch 1; '
            f'{output}/last.pth holds the state: go on with the same command and --resume.'
        )
        assert 'Traceback' not in err
    train(TrainingJob(recipe(), root, output, resume=True, workers=0, device='cpu'), processes)
    log = (output / 'train.log').read_text()
    assert f'resumed after epoch 0 and {state["step"]} steps on {processes} processes' in log
    expected, found = uninterrupted(processes), load_file(output / 'model.safetensors')
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_training_is_stopped_in_its_validation_too(root, uninterrupted, tmp_path, monkeypatch):
    whole = ClassifierTraining.top1

    def asked_meanwhile(training, *arguments, **options):
        if training.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(training, *arguments, **options)

    job = TrainingJob(recipe(), root, tmp_path, workers=0, device='cpu')
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    monkeypatch.setattr(ClassifierTraining, 'top1', asked_meanwhile)
    with pytest.raises(
        TrainingStopped, match='SIGTERM came after 12 of 12 steps of epoch 2'
    ) as stop:
        train(job)
    assert stop.value.status == 143
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    monkeypatch.undo()
    rows = train(TrainingJob(recipe(), root, tmp_path, resume=True, workers=0, device='cpu'))
    assert len(rows) == 2
    expected, found = uninterrupted(1), load_file(tmp_path / 'model.safetensors')
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def ask(group, slow, asked):
    """The rounds that each process passes until they agree to stop; one process is asked."""
    with StopRequests(group) as stop:
        for done in range(100):
            if group.rank == asked and done == 3:
                os.kill(os.getpid(), signal.SIGUSR1)
            if group.rank == slow:
                time.sleep(0.02)
            if number := stop.agreed():
                break
    return group.gather([(done, number)])


@pytest.mark.parametrize(('slow', 'asked'), [(0, 1), (1, 0), (0, 0)])
def test_processes_agree_on_the_step_to_stop_at(slow, asked):
    found = distributed.run(ask, slow, asked, processes=2, device='cpu')
    assert found == [(3, signal.SIGUSR1)] * 2


def test_a_task_of_slurm_with_a_gpu_of_its_own_takes_it(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '3')
    with pytest.raises(UserError, match='8 processes have 1 GPUs on this machine'):
        distributed._gpu_of(3, 8, 1)
    monkeypatch.setenv('SLURM_PROCID', '3')
    monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '8')
    assert distributed._gpu_of(3, 8, 8) == 3
    with pytest.raises(UserError, match='8 processes have 4 GPUs'):
        distributed._gpu_of(3, 8, 4)
    assert distributed._gpu_of(3, 8, 1) == 0
    assert os.environ['LOCAL_RANK'] == '0'  # which MMEngine reads
