"""Two results on the same images: is the difference real?"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_coco import shifted

from datasets import coco, shapes
from datasets.ade20k import label_maps
from reproduce.evaluate.harness import evaluate
from reproduce.report.comparisons import load_comparisons
from reproduce.tasks.detection_scores import to_json
from reproduce.tasks.job import Job

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def kept(embedded, sound, tmp_path_factory):
    """Records of a network, of one a little disturbed and of one that is broken."""
    folder = tmp_path_factory.mktemp('kept')
    stems = []
    for name, noise in (('sound', 0.0), ('near', 0.02), ('broken', 5.0)):
        torch.manual_seed(0)
        state = load_file(sound)
        state['head.fc.weight'] += noise * torch.randn(state['head.fc.weight'].shape)
        path = folder / f'{name}.safetensors'
        save_file(state, path)
        outcome = evaluate(Job('imagenet', 'maformer_micro', path, embedded, workers=0))
        stems.append(outcome.save(folder).stem)
    return folder, stems


def test_two_records_are_compared(run, kept):
    folder, (sound, near, broken) = kept
    options = ('--evaluations', folder)
    code, out, err = run('compare', sound, broken, *options, '--fail-if-worse')
    assert (code, err) == (1, '')
    assert 'top1: the second is significantly worse (p < 0.001)' in out
    assert 'images that differ most' in out
    code, out, _ = run('compare', sound, near, *options, '--fail-if-worse', '--format', 'json')
    found = json.loads(out)
    assert (code, found['worse']) == (0, False)
    assert found['metrics']['top1']['p'] > 0.05
    assert found['first']['attestation']
    # What is kept is read again for the page.
    run('compare', sound, near, *options, '--save', 'kept/comparisons/near.json')
    run('compare', sound, near, broken, *options, '--save', 'kept/comparisons/all.json')
    assert json.loads(Path('kept/comparisons/near.json').read_text()) == found
    kept_ones = load_comparisons(Path('kept'))
    assert len(kept_ones) == 4
    assert kept_ones[-1].metrics['top1'].p == found['metrics']['top1']['p']
    code, out, _ = run('compare', broken, sound, *options, '--fail-if-worse')
    assert (code, 'significantly better' in out) == (0, True)


def test_a_kept_record_is_read_without_torch(kept):
    folder, (sound, _, broken) = kept
    code = (
        'import sys\nfrom reproduce.cli import run\n'
        f'sys.argv = ["reproduce", "compare", {sound!r}, {broken!r}, "--evaluations", '
        f'{str(folder)!r}]\ntry:\n    run()\nexcept SystemExit as stop:\n    assert not stop.code\n'
        'loaded = {"torch", "timm", "matplotlib"} & set(sys.modules)\n'
        'assert not loaded, loaded\n'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_three_results_are_a_matrix(run, kept):
    folder, stems = kept
    code, out, _ = run('compare', *stems, '--evaluations', folder, '--format', 'markdown')
    assert code == 0
    assert f'- C: {stems[2]}' in out
    row = next(line for line in out.splitlines() if line.startswith('| C '))
    assert row.count('*') == 2  # it is worse than both
    assert run('compare', *stems, '--evaluations', folder, '--fail-if-worse')[0] == 1


def test_kept_predictions_are_compared_like_the_record(run, kept, embedded):
    folder, (sound, _, broken) = kept
    files = [folder / f'{stem}.csv.gz' for stem in (sound, broken)]
    _, out, _ = run('compare', *files, '--data', embedded, '--format', 'json')
    _, expected, _ = run('compare', sound, broken, '--evaluations', folder, '--format', 'json')
    assert json.loads(out)['metrics'] == json.loads(expected)['metrics']
    code, out, err = run('compare', *files)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'name its folder with --data' in err


def test_a_record_without_counts_is_scored_again(run, kept, embedded, tmp_path):
    folder, (sound, _, broken) = kept
    copy = shutil.copytree(folder, tmp_path / 'copy')
    (copy / f'{sound}.images.npz').unlink()
    options = ('--evaluations', copy, '--data', embedded, '--format', 'json')
    _, out, _ = run('compare', sound, broken, *options)
    _, expected, _ = run('compare', sound, broken, '--evaluations', folder, '--format', 'json')
    assert json.loads(out)['metrics'] == json.loads(expected)['metrics']
    changed = shutil.copytree(embedded, tmp_path / 'changed')
    with next(changed.glob('val/*/*')).open('ab') as file:
        file.write(b' ')
    code, _, err = run('compare', sound, broken, '--evaluations', copy, '--data', changed)
    assert (code, err.count('\n')) == (2, 1)
    assert 'has other images' in err
    (copy / f'{broken}.images.npz').write_bytes(b'no counts')
    code, _, err = run('compare', sound, broken, *options)
    assert (code, err.count('\n')) == (2, 1)
    assert 'evaluate or score again' in err


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp('drawn')
    shapes.write(root, train=0, val=40)
    return root


@pytest.fixture(scope='module')
def detections(drawn, tmp_path_factory):
    """Two files of detections, the second with half of them."""
    folder = tmp_path_factory.mktemp('detections')
    truth = coco.read(drawn / 'coco/annotations/instances_val2017.json')
    results = shifted(truth)
    files = folder / 'all.json.gz', folder / 'half.json.gz'
    for file, some in zip(files, (results, results[::2]), strict=True):
        file.write_bytes(to_json(some))
    return files


def test_detections_are_compared_and_drawn(run, drawn, detections, tmp_path):
    options = ('--data', drawn, '--pictures', tmp_path / 'pictures', '--fail-if-worse')
    code, out, err = run('compare', *detections, *options)
    assert (code, err) == (1, '')
    assert 'box_ap: the second is significantly worse' in out
    assert 'mask_ar100' in out
    picture = Image.open(tmp_path / 'pictures/differences.png')
    assert min(picture.size) > 500


def test_label_maps_are_compared_and_drawn(run, drawn, tmp_path):
    truth = label_maps(drawn / 'ade20k/ADEChallengeData2016/annotations/validation')
    rng = np.random.default_rng(0)
    for name, error in (('good', 0.2), ('bad', 0.3)):
        (tmp_path / name).mkdir()
        for stem, path in truth.items():
            labels = np.array(Image.open(path))
            wrong = rng.random(labels.shape) < error
            some = np.where(wrong, 1 + rng.integers(0, 10, labels.shape), labels)
            Image.fromarray(some.astype(np.uint8)).save(tmp_path / name / f'{stem}.png')
    names = (tmp_path / 'good', tmp_path / 'bad')
    code, out, err = run('compare', *names, '--data', drawn, '--pictures', tmp_path / 'pictures')
    assert (code, err) == (0, '')
    assert 'miou: the second is significantly worse' in out
    assert (tmp_path / 'pictures/differences.png').is_file()


def test_what_cannot_be_compared_is_one_line(run, kept, detections, drawn, embedded):
    folder, (sound, near, broken) = kept
    for names, message in (
        ((sound,), 'name two or more'),
        ((sound, 'nothing'), 'no record is called'),
        (
            (folder / f'{sound}.csv.gz', detections[0]),
            'only results on the same images can be compared',
        ),
        ((sound, near, broken, '--pictures', folder / 'x'), 'name two'),
    ):
        options = ('--evaluations', folder)
        if not isinstance(names[0], str):
            options += ('--data', drawn)
        elif '--pictures' in names:
            options += ('--data', embedded)
        code, out, err = run('compare', *names, *options)
        assert (code, out, err.count('\n')) == (2, '', 1)
        assert message in err


def test_other_images_are_refused(run, kept, sound, embedded, tmp_path):
    folder, (whole, *_) = kept
    job = Job('imagenet', 'maformer_micro', sound, embedded, workers=0, limit=20)
    part = evaluate(job).save(tmp_path)
    code, out, err = run('compare', part, whole, '--evaluations', folder)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'only results on the same images' in err
