"""Two results on the same images: is the difference real?"""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_coco import shifted

from datasets import coco, shapes
from datasets.ade20k import FORMAT
from reproduce.base.errors import UserError
from reproduce.evaluate.harness import evaluate
from reproduce.statistics.classification_metrics import ImageHits
from reproduce.statistics.kept import KeptImages, read
from reproduce.statistics.segmentation_metrics import PixelCounts
from reproduce.statistics.significance import holm
from reproduce.tasks.detection_scores import to_json
from reproduce.tasks.job import Job


@pytest.fixture(scope='module')
def kept(embedded, sound, sound_outcome, tmp_path_factory):
    """Records of a network, of one a little disturbed and of one that is broken."""
    folder = tmp_path_factory.mktemp('kept')
    stems = [sound_outcome.save(folder).stem]
    for name, noise in (('near', 0.02), ('broken', 5.0)):
        torch.manual_seed(0)
        state = load_file(sound)
        state['head.fc.weight'] += noise * torch.randn(state['head.fc.weight'].shape)
        path = folder / f'{name}.safetensors'
        save_file(state, path)
        outcome = evaluate(Job('imagenet', 'maformer_micro', path, embedded, workers=0))
        stems.append(outcome.save(folder).stem)
    return folder, stems


def refused(run, message, *arguments):
    code, out, err = run('compare', *arguments)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert message in err


def test_two_records_are_compared(run, kept, embedded):
    folder, (sound, near, broken) = kept
    options = ('--evaluations', folder, '--fail-if-worse', '--format', 'json')
    code, out, _ = run('compare', sound, near, *options)
    found = json.loads(out)
    assert (code, found['worse']) == (0, False)
    assert found['metrics']['top1']['p'] > 0.05
    assert found['first']['attestation']
    # Kept predictions are compared like their records.
    code, out, _ = run('compare', sound, broken, *options)
    assert (code, json.loads(out)['worse']) == (1, True)
    files = [folder / f'{stem}.csv.gz' for stem in (sound, broken)]
    _, again, _ = run('compare', *files, '--data', embedded, '--format', 'json')
    assert json.loads(again)['metrics'] == json.loads(out)['metrics']
    refused(run, 'name its folder with --data', *files)


def test_each_of_several_is_compared_with_the_first(run, kept):
    folder, stems = kept
    options = ('--evaluations', folder, '--fail-if-worse', '--format', 'json')
    code, out, _ = run('compare', *stems, *options)
    pairs = json.loads(out)['pairs']
    assert (code, [pair['worse'] for pair in pairs]) == (1, [False, True])
    ps = [pair['metrics']['top1']['p'] for pair in pairs]
    assert [pair['corrected_p']['top1'] for pair in pairs] == holm(ps)


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp('drawn')
    shapes.write(root, train=0, val=40)
    return root


@pytest.fixture(scope='module')
def detections(drawn, tmp_path_factory):
    """Two files of detections, the second with half of them."""
    folder = tmp_path_factory.mktemp('detections')
    results = shifted(coco.read(drawn / 'coco/annotations/instances_val2017.json'))
    files = folder / 'all.json.gz', folder / 'half.json.gz'
    for file, some in zip(files, (results, results[::2]), strict=True):
        file.write_bytes(to_json(some))
    return files


def test_detections_are_compared(run, drawn, detections):
    code, out, err = run('compare', *detections, '--data', drawn, '--fail-if-worse')
    assert (code, err) == (1, '')
    assert 'box_ap: 2 is significantly worse than 1' in out
    assert 'differs significantly from 1: box_missed +' in out.replace('mask', 'box')
    assert ' box_duplicate -' in out


@pytest.mark.parametrize('boxes', [1, 2])
def test_each_metric_is_corrected_for_the_pairs_that_have_it(run, drawn, detections, boxes):
    whole, half = detections
    found = json.loads(gzip.decompress(half.read_bytes()))
    path = whole.with_name('boxes.json.gz')
    path.write_bytes(to_json([{k: v for k, v in r.items() if k != 'segmentation'} for r in found]))
    files = [whole, half]
    files.insert(boxes, path)
    pairs = json.loads(run('compare', *files, '--data', drawn, '--format', 'json')[1])['pairs']
    masks = pairs[2 - boxes]
    assert [*pairs[boxes - 1]['corrected_p']] == ['box_ap']
    assert masks['corrected_p']['mask_ap'] == masks['metrics']['mask_ap']['p']
    assert masks['corrected_p']['box_ap'] == min(1, 2 * masks['metrics']['box_ap']['p'])


def test_label_maps_are_compared(run, drawn, tmp_path):
    truth = FORMAT.label_maps(drawn / 'ade20k/ADEChallengeData2016/annotations/validation')
    rng = np.random.default_rng(0)
    for name, error in (('good', 0.2), ('bad', 0.3)):
        (tmp_path / name).mkdir()
        for file, path in truth.items():
            labels = np.array(Image.open(path))
            wrong = rng.random(labels.shape) < error
            some = np.where(wrong, 1 + rng.integers(0, 10, labels.shape), labels)
            Image.fromarray(some.astype(np.uint8)).save(tmp_path / name / file)
    names = (tmp_path / 'good', tmp_path / 'bad')
    code, out, err = run('compare', *names, '--data', drawn)
    assert (code, err) == (0, '')
    assert 'miou: 2 is significantly worse than 1' in out


STATISTICS = {
    'hits': ImageHits(np.array([0, 1, 1], np.int32), np.array([[False, True]] * 3)),
    'pixels': PixelCounts(np.ones((1, 3, 3, 2), np.int64)),
}


@pytest.mark.parametrize(
    ('kind', 'name', 'change'),
    [
        ('hits', 'labels', lambda a: a + 2),
        ('hits', 'images', lambda a: a[:2]),
        ('pixels', 'counts', lambda a: np.cumsum(a[:, :, ::-1], 2)[:, :, ::-1]),
    ],
)
def test_counts_of_another_type_or_length_are_refused(tmp_path, kind, name, change):
    whole = KeptImages(STATISTICS[kind], ('a', 'b', 'c'), ('x', 'y')).to_bytes()
    path = tmp_path / 'x.images.npz'
    path.write_bytes(whole)
    assert read(path).statistics.metrics() == STATISTICS[kind].metrics()
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {name: change(arrays[name])})
    with pytest.raises(UserError, match='cannot be read'):
        read(path)


def test_what_cannot_be_compared_is_refused(run, kept, detections, drawn, sound, embedded):
    folder, stems = kept
    options = ('--evaluations', folder)
    refused(run, "is 'nothing'", stems[0], 'nothing', *options)
    other_task = (folder / f'{stems[0]}.csv.gz', detections[0], '--data', drawn)
    refused(run, 'only results on the same images', *other_task)
    job = Job('imagenet', 'maformer_micro', sound, embedded, workers=0, limit=20)
    part = evaluate(job).save(Path('part'))
    refused(run, 'only results on the same images', part, stems[0], *options)
