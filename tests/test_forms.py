"""Evaluation and training from every form of a data set: the numbers are those of the folders."""

import forms
import pytest
import torch

from datasets import ade20k, coco
from reproduce.evaluate.harness import evaluate
from reproduce.openmmlab import models
from reproduce.openmmlab.configs import load_config
from reproduce.tasks.job import Job
from reproduce.train.classifier import train
from reproduce.train.jobs import TrainingJob
from reproduce.train.recipes import recipe_for

CONFIGS = {
    'coco': 'mask-rcnn_maformer-micro_fpn_shapes.py',
    'ade20k': 'fpn_maformer-micro_shapes.py',
}
LOAD = {'coco': coco.load, 'ade20k': ade20k.load}


@pytest.fixture(scope='module')
def zips(both_splits, tmp_path_factory):
    """The folder of COCO and ADE20K in the zip files of their releases."""
    root = tmp_path_factory.mktemp('zips')
    (root / 'coco').mkdir()
    forms.coco_zips(both_splits / 'coco', root / 'coco')
    forms.ade20k_zip(both_splits / 'ade20k/ADEChallengeData2016', root)
    return root


def test_the_curve_of_a_training_is_the_same(both_splits, tmp_path):
    """Through forked workers, each of which opens the archives for itself."""
    forms.as_released(both_splits / 'imagenet', tmp_path)
    small = {'img_size': 32, 'epochs': 1, 'warmup_epochs': 1, 'batch_size': 12, 'ema_decay': 0.9}
    recipe = recipe_for('maformer_micro', False).changed(**small)
    curves = []
    for data, workers in ((both_splits / 'imagenet', 0), (tmp_path, 2)):
        job = TrainingJob(recipe, data, tmp_path / f'{workers}', workers=workers, device='cpu')
        curves.append([(row['loss'], row['top1'], row['ema_top1']) for row in train(job)])
    assert curves[0] == curves[1]


@pytest.mark.parametrize(('task', 'split'), [('coco', 'train'), ('ade20k', 'val')])
def test_zips_of_coco_and_ade20k_hold_the_same_data(both_splits, zips, task, split):
    of_folders, of_zips = LOAD[task](both_splits, split), LOAD[task](zips, split)
    for part in ('fingerprint', 'problems', 'classes'):
        assert getattr(of_zips, part) == getattr(of_folders, part)
    for (image, other), (path, expected) in zip(of_zips.samples, of_folders.samples, strict=True):
        assert image.name == path.name
        assert image.read_bytes() == path.read_bytes()
        assert other == expected or other.read_bytes() == expected.read_bytes()
    limited = LOAD[task](zips, split, limit=7)
    assert limited.fingerprint == LOAD[task](both_splits, split, limit=7).fingerprint


@pytest.mark.parametrize('task', ['ade20k', pytest.param('coco', marks=pytest.mark.slow)])
def test_records_and_predictions_of_coco_and_ade20k_are_those_of_the_folders(
    both_splits, zips, tmp_path, task
):
    torch.manual_seed(0)
    checkpoint = tmp_path / 'random.pth'
    torch.save(models.build(load_config(CONFIGS[task]), 'cpu').state_dict(), checkpoint)

    def outcome(data, workers):
        options = {'limit': 4, 'workers': workers, 'device': 'cpu'}
        return evaluate(Job(task, CONFIGS[task], checkpoint, data, **options))

    expected, found = outcome(both_splits, 0), outcome(zips, 1)
    assert found.predictions == expected.predictions
    assert found.evaluation.metrics == expected.evaluation.metrics
    assert found.evaluation.data == expected.evaluation.data
    assert found.evaluation.key == expected.evaluation.key
