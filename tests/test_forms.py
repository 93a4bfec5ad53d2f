"""Evaluation and training from every form of a data set: the numbers are those of the folders."""

from pathlib import Path

import forms
import pytest
from conftest import weights

from datasets import shapes
from reproduce.evaluate.harness import Job, evaluate
from reproduce.train.classifier import TrainingJob, train
from reproduce.train.recipes import recipe_for


@pytest.fixture(scope='module')
def places(tmp_path_factory):
    """The folders, and each form packed from them, by name."""
    root = tmp_path_factory.mktemp('places')
    shapes.write(root / 'shapes', train=40, val=40)
    found = {'folders': root / 'shapes/imagenet'}
    for name, pack in forms.FORMS.items():
        if name == 'parquet':
            try:
                import pyarrow  # noqa: F401
            except ImportError:
                continue
        found[name] = root / name
        found[name].mkdir()
        pack(found['folders'], found[name])
    return found


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return weights(tmp_path_factory.mktemp('weights') / 'maformer_micro.safetensors')


def outcome(data: Path, checkpoint: Path, processes: int = 1, workers: int = 0):
    options = {'batch_size': 8, 'preprocessing': {'img_size': 32}, 'device': 'cpu'}
    job = Job('imagenet', 'maformer_micro', checkpoint, data, workers=workers, **options)
    return evaluate(job, processes)


def test_records_and_predictions_are_the_same_from_every_form(places, checkpoint):
    expected = outcome(places['folders'], checkpoint)
    assert len(places) >= 5
    for name in places.keys() - {'folders'}:
        found = outcome(places[name], checkpoint)
        assert found.predictions == expected.predictions
        assert found.evaluation.metrics == expected.evaluation.metrics
        assert found.evaluation.data == expected.evaluation.data
        assert found.evaluation.key == expected.evaluation.key


@pytest.mark.slow
@pytest.mark.parametrize('processes', [2, 3])
def test_the_same_on_several_processes_with_workers(places, checkpoint, processes):
    expected = outcome(places['folders'], checkpoint)
    for name in places.keys() - {'folders'}:
        found = outcome(places[name], checkpoint, processes, workers=1)
        assert found.predictions == expected.predictions
        assert found.evaluation.key == expected.evaluation.key


def curve(data: Path, output: Path, workers: int):
    small = {'img_size': 32, 'epochs': 2, 'warmup_epochs': 1, 'batch_size': 16, 'ema_decay': 0.9}
    recipe = recipe_for('maformer_micro', False).changed(**small)
    rows = train(TrainingJob(recipe, data, output, workers=workers, device='cpu'))
    return [(row['loss'], row['top1'], row['ema_top1']) for row in rows]


def test_the_curve_of_a_training_is_the_same(places, tmp_path):
    """Through forked workers, each of which opens the archives for itself."""
    expected = curve(places['folders'], tmp_path / 'folders', 0)
    assert curve(places['released'], tmp_path / 'released', 2) == expected


@pytest.mark.slow
def test_the_curve_of_a_training_is_the_same_from_every_form(places, tmp_path):
    expected = curve(places['folders'], tmp_path / 'folders', 0)
    for name in places.keys() - {'folders'}:
        assert curve(places[name], tmp_path / name, 1) == expected
