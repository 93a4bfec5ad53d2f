"""Mutated inputs: each ends in the right number or in one sentence, within ten seconds.

What is accepted is computed a second time from the same file by other means: by the csv module and
counting, by bare pycocotools, by counting pixels, or by the libraries that read the format.
"""

import contextlib
import copy
import csv
import faulthandler
import gzip
import io
import json
import math
import pickle
import shutil
import struct
import sys
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path
from statistics import mean

import forms
import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from conftest import record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet as pq
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import save_file

from datasets import imagenet, shapes
from reproduce import cli
from reproduce.base.errors import UserError
from reproduce.evaluate import records
from reproduce.weights import parameters, registry

pytestmark = pytest.mark.slow

MOST_SECONDS = 10  # of computing: a busy machine does not count
HANGS_AFTER = 300
longest: dict[str, float] = {}
ends: dict[str, dict[str, int]] = {}


def fuzz(examples):
    """Draw so many inputs, the same ones every time."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=checks,
    )


@pytest.fixture(scope='module', autouse=True)
def _summary():
    yield
    for name, counts in ends.items():
        listed = ', '.join(f'{n} {end}' for end, n in sorted(counts.items()))
        print(f'\n{name}: {listed}; the longest {longest[name]:.1f} s', end='')


@contextlib.contextmanager
def watched(name):
    """Count an input under the name that the block leaves; end all tests if it hangs."""
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True, file=sys.__stderr__)
    begin, end = time.process_time(), {}
    try:
        yield end
    finally:
        faulthandler.cancel_dump_traceback_later()
    seconds = time.process_time() - begin
    longest[name] = max(longest.get(name, 0), seconds)
    counts = ends.setdefault(name, {})
    counts[end['is']] = counts.get(end['is'], 0) + 1
    assert seconds < MOST_SECONDS


def is_one_sentence(message):
    assert '\n' not in message.strip('\n')
    assert 'Traceback' not in message
    assert message.rstrip('\n').endswith('.')


def scored(name, *arguments):
    """Run a command of `score`, and return its result; None if it ends in one sentence."""
    # As the streams of a process are.
    out, err = (
        io.TextIOWrapper(io.BytesIO(), 'utf-8', errors, write_through=True)
        for errors in ('strict', 'backslashreplace')
    )
    before = sys.argv
    sys.argv = ['reproduce', 'score', *map(str, arguments), '--format', 'json']
    try:
        with watched(name) as end:
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                pytest.raises(SystemExit) as stop,
            ):
                cli.run()
            end['is'] = 'sentences' if stop.value.code else 'numbers'
    finally:
        sys.argv = before
    if stop.value.code == 0:
        result = json.loads(out.buffer.getvalue())
        assert all(0 <= value <= 100 for value in result['metrics'].values())
        return result['metrics']
    message = err.buffer.getvalue().decode()
    assert (stop.value.code, out.buffer.getvalue()) == (2, b'')
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
def mutated_bytes(draw, content, kinds=('token', 'bits', 'cut', 'twice', 'end')):
    """Change one to three places of a file."""
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        at = draw(st.integers(0, len(content)))
        n = draw(st.sampled_from([0, 1, 2, 8, 40]))
        kind = draw(st.sampled_from(kinds))
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
    """Change one or two values of what JSON holds: replace, remove, repeat or exchange them."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        places = list(_places(content))
        # All depths and all keys alike, whichever there are most of.
        keys = sorted({tuple(str(k) for k in place if isinstance(k, str)) for place in places})
        names = draw(st.sampled_from(keys))
        fitting = [p for p in places if tuple(str(k) for k in p if isinstance(k, str)) == names]
        place = draw(st.sampled_from(fitting))
        parent = content
        for key in place[:-1]:
            parent = parent[key]
        key, value = place[-1], parent[place[-1]]
        kinds = ['value', 'number', 'number', 'number', 'remove', 'twice']
        kind = draw(st.sampled_from(kinds))
        if kind == 'remove':
            del parent[key]
        elif kind == 'twice' and isinstance(parent, list):
            parent.append(copy.deepcopy(value))
        elif kind == 'number' and isinstance(value, int | float):
            parent[key] = value * draw(st.sampled_from([-1, 0, 0.5, 2, 1.0])) + draw(
                st.sampled_from([0, 1, -1, 0.25])
            )
        else:
            parent[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        if not content:
            break
    return content


# ------------------------------------------------------------------------------------------------
# score imagenet


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """21 images of seven classes, and a file of predictions for them."""
    root = tmp_path_factory.mktemp('classes')
    rng, rows = np.random.default_rng(0), []
    for i in range(21):
        path = root / 'val' / f'class{i % 7}' / f'{i:02d}.JPEG'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'x')
        classes = rng.permutation(7)[:5]
        scores = sorted(rng.random(5).round(3).tolist(), reverse=True)
        rows.append([path.name, i % 7, *classes.tolist(), *scores])
    head = ['file', 'label', *(f'{n}{i}' for n in ('class', 'score') for i in range(1, 6))]
    return root, '\n'.join(','.join(map(str, row)) for row in [head, *rows]).encode()


def accuracies(content, root):
    """Top-1 and Top-5 by the csv module and by counting."""
    head, *rows = csv.reader(io.StringIO(content.decode('utf-8-sig')))
    rows = [dict(zip(head, row, strict=True)) for row in rows if row]
    labels = {path.name: label for path, label in imagenet.load(root).samples}
    assert sorted(row['file'] for row in rows) == sorted(labels)
    k = sum(name.startswith('class') for name in head)
    hits = [[int(row[f'class{i}']) == labels[row['file']] for i in range(1, k + 1)] for row in rows]
    top = {'top1': 100 * mean(row[0] for row in hits)}
    return top | ({'top5': 100 * mean(any(row[:5]) for row in hits)} if k >= 5 else {})


def check_predictions(content, root, path):
    path.write_bytes(content)
    if (metrics := scored('score imagenet', 'imagenet', path, '--data', root)) is not None:
        if content.startswith(b'\x1f\x8b'):
            content = gzip.decompress(content)
        assert metrics == pytest.approx(accuracies(content, root))
    return metrics


def test_sound_classes(folders, tmp_path):
    root, content = folders
    for form in (content, gzip.compress(content)):
        assert check_predictions(form, root, tmp_path / 'predictions.csv') is not None


@fuzz(100)
@given(st.data())
def test_predicted_classes(folders, tmp_path, data):
    root, content = folders
    if data.draw(st.integers(0, 4)) == 0:
        content = data.draw(mutated_bytes(gzip.compress(content, mtime=0)))
    elif data.draw(st.booleans()):
        content = data.draw(mutated_bytes(content))
    else:  # whole fields, of which some stay what they have to be
        head, *rows = [line.split(b',') for line in content.split(b'\n')]
        row, other = (data.draw(st.sampled_from(rows)) for _ in range(2))
        place = data.draw(st.integers(0, len(row) - 1))
        match data.draw(st.sampled_from(['token', 'order', 'exchange', 'columns'])):
            case 'token':
                row[place] = data.draw(st.sampled_from(TOKENS))
            case 'order':
                rows = data.draw(st.permutations(rows))
            case 'exchange':
                row[place], other[place] = other[place], row[place]
            case 'columns':
                k = data.draw(st.integers(0, 5))
                kept = [0, 1, *range(2, 2 + k), *range(7, 7 + k)]
                head, *rows = [[fields[i] for i in kept] for fields in [head, *rows]]
        content = b'\n'.join(b','.join(fields) for fields in [head, *rows])
        if data.draw(st.booleans()):
            content = b'\xef\xbb\xbf' + content.replace(b'\n', b'\r\n') + b'\r\n'
    check_predictions(content, root, tmp_path / 'predictions.csv.gz')


# ------------------------------------------------------------------------------------------------
# score coco


@pytest.fixture(scope='module')
def detections(tmp_path_factory):
    """Annotations of four drawn images, and detections near them, with masks."""
    root = tmp_path_factory.mktemp('drawn')
    shapes.write(root, train=0, val=40)
    path = root / 'coco/annotations/instances_val2017.json'
    content = json.loads(path.read_text())
    content['images'] = content['images'][:4]
    taken = {image['id'] for image in content['images']}
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in taken]
    path.write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    rng, found = np.random.default_rng(0), []
    for instance in truth.dataset['annotations']:
        mask = truth.annToRLE(instance)
        found.append(
            {
                'image_id': instance['image_id'],
                'category_id': instance['category_id'],
                'bbox': (np.array(instance['bbox']) + rng.normal(0, 2, 4)).round(2).tolist(),
                'segmentation': {'size': list(mask['size']), 'counts': mask['counts'].decode()},
                'score': round(float(rng.random()), 3),
            }
        )
        x, y, width, height = found[-1]['bbox']
        found[-1]['bbox'] = [max(x, 0), max(y, 0), max(width, 1), max(height, 1)]
    return truth.dataset, found


def averages(truth_path, results_path):
    """The twelve numbers for boxes, and for masks if there are some, by bare pycocotools."""
    metrics = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_path))
        # pycocotools takes an object with the id 0 for none.
        truth.dataset['annotations'] = [
            {**instance, 'id': i} for i, instance in enumerate(truth.dataset['annotations'], 1)
        ]
        truth.createIndex()
        found = json.loads(Path(results_path).read_bytes())
        for kind, name in (('bbox', 'box'), ('segm', 'mask')):
            key = 'bbox' if kind == 'bbox' else 'segmentation'
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


def check_detections(truth, results, folder, fast):
    gt, dt = folder / 'gt.json', folder / 'dt.json'
    gt.write_bytes(truth if isinstance(truth, bytes) else json.dumps(truth).encode())
    dt.write_bytes(results if isinstance(results, bytes) else json.dumps(results).encode())
    command = ('coco', dt, '--annotations', gt)
    metrics = scored('score coco', *command)
    if fast:
        assert scored('score coco --fast', *command, '--fast') == pytest.approx(metrics, abs=1e-9)
    if metrics is None:
        return None
    try:
        expected = averages(gt, dt)
    except Exception:  # pycocotools reads less: text with a mark, whole numbers as fractions
        return metrics
    for name, value in expected.items():
        if name in metrics and value >= 0:
            assert metrics[name] == pytest.approx(value, abs=1e-9)
    return metrics


def test_sound_detections(detections, tmp_path):
    metrics = check_detections(*detections, tmp_path, fast=True)
    assert metrics['box_ap'] > 10
    assert metrics['mask_ap'] > 80


@fuzz(140)
@given(st.data())
def test_detections(detections, tmp_path, data):
    truth, found = detections
    which, whole = data.draw(st.booleans()), data.draw(st.integers(0, 3)) > 0
    mutate = mutated_tree if whole else lambda tree: mutated_bytes(json.dumps(tree).encode())
    if which:
        truth = data.draw(mutate(truth))
    else:
        found = data.draw(mutate(found))
    check_detections(truth, found, tmp_path, fast=data.draw(st.integers(0, 3)) == 0)


# ------------------------------------------------------------------------------------------------
# score ade20k


@pytest.fixture(scope='module')
def maps(tmp_path_factory):
    root = tmp_path_factory.mktemp('maps')
    shapes.write(root, train=0, val=40)
    (annotations,) = root.rglob('annotations/validation')
    rng = np.random.default_rng(0)
    for path in sorted(annotations.glob('*.png'))[3:]:
        path.unlink()
    for path in annotations.glob('*.png'):
        label = np.asarray(Image.open(path))
        wrong = np.where(rng.random(label.shape) < 0.2, rng.integers(1, 11, label.shape), label)
        (root / 'predicted').mkdir(exist_ok=True)
        Image.fromarray(np.maximum(wrong, 1).astype(np.uint8)).save(root / 'predicted' / path.name)
    return annotations, root / 'predicted'


def mean_iou(predictions, annotations):
    """By sets of pixels."""
    predicted, labels = (
        np.concatenate([np.asarray(Image.open(p)).ravel() for p in sorted(folder.glob('*.png'))])
        for folder in (predictions, annotations)
    )
    predicted, labels = predicted[labels > 0], labels[labels > 0]
    ious = []
    for c in set(predicted.tolist()) | set(labels.tolist()):
        if c:
            both = ((predicted == c) & (labels == c)).sum()
            ious.append(100 * both / ((predicted == c) | (labels == c)).sum())
    return mean(ious)


def test_sound_label_maps(maps):
    annotations, predicted = maps
    metrics = scored('score ade20k', 'ade20k', predicted, '--annotations', annotations)
    assert metrics['miou'] == pytest.approx(mean_iou(predicted, annotations))


@fuzz(60)
@given(st.data())
def test_label_maps(maps, tmp_path, data):
    annotations, predicted = maps
    folder = tmp_path / 'predicted'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(predicted, folder)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    kind = data.draw(st.sampled_from(['bytes', 'pixels', 'image', 'zip']))
    if kind == 'bytes':
        path.write_bytes(data.draw(mutated_bytes(path.read_bytes())))
    elif kind == 'pixels':
        pixels = np.array(Image.open(path))
        y, x = (data.draw(st.integers(0, n - 1)) for n in pixels.shape)
        pixels[y:, x:] = data.draw(st.sampled_from([0, 1, 10, 15, 16, 150, 151, 255]))
        Image.fromarray(pixels).save(path)
    elif kind == 'image':
        image = Image.open(path)
        mode = data.draw(st.sampled_from(['1', 'L', 'P', 'RGB', 'LA', 'I', 'I;16', 'F', 'CMYK']))
        size = data.draw(st.sampled_from([image.size, image.size[::-1], (1, 1), (1, 500)]))
        form = data.draw(st.sampled_from(['PNG', 'TIFF']))
        with contextlib.suppress(OSError, ValueError):
            Image.new(mode, size, 1).save(path, form)
    else:
        folder = tmp_path / 'predicted.zip'
        with zipfile.ZipFile(folder, 'w') as archive:
            for png in predicted.iterdir():
                archive.write(png, png.name)
        folder.write_bytes(data.draw(mutated_bytes(folder.read_bytes())))
    metrics = scored('score ade20k', 'ade20k', folder, '--annotations', annotations)
    if metrics is not None:
        if folder.is_file():
            with zipfile.ZipFile(folder) as archive:
                shutil.rmtree(tmp_path / 'unzipped', ignore_errors=True)
                archive.extractall(tmp_path / 'unzipped')
            folder = tmp_path / 'unzipped'
        assert metrics['miou'] == pytest.approx(mean_iou(folder, annotations))


def loaded(name, load):
    """Return what `load` returns; None if it ends in one sentence."""
    with watched(name) as end:
        try:
            result = load()
        except UserError as error:
            end['is'] = 'sentences'
            is_one_sentence(str(error))
            return None
        end['is'] = 'loaded'
        return result


# ------------------------------------------------------------------------------------------------
# Shards and parquet files


SHARD = {f'{i:02d}.{e}': c for i in range(12) for e, c in (('cls', b'%d' % (i % 4)), ('jpg', b'x'))}


def labels_in(folder):
    """The label of each image by its name, by tarfile or by pyarrow."""
    (path,) = folder.iterdir()
    if path.suffix == '.parquet':
        rows = pq.read_table(path).to_pylist()
        return sorted((row['image']['path'], row['label']) for row in rows)
    with tarfile.open(path) as tar:
        content = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isreg()}
    images = [name for name in content if name.endswith('.jpg')]
    return sorted((name, int(content[name.replace('.jpg', '.cls')])) for name in images)


def check_shard(folder):
    data = loaded('shards', lambda: imagenet.load(folder))
    if data is not None:
        assert sorted((path.name, label) for path, label in data.samples) == labels_in(folder)
    return data


@fuzz(50)
@given(st.data())
def test_webdataset_shards(tmp_path, data):
    members = list(SHARD.items())
    at = data.draw(st.integers(0, len(members) - 1))
    name, content = members[at]
    match data.draw(st.sampled_from(['bytes', 'remove', 'twice', 'name', 'label', 'nothing'])):
        case 'remove':
            del members[at]
        case 'twice':
            members.append(members[at])
        case 'name':
            members[at] = (
                data.draw(st.sampled_from(['', '../', '\udce9', '.', 'x/'])) + name,
                content,
            )
        case 'label':
            members[at] = (name, data.draw(st.sampled_from(TOKENS)))
    folder = tmp_path / 'shards'
    path = forms.tar(folder / 'val-00.tar', members)
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(mutated_bytes(path.read_bytes(), ('bits', 'end', 'twice'))))
    check_shard(folder)


@fuzz(50)
@given(st.data())
def test_parquet(tmp_path, data):
    rows = [
        {'image': {'bytes': b'x', 'path': name}, 'label': i % 4}
        for i, name in enumerate(name for name in SHARD if name.endswith('.jpg'))
    ]
    if whole := data.draw(st.booleans()):
        key = data.draw(st.sampled_from(['label', 'image']))
        values = (
            [None, -1, 2**31, 2**62] if key == 'label' else [None, {'bytes': None, 'path': 'a'}]
        )
        data.draw(st.sampled_from(rows))[key] = data.draw(st.sampled_from(values))
    folder = tmp_path / 'parquet'
    folder.mkdir(exist_ok=True)
    path = folder / 'val-00000-of-00001.parquet'
    pq.write_table(pa.Table.from_pylist(rows), path)
    if not whole:
        path.write_bytes(data.draw(mutated_bytes(path.read_bytes(), ('bits', 'cut', 'end'))))
    check_shard(folder)


# ------------------------------------------------------------------------------------------------
# Records, manifests and checkpoints


@fuzz(70)
@given(st.data())
def test_records(tmp_path, data):
    content = record('deit_small_patch16_224', 79.8).model_dump(mode='json')
    if data.draw(st.integers(0, 2)):
        text = json.dumps(data.draw(mutated_tree(content))).encode()
    else:
        text = data.draw(mutated_bytes(json.dumps(content, indent=2).encode()))
    path = tmp_path / 'x.json'
    path.write_bytes(text)
    if (evaluation := loaded('records', lambda: records.load(path))) is not None:
        assert evaluation.metrics == json.loads(text)['metrics']
        assert all(0 <= value <= 100 for value in evaluation.metrics.values())
        assert evaluation.key and evaluation.stem and evaluation.origin


@fuzz(60)
@given(st.data())
def test_manifests(tmp_path, data):
    content = b"""[[checkpoint]]
name = "mine"
task = "imagenet"
model = "maformer_micro"
arguments = { token_labeling = true }
preprocessing = { img_size = 64 }
file = "weights/mine.safetensors"
sha256 = "%s"
licence = "MIT"
[[checkpoint.reference]]
fingerprint = "0123456789abcdef"
images = 100
metrics = { top1 = 69.0 }
source = "me"
""" % (b'a' * 64)
    if data.draw(st.booleans()):
        content = data.draw(mutated_bytes(content))
    else:  # whole values
        lines = content.split(b'\n')
        at = data.draw(st.sampled_from([i for i, line in enumerate(lines) if b' = ' in line]))
        value = data.draw(st.sampled_from(TOKENS))
        lines[at] = lines[at].partition(b' = ')[0] + b' = ' + value
        content = b'\n'.join(lines)
    path = tmp_path / 'manifest.toml'
    path.write_bytes(content)
    registry.load_manifest.cache_clear()
    if (entries := loaded('manifests', lambda: registry.load_manifest(path))) is not None:
        raw = tomllib.loads(content.decode()).get('checkpoint', [])
        assert [(e.name, e.sha256, e.file) for e in entries] == [
            (e['name'], e['sha256'], e.get('file')) for e in raw
        ]
        for entry, plain in zip(entries, raw, strict=True):
            for reference, other in zip(entry.reference, plain.get('reference', []), strict=True):
                assert reference.metrics == other['metrics']
                assert all(0 <= value <= 100 for value in reference.metrics.values())


@pytest.fixture(scope='module')
def checkpoint_files(tmp_path_factory):
    """The same small network in each format."""
    folder = tmp_path_factory.mktemp('checkpoints')
    torch.manual_seed(0)
    state = timm.create_model('test_resnet', num_classes=3).state_dict()
    metadata = {'recipe': '{}', 'img_size': '64', 'crop_pct': '0.9'}
    save_file(state, folder / 'x.safetensors', metadata)
    torch.save({'model': state, 'path': Path('/x')}, folder / 'x.pth')
    legacy = {'_use_new_zipfile_serialization': False}
    torch.save({'state_dict': state, 'epoch': 3}, folder / 'legacy.pth', **legacy)
    return sorted(folder.iterdir())


def bare(path):
    """The parameters of a file in safetensors by its specification, of another by torch.

    None where torch refuses an object beside them.
    """
    content = path.read_bytes()
    (length,) = struct.unpack('<Q', content[:8])
    if content[8:9] == b'{':
        header = json.loads(content[8 : 8 + length])
        header.pop('__metadata__', None)
        data = content[8 + length :]
        kinds = {'F32': np.float32, 'I64': np.int64}
        return {
            name: np.frombuffer(data[slice(*entry['data_offsets'])], kinds[entry['dtype']]).reshape(
                entry['shape']
            )
            for name, entry in header.items()
        }
    try:
        with torch.serialization.safe_globals([(Path, 'pathlib.PosixPath')]):
            read = torch.load(path, weights_only=True)
    except pickle.UnpicklingError:
        return None
    state = read['model'] if 'model' in read else read['state_dict']
    return {name: value.numpy() for name, value in state.items()}


@fuzz(70)
@given(st.data())
def test_checkpoints(checkpoint_files, tmp_path, data):
    source = data.draw(st.sampled_from(checkpoint_files))
    content = source.read_bytes()
    if data.draw(st.booleans()):  # what describes the tensors, before and behind them
        ends = 3000 if data.draw(st.booleans()) else 0
        head, tail = content[: 3000 - ends], content[-ends:] if ends else b''
        middle = content[len(head) : len(content) - len(tail)]
        content = (
            data.draw(mutated_bytes(head))
            + middle
            + (data.draw(mutated_bytes(tail)) if tail else b'')
        )
    else:
        content = data.draw(mutated_bytes(content, ('bits', 'bits', 'bits', 'token', 'end')))
    path = tmp_path / source.name
    path.write_bytes(content)
    model = timm.create_model('test_resnet', num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def load():
        trained = parameters.trained_preprocessing(path)
        parameters.load(model, path)
        return trained

    trained, state = loaded('checkpoints', load), model.state_dict()
    if trained is None:
        assert all(torch.equal(value, before[name]) for name, value in state.items())
        return
    assert not trained or (32 <= trained['img_size'] <= 2048 and 0 < trained['crop_pct'] <= 1)
    expected = bare(path)
    if expected is None:  # a class has another name; the parameters are where they were
        expected = bare(source)
    for name, value in expected.items():
        assert np.array_equal(state[name].numpy(), value)
        assert np.isfinite(value).all()
