"""Mutated inputs: each ends in the right number or in one sentence, within ten seconds.

What is accepted is computed a second time from the same file, by bare pycocotools, or is what is
read from the unchanged files.
"""

import contextlib
import copy
import faulthandler
import io
import json
import math
import sys
import tarfile
import time
from pathlib import Path

import forms
import numpy as np
import pytest
from conftest import record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datasets import imagenet
from datasets.reading import open_image
from reproduce import cli
from reproduce.base.errors import UserError
from reproduce.evaluate import records
from reproduce.judge.comparison import compare, find_candidates
from reproduce.statistics.classification_metrics import ImageHits
from reproduce.statistics.kept import SUFFIX, KeptImages

pytestmark = pytest.mark.slow

MOST_SECONDS = 10  # of computing: a busy machine does not count
HANGS_AFTER = 300


def fuzz(examples):
    """Draw that many inputs, the same ones every time."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    options = {'deadline': None, 'derandomize': True, 'database': None}
    return settings(max_examples=examples, suppress_health_check=checks, **options)


@contextlib.contextmanager
def watched():
    """End all tests if an input hangs."""
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True, file=sys.__stderr__)
    begin = time.process_time()
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert time.process_time() - begin < MOST_SECONDS


def is_one_sentence(message):
    assert '\n' not in message.strip('\n')
    assert message.rstrip('\n').endswith('.')


def loaded(load):
    """Return what `load` returns; None if it ends in one sentence."""
    with watched():
        try:
            return load()
        except UserError as error:
            is_one_sentence(str(error))
    return None


def scored(*arguments):
    """Run a command of `score`, and return its metrics; None if it ends in one sentence."""
    # As the streams of a process are.
    out, err = (
        io.TextIOWrapper(io.BytesIO(), 'utf-8', errors, write_through=True)
        for errors in ('strict', 'backslashreplace')
    )
    with (
        pytest.MonkeyPatch.context() as patch,
        watched(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        patch.setattr(sys, 'argv', ['reproduce', 'score', *map(str, arguments), '--format', 'json'])
        cli.run()
    printed, message = out.buffer.getvalue(), err.buffer.getvalue().decode()
    if stop.value.code == 0:
        metrics = json.loads(printed)['metrics']
        assert all(0 <= value <= 100 for value in metrics.values())
        return metrics
    assert (stop.value.code, printed) == (2, b'')
    assert message.startswith('error: ')
    is_one_sentence(message)
    return None


# ------------------------------------------------------------------------------------------------
# Mutations

TOKENS = [
    *(b'', b'-1', b'0', b'1', b'1.5', b'1e999', b'NaN', b'null', b'true', b'""', b'[]', b'{}'),
    *(b',', b'"', b'\n', b'\r\n', b'\0', b'\xff\xfe', b'\xef\xbb\xbf', b'\xe9', b'9' * 30),
    *(b'../../x', b'[' * 5000, b'\\ud800', b'=1+1', b'<b>'),
]
VALUES = [
    *(None, True, False, -1, 0, 1, 2, 0.5, -0.5, 1e9, -1e9, 1e308, 10**30, 2**31, 2**63),
    *('', 'x', '1', '../x', '\ud800', 'é' * 300, [], {}, [0], [1, 2], [[]], {'x': 1}),
    *(math.nan, math.inf, -math.inf, [1.0] * 5, [[0, 0, 1e9, 0, 1, 1]], [None] * 4),
]


@st.composite
def mutated_bytes(draw, content):
    """Change one to three places of a file."""
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        at = draw(st.integers(0, len(content)))
        n = draw(st.sampled_from([0, 1, 2, 8, 40]))
        kind = draw(st.sampled_from(['token', 'bits', 'cut', 'twice', 'end']))
        if kind == 'token':
            content = content[:at] + draw(st.sampled_from(TOKENS)) + content[at + n :]
        elif kind == 'bits':
            changed = bytes(b ^ (1 << draw(st.integers(0, 7))) for b in content[at : at + 1])
            content = content[:at] + changed + content[at + len(changed) :]
        elif kind == 'cut':
            content = content[:at] + content[at + n + 1 :]
        elif kind == 'twice':
            content = content[: at + n] + content[at:]
        else:
            content = content[:at]
    return content


def _places(tree, above=()):
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        yield (*above, key)
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key], (*above, key))


@st.composite
def mutated_tree(draw, content):
    """Change a value of what JSON holds: replace, remove or repeat it."""
    content = copy.deepcopy(content)
    places = list(_places(content))
    # All depths and all keys alike, whichever there are most of.
    names = [tuple(k for k in place if isinstance(k, str)) for place in places]
    name = draw(st.sampled_from(sorted(set(names))))
    place = draw(st.sampled_from([p for p, n in zip(places, names, strict=True) if n == name]))
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    key, value = place[-1], parent[place[-1]]
    kind = draw(st.sampled_from(['value', 'number', 'number', 'number', 'remove', 'twice']))
    if kind == 'remove':
        del parent[key]
    elif kind == 'twice' and isinstance(parent, list):
        parent.append(copy.deepcopy(value))
    elif kind == 'number' and isinstance(value, int | float):
        factor, more = draw(st.sampled_from([-1, 0, 0.5, 2])), draw(st.sampled_from([0, 1, 0.25]))
        parent[key] = value * factor + more
    else:
        parent[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    return content


# ------------------------------------------------------------------------------------------------
# score coco


@pytest.fixture(scope='module')
def detections(both_splits):
    """Annotations of four drawn images, and detections near them, with masks."""
    content = json.loads((both_splits / 'coco/annotations/instances_val2017.json').read_text())
    content['images'] = content['images'][:4]
    taken = {image['id'] for image in content['images']}
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in taken]
    truth = COCO()
    truth.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    rng, found = np.random.default_rng(0), []
    for instance in content['annotations']:
        mask = truth.annToRLE(instance)
        box = (np.array(instance['bbox']) + rng.normal(0, 2, 4)).round(2)
        found.append(
            {
                **{key: instance[key] for key in ('image_id', 'category_id')},
                'bbox': np.maximum(box, [0, 0, 1, 1]).tolist(),
                'segmentation': {'size': list(mask['size']), 'counts': mask['counts'].decode()},
                'score': round(float(rng.random()), 3),
            }
        )
    return content, found


def averages(truth_path, results_path):
    """Numbers for boxes, and for masks if there are some, by bare pycocotools."""
    metrics = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_path))
        # pycocotools takes an object with the id 0 for none.
        truth.dataset['annotations'] = [
            {**instance, 'id': i} for i, instance in enumerate(truth.dataset['annotations'], 1)
        ]
        truth.createIndex()
        found = json.loads(Path(results_path).read_bytes())
        for kind, name, key in (('bbox', 'box', 'bbox'), ('segm', 'mask', 'segmentation')):
            if not all(result.get(key) for result in found):
                continue
            keys = ('image_id', 'category_id', 'score', key)
            alone = [{k: v for k, v in result.items() if k in keys} for result in found]
            evaluation = COCOeval(truth, truth.loadRes(alone), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for number, place in (('ap', 0), ('ap50', 1), ('ar100', 8)):
                metrics[f'{name}_{number}'] = 100 * evaluation.stats[place]
    return metrics


@fuzz(140)
@given(st.data())
def test_detections(detections, tmp_path, data):
    contents = [copy.deepcopy(content) for content in detections]
    which = data.draw(st.integers(0, 1))
    files = [json.dumps(content).encode() for content in contents]
    if data.draw(st.integers(0, 3)):
        files[which] = json.dumps(data.draw(mutated_tree(contents[which]))).encode()
    else:
        files[which] = data.draw(mutated_bytes(files[which]))
    truth, results = tmp_path / 'gt.json', tmp_path / 'dt.json'
    truth.write_bytes(files[0])
    results.write_bytes(files[1])
    metrics = scored('coco', results, '--annotations', truth)
    if metrics is not None:
        try:
            expected = averages(truth, results)
        except Exception:  # pycocotools reads less: whole numbers as fractions
            return
        for name, value in expected.items():
            if name in metrics and value >= 0:
                assert metrics[name] == pytest.approx(value, abs=1e-9)


# ------------------------------------------------------------------------------------------------
# Shards


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
    """Nine images of three classes in shards, and what is read of them."""
    root = tmp_path_factory.mktemp('shards')
    rng = np.random.default_rng(0)
    for i in range(9):
        path = root / f'folders/val/n0000000{i % 3}/ILSVRC2012_val_0000000{i}.JPEG'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
    (root / 'tar').mkdir()
    forms.webdataset(root / 'folders', root / 'tar', 2)
    found = [(path.name, path.read_bytes()) for path in sorted((root / 'tar').iterdir())]
    return found, read_shards(root / 'tar')


def read_shards(folder):
    """What was read, but for the pixels: a tar file has no checksum of them."""
    data = imagenet.load(folder)
    for path, _ in data.samples:
        open_image(path)
    return data.classes, [(path.name, label) for path, label in data.samples], data.fingerprint


@fuzz(300)
@given(st.data())
def test_shards(shards, tmp_path_factory, data):
    files, sound = shards
    folder = tmp_path_factory.mktemp('mutated')
    which = data.draw(st.integers(0, len(files) - 1))
    for i, (name, content) in enumerate(files):
        mutated = data.draw(mutated_bytes(content)) if i == which else content
        (folder / name).write_bytes(mutated)
    assert loaded(lambda: read_shards(folder)) in (None, sound)


def test_labels_of_shards(shards, tmp_path):
    """The names of the images say what class a number is."""
    files, sound = shards
    for number, value in enumerate(VALUES):
        folder = tmp_path / str(number)
        for name, content in files:
            with tarfile.open(fileobj=io.BytesIO(content)) as file:
                members = [(entry.name, file.extractfile(entry).read()) for entry in file]
            if name == files[0][0]:
                key = members[0][0].removesuffix('.cls')
                members[0] = (f'{key}.json', json.dumps({'label': value}).encode())
            forms.tar(folder / name, members)
        assert loaded(lambda folder=folder: read_shards(folder)) in (None, sound)


# ------------------------------------------------------------------------------------------------
# compare


@fuzz(40)
@given(st.data())
def test_records_that_are_compared(tmp_path, data):
    hits = np.random.default_rng(0).random((9, 2)).round().astype(bool)
    statistics = ImageHits(np.arange(9, dtype=np.int32) % 3, np.stack([hits.all(1), hits[:, 1]], 1))
    counts = KeptImages(statistics, tuple('abcdefghi'), tuple('xyz')).to_bytes()
    whole = record('deit_small_patch16_224', 50.0, statistics=SUFFIX)
    path = records.save(whole, b'', tmp_path, counts)
    other = tmp_path / 'other.json'
    content = json.loads(path.read_text())
    if data.draw(st.booleans()):
        other.write_text(json.dumps(data.draw(mutated_tree(content))))
    else:
        other.write_text(json.dumps({**content, 'statistics': 'other.images.npz'}))
        (tmp_path / 'other.images.npz').write_bytes(data.draw(mutated_bytes(counts)))
    names = [str(path), str(other)]
    found = loaded(lambda: compare(find_candidates(names, tmp_path / 'none', None)))
    assert found is None or found[0].metrics['top1'].difference == 0
