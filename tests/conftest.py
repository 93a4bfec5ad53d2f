"""What several test files use."""

import io
import json
import os
import shutil
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from types import SimpleNamespace

# Tests run side by side, a process a core; more threads than cores would wait for each other.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import model  # noqa: F401
from datasets import shapes
from datasets.imagenet import load
from datasets.reading import open_image
from reproduce import cli
from reproduce.base.files import sha256_of
from reproduce.base.folders import COUNTS
from reproduce.base.versions import CHECKOUT
from reproduce.complexity import counts
from reproduce.evaluate import apart
from reproduce.evaluate.harness import evaluate
from reproduce.evaluate.records import Evaluation
from reproduce.systems import load_systems
from reproduce.tasks.job import Job
from reproduce.weights import registry

DAY = '2026-01-01T00:00:00+00:00'


@pytest.fixture(scope='session', autouse=True)
def _unformatted_configs():
    """Let mmengine write configs in long lines: yapf takes a second for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **style: (text, False))
        yield


@pytest.fixture(scope='session', autouse=True)
def _cache(tmp_path_factory):
    """Keep what is cached about archives out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='session', autouse=True)
def _environment():
    """Nothing of the terminal, and of a `make test ARGS=...`, that the tests were started from."""
    terminal = ('COLUMNS', 'LINES', 'NO_COLOR', 'FORCE_COLOR')
    variables = ('ARGS', 'CHECKPOINTS', 'CONSTRAINTS', 'DATA', 'GPUS', 'PYTHON', 'STUDY', 'TABLE')
    with pytest.MonkeyPatch.context() as patch:
        for name in (*terminal, *variables, 'MAKEFLAGS', 'MAKEOVERRIDES', 'MFLAGS'):
            patch.delenv(name, raising=False)
        # Commands that start themselves again find the project from any folder.
        patch.setenv('PYTHONPATH', str(CHECKOUT))
        yield


@pytest.fixture(scope='session')
def kept_counts(tmp_path_factory):
    """A copy of the project's counts, to which the tests of a process add."""
    path = tmp_path_factory.mktemp('kept') / COUNTS.name
    if (CHECKOUT / COUNTS).exists():
        shutil.copy(CHECKOUT / COUNTS, path)
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, kept_counts):
    """Run the command in a folder of its own: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(counts.count, '__defaults__', (kept_counts,))

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['reproduce', *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run()
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run


@pytest.fixture
def in_process(monkeypatch):
    """Let a command that starts evaluations in processes of their own run them in this one."""

    def run(command, **_):
        out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
        with redirect_stdout(out), redirect_stderr(err), monkeypatch.context() as patch:
            patch.setattr(sys, 'argv', command[2:])
            with pytest.raises(SystemExit) as stop:
                cli.run()
        stdout, stderr = (stream.buffer.getvalue().decode() for stream in (out, err))
        return SimpleNamespace(returncode=stop.value.code, stdout=stdout, stderr=stderr)

    monkeypatch.setattr(apart, 'subprocess', SimpleNamespace(run=run))


INPUT = {
    **{'input_size': [3, 224, 224], 'crop_pct': 0.9, 'crop_mode': 'center'},
    **{'interpolation': 'bicubic', 'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5]},
}


def record(system, top1, complete=True, sha256='a' * 64, date=DAY, **changes):
    """An evaluation of a classifier as it might have come out."""
    images = 50_000 if complete else 100
    data = {'split': 'val', 'images': images, 'classes': 1000, 'complete': complete}
    run = {'date': date, 'command': 'python -m reproduce', 'device': 'GPU', 'processes': 8}
    fields = {
        **{'task': 'imagenet', 'system': system, 'model': system, 'arguments': {}},
        'checkpoint': {'file': f'{system}.safetensors', 'sha256': sha256},
        'data': {**data, 'fingerprint': f'{images:016x}'},
        **{'precision': 'fp32', 'preprocessing': INPUT, 'overridden': ()},
        'metrics': {'top1': top1, 'top5': 99.0},
        'intervals': {'top1': (max(top1 - 1, 0.0), top1 + 1), 'top5': (98.0, 99.5)},
        'provenance': {**run, 'batch_size': 64, 'seconds': 60.0, 'versions': {}},
    }
    return Evaluation(**fields | changes)


@pytest.fixture
def cite(monkeypatch):
    """A function that makes a system one that is only cited; the tables have none."""

    def cite(name):
        (system,) = (system for system in load_systems() if system.name == name)
        for field in ('model', 'config', 'weights'):
            monkeypatch.setitem(system.__dict__, field, None)
        monkeypatch.setitem(system.__dict__, 'cited', 'no code')

    return cite


@pytest.fixture(scope='session')
def embedded(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    shapes.write(root, train=0, val=40)
    return root / 'imagenet'


@pytest.fixture(scope='session')
def both_splits(tmp_path_factory):
    """The embedded data in the form of all three data sets; it is not to be changed."""
    root = tmp_path_factory.mktemp('both')
    shapes.write(root, train=40, val=40)
    return root


@contextmanager
def restored(path):
    """Write the file as it was when the block is left: other tests go on from it."""
    whole = path.read_bytes()
    try:
        yield
    finally:
        path.write_bytes(whole)


def logged(folder):
    """The rows that mmengine logged into `folder`, validations last, the later of two of a step."""
    rows = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            with suppress(ValueError):  # the training was killed within the line
                row = json.loads(line)
                rows['loss' not in row, row['step']] = row
    return [rows[key] for key in sorted(rows)]


def weights(path, name='maformer_micro', **kwargs):
    """Random weights of a classifier of the embedded data, written to `path`."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=len(shapes.CLASSES), **kwargs)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path)
    return path


def write_manifest(folder, outcome, **scores):
    """Released checkpoints, FOLDER/NAME.safetensors, and what each is to score."""
    data, lines = outcome.evaluation.data, []
    for name, top1 in scores.items():
        path = folder / f'{name}.safetensors'
        lines.append(f"""
[[checkpoint]]
name = "{name}"
model = "maformer_micro"
file = "{path.name}"
sha256 = "{sha256_of(path)}"
licence = "Apache-2.0"
[[checkpoint.reference]]
fingerprint = "{data.fingerprint}"
images = {data.images}
metrics = {{ top1 = {top1} }}
source = "me"
""")
    registry.load_manifest.cache_clear()
    path = folder / 'manifest.toml'
    path.write_text('\n'.join(lines))
    return path


@pytest.fixture(scope='session')
def sound(embedded, tmp_path_factory):
    """A network whose head is fitted to the images themselves, so that it knows most of them."""
    network = timm.create_model('maformer_micro', num_classes=len(shapes.CLASSES)).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    samples = load(embedded).samples
    images = torch.stack([transform(open_image(path)) for path, _ in samples])
    labels = torch.tensor([label for _, label in samples])
    with torch.no_grad():
        features = network.forward_head(network.forward_features(images), pre_logits=True)
        fitted = torch.linalg.lstsq(features, F.one_hot(labels).float()).solution
        network.head.fc.weight.copy_(fitted.T)
    path = tmp_path_factory.mktemp('sound') / 'sound.safetensors'
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope='session')
def sound_outcome(embedded, sound):
    return evaluate(Job('imagenet', 'maformer_micro', sound, embedded, workers=0))
