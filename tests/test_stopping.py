"""Trainings that are stopped or killed, and resumed to the same weights."""

import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from itertools import chain

import psutil
import pytest
import torch
from ranks import in_ranks
from safetensors.torch import load_file

from datasets import shapes
from datasets.imagenet import load
from reproduce.base.versions import CHECKOUT
from reproduce.train.classifier import train
from reproduce.train.classifier_steps import ClassifierTraining
from reproduce.train.jobs import TrainingJob
from reproduce.train.recipes import recipe_for
from reproduce.train.stopping import MARKER, TrainingStopped

SMALL = {'img_size': 32, 'epochs': 2, 'warmup_epochs': 1, 'batch_size': 4, 'drop_path': 0.2}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    shapes.write(root, train=30, val=20)
    return root / 'imagenet'


def recipe():
    return recipe_for('maformer_micro').changed(**SMALL)


@pytest.fixture(scope='module')
def uninterrupted(root, tmp_path_factory):
    """The weights of the whole training, by the number of its processes."""
    found = {}

    def weights(processes):
        if processes not in found:
            folder = tmp_path_factory.mktemp('whole')
            job = TrainingJob(recipe(), root, folder, workers=0, device='cpu')
            in_ranks(processes, train, job)
            found[processes] = load_file(folder / 'model.safetensors')
        return found[processes]

    return weights


def begin(root, output, *more):
    changes = [('--set', f'{name}={value}') for name, value in SMALL.items()]
    return subprocess.Popen(
        [
            *(sys.executable, '-m', 'reproduce', 'train', 'imagenet', 'maformer_micro'),
            *('--data', str(root), '--output', str(output), '--device', 'cpu'),
            *chain.from_iterable(changes),
            *map(str, more),
        ],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(path, task):
    end = time.monotonic() + 200
    while not path.exists():
        assert task.poll() is None, task.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


def signalled(task, number, whom):
    """Send a signal as a scheduler or a user does; return the processes that it has to end."""
    parent = psutil.Process(task.pid)
    everybody = [parent, *parent.children(recursive=True)]
    ranks = parent.children()
    for process in everybody if whom == 'all' else ranks[-1:]:
        process.send_signal(number)
    return everybody


@pytest.mark.parametrize(
    ('number', 'processes', 'workers', 'whom'),
    [
        (signal.SIGINT, 1, 2, 'all'),
        pytest.param(signal.SIGINT, 2, 1, 'all', marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2, 0, 'all', marks=pytest.mark.slow),
        (signal.SIGUSR1, 2, 0, 'rank'),
        pytest.param(signal.SIGKILL, 2, 1, 'rank', marks=pytest.mark.slow),
    ],
)
def test_a_training_that_is_ended_in_an_epoch_goes_on_to_the_same_weights(
    root, uninterrupted, tmp_path, number, processes, workers, whom
):
    output = tmp_path / 'run'
    options = ('--processes', processes, '--workers', workers, '--checkpoint-steps', 1)
    task = begin(root, output, *options)
    wait_for(output / 'last.pth', task)
    everybody = signalled(task, number, whom)
    out, err = task.communicate(timeout=120)
    _, alive = psutil.wait_procs(everybody, timeout=10)
    assert not alive
    options = tomllib.loads((output / 'run.toml').read_text())
    assert options['set'] == [f'{name}={value}' for name, value in SMALL.items()]
    state = torch.load(output / 'last.pth')
    steps = len(load(root, 'train').samples) // SMALL['batch_size']
    assert (state['epoch'], 0 < state['step'] < steps) == (0, True)
    assert 'Traceback' not in err
    if number == signal.SIGKILL:
        assert task.returncode == 2
        assert not (output / MARKER).exists()
    else:
        assert task.returncode == 128 + number, err
        assert f'stopped: {number.name} came after {state["step"]} of {steps} steps' in err
        assert 'stopped: ' not in out
        assert (output / MARKER).exists()
    job = TrainingJob(recipe(), root, output, resume=True, workers=0, device='cpu')
    in_ranks(processes, train, job)
    assert not (output / MARKER).exists()
    expected, found = uninterrupted(processes), load_file(output / 'model.safetensors')
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_training_is_stopped_in_an_epoch_and_in_a_validation(
    root, uninterrupted, tmp_path, monkeypatch
):
    step, top1 = ClassifierTraining.take_step, ClassifierTraining.top1

    def asked_in_an_epoch(training, *arguments):
        if (training.epoch, training.step) == (0, 3):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(training, *arguments)

    def asked_in_a_validation(training, *arguments, **options):
        if training.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return top1(training, *arguments, **options)

    job = TrainingJob(recipe(), root, tmp_path, workers=0, device='cpu')
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    monkeypatch.setattr(ClassifierTraining, 'take_step', asked_in_an_epoch)
    monkeypatch.setattr(ClassifierTraining, 'top1', asked_in_a_validation)
    for message in (r'after \d+ of \d+ steps of epoch 1', r'after (\d+) of \1 steps of epoch 2'):
        with pytest.raises(TrainingStopped, match=message) as stop:
            train(job)
        assert stop.value.status == 143
        assert (tmp_path / MARKER).exists()
        job = replace(job, resume=True)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    monkeypatch.undo()
    assert len(train(job)) == 2
    assert not (tmp_path / MARKER).exists()
    expected, found = uninterrupted(1), load_file(tmp_path / 'model.safetensors')
    assert all(torch.equal(expected[name], found[name]) for name in expected)
