"""Data sets of label maps on disks, in every state that is wrong, and what predictions score."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch
from mmseg.datasets import ADE20KDataset
from mmseg.evaluation import IoUMetric
from PIL import Image

from datasets.ade20k import FORMAT, class_names, load
from datasets.segmented import SegmentationFormat
from reproduce.base.errors import DataNotFound, UserError
from reproduce.statistics.segmentation_metrics import ious, means
from reproduce.tasks.segmentation_scores import MULTI_SCALE, class_pixels, score_file, score_folder


@pytest.fixture
def root(tmp_path):
    """Five images of two classes, as ADEChallengeData2016."""
    rng = np.random.default_rng(0)
    root = tmp_path / 'ADEChallengeData2016'
    images, labels = root / 'images/validation', root / 'annotations/validation'
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for i in range(1, 6):
        pixels = rng.integers(0, 256, (8, 6 + i, 3), np.uint8)
        Image.fromarray(pixels).save(images / f'ADE_val_{i:08d}.jpg')
        Image.fromarray(rng.integers(0, 3, (8, 6 + i), np.uint8)).save(
            labels / f'ADE_val_{i:08d}.png'
        )
    (root / 'objectInfo150.txt').write_text(
        'Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t2\t3\t1\twall\n'
        '2 \t0.1\t2\t3\t1\tbuilding, edifice \n'
    )
    return root


def test_images_and_label_maps_are_paired(root):
    data = load(root)
    assert data.root == root
    assert data.classes == ('wall', 'building')
    assert [(image.name, labels.name) for image, labels in data.samples] == [
        (f'ADE_val_{i:08d}.jpg', f'ADE_val_{i:08d}.png') for i in range(1, 6)
    ]
    assert not data.complete
    assert data.problems == (
        '2 classes of its own instead of the 150',
        '5 images instead of 2,000',
        'ADE_val_00000006 and 1,994 more are missing',
    )
    part = load(root, limit=2)
    assert [image.stem for image, _ in part.samples] == ['ADE_val_00000001', 'ADE_val_00000003']
    assert part.problems[-1] == '2 of 5 images were asked for'
    assert part.fingerprint != data.fingerprint
    assert load(root, limit=9) == load(root.parent) == data  # the folder above will do
    (root.parent / 'ade').mkdir()
    moved = root.rename(root.parent / 'ade' / root.name)
    assert load(root.parent).root == moved
    with pytest.raises(DataNotFound, match=r'expected ADEChallengeData2016/images/training'):
        load(root.parent, 'train')


def test_the_fingerprint_covers_pixels_and_not_how_they_are_compressed(root):
    before = load(root).fingerprint
    image, labels = load(root).samples[3]
    Image.open(image).save(image, quality=20)
    content = Image.open(labels)
    content.save(labels, compress_level=0)
    assert load(root).fingerprint == before
    content.putpixel((2, 5), 2 - content.getpixel((2, 5)) // 2)
    content.save(labels)
    assert load(root).fingerprint != before


def test_all_of_the_validation_set_is_complete(root):
    images, labels = root / 'images/validation', root / 'annotations/validation'
    for i in range(6, 2001):
        os.link(images / 'ADE_val_00000005.jpg', images / f'ADE_val_{i:08d}.jpg')
        os.link(labels / 'ADE_val_00000005.png', labels / f'ADE_val_{i:08d}.png')
    (root / 'objectInfo150.txt').unlink()
    data = load(root)
    assert data.complete
    assert data.problems == ()
    assert data.classes == tuple(n.strip() for n in ADE20KDataset.METAINFO['classes'])
    (images / 'ADE_val_00000007.jpg').rename(images / 'own.jpg')
    with pytest.raises(UserError, match=r'own\.jpg has no label map'):
        load(root)
    (labels / 'ADE_val_00000007.png').rename(labels / 'own.png')
    assert load(root).problems == ('ADE_val_00000007 is missing',)


def test_a_file_that_does_not_name_the_classes(root):
    (root / 'objectInfo150.txt').write_text('Idx\tName\n1\twall\n3\tsky\n')
    with pytest.raises(UserError, match=r'objectInfo150\.txt does not name the classes'):
        class_names(root)


def png(pixels, mode=None):
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(content, 'PNG')
    return content.getvalue()


GREY = np.zeros((8, 9), np.uint8)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, r'ADE_val_00000003\.jpg has no label map: expected it in .*annotations/validation'),
        (png(GREY.T), r'ADE_val_00000003\.png has 8 x 9 pixels and its image 9 x 8'),
        (png(GREY + 3), r'ADE_val_00000003\.png has the label 3: expected 0 .* or 1 to 2'),
        (png(GREY)[:48], r'cannot read the label map .*ADE_val_00000003\.png'),
        (png(GREY, 'RGB'), r'ADE_val_00000003\.png is a PNG of mode RGB: expected a label map'),
    ],
)
def test_a_label_map_that_is_wrong_is_named(root, content, message):
    path = root / 'annotations/validation/ADE_val_00000003.png'
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load(root)
    assert '\n' not in str(error.value)


def test_what_cannot_be_loaded(root):
    with pytest.raises(UserError, match='nowhere is not a folder'):
        load(root / 'nowhere')
    with pytest.raises(DataNotFound, match='no ADE20K images'):
        load(root / 'annotations')
    (root / 'images/validation/ADE_val_00000002.jpg').write_bytes(b'no image')
    with pytest.raises(UserError, match=r'cannot read the image .*ADE_val_00000002\.jpg'):
        load(root)


def test_a_palette_is_read_as_its_indices(tmp_path):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(labels)
    image.putpalette(range(255, 207, -1))
    assert image.mode == 'P'
    image.save(tmp_path / 'bytes.png')
    image.save(tmp_path / 'half.png', bits=4)
    for path in tmp_path.iterdir():
        assert np.array_equal(FORMAT.read_label_map(path, 11), labels)


def test_cityscapes_is_another_format(tmp_path):
    cityscapes = SegmentationFormat(
        name='Cityscapes',
        num_images={'train': 2975, 'val': 3},
        num_classes=19,
        class_names=lambda folder: tuple(map(str, range(19))),
        splits={'train': 'train', 'val': 'val'},
        images='leftImg8bit/{}',
        labels='gtFine/{}',
        image_suffix='_leftImg8bit.png',
        label_suffix='_gtFine_labelTrainIds.png',
        first_label=0,
        folder='cityscapes',
    )
    stored = np.r_[:19, 255].astype(np.uint8).reshape(4, 5)
    for kind in ('leftImg8bit', 'gtFine_labelTrainIds', 'gtFine_color'):
        folder = tmp_path / 'cityscapes' / kind.partition('_')[0] / 'val/lindau'
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stored).save(folder / f'lindau_0_{kind}.png')
    ((image, label_map),) = cityscapes.load(tmp_path).samples
    assert image.name == 'lindau_0_leftImg8bit.png'
    labels = cityscapes.read_label_map(label_map, 19)
    assert np.array_equal(labels, np.where(stored == 255, 0, stored + 1))
    assert np.array_equal(cityscapes.encode_label_map(labels), stored)
    with pytest.raises(UserError, match='has the label 18: expected 255 for no class, or 0 to 17'):
        cityscapes.read_label_map(label_map, 18)


CLASSES = 7


@pytest.fixture
def maps():
    """Twelve label maps with predictions; class 3 is only predicted, 4 only labelled, 6 neither."""
    rng = np.random.default_rng(1)
    pairs = []
    for _ in range(12):
        size = rng.integers(5, 40, 2)
        pairs.append((rng.choice([0, 1, 2, 3, 5, 7], size), rng.choice([0, 1, 2, 4, 5, 7], size)))
    return [(p.astype(np.uint8), label.astype(np.uint8)) for p, label in pairs]


def test_it_is_the_one_of_mmseg(maps):
    areas = [
        IoUMetric.intersect_and_union(
            # As mmseg reads them: 0 becomes 255, which is ignored.
            torch.from_numpy(p - np.uint8(1)).long(),
            torch.from_numpy(label - np.uint8(1)).long(),
            CLASSES,
            255,
        )
        for p, label in maps
    ]
    expected = IoUMetric.total_area_to_metrics(*(sum(a).double() for a in zip(*areas, strict=True)))
    total = sum(class_pixels(p, t, CLASSES) for p, t in maps)
    metrics = means(total)
    assert metrics['miou'] == pytest.approx(100 * np.nanmean(expected['IoU']), abs=1e-10)
    assert metrics['macc'] == pytest.approx(100 * np.nanmean(expected['Acc']), abs=1e-10)
    assert metrics['aacc'] == pytest.approx(100 * expected['aAcc'], abs=1e-10)
    np.testing.assert_allclose(ious(total), 100 * expected['IoU'])


def test_every_pair_of_255_classes_is_counted():
    prediction, label = (a.astype(np.uint8) for a in np.mgrid[:256, :256])
    counts = class_pixels(prediction, label, 255)
    assert counts.tolist() == [[1] * 255, [256] * 255, [255] * 255]


def test_a_pixel_counts_however_many_there_are():
    label = np.ones((4200, 4000), np.uint8)
    prediction = label.copy()
    label[0, 0] = 2
    one, n = class_pixels(prediction, label, 2), 4200 * 4000
    assert n > 2**24
    assert one.tolist() == [[n - 1, 0], [n - 1, 1], [n, 0]]
    metrics = means(300 * one)
    assert 300 * n > 2**32
    assert metrics['aacc'] == 100 * (n - 1) / n
    assert metrics['miou'] == 50 * (n - 1) / n


def test_a_pixel_of_no_predicted_class_is_wrong():
    total = class_pixels(np.array([[1, 0, 2, 2]], np.uint8), np.array([[1, 1, 2, 0]], np.uint8), 2)
    assert ious(total).tolist() == [50.0, 100.0]
    assert means(total) == {'miou': 75.0, 'macc': 75.0, 'aacc': pytest.approx(200 / 3)}


def to_zip(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        for name, file in files.items():
            archive.writestr(name, file)
    return content.getvalue()


@pytest.fixture
def predictions(root, tmp_path):
    """Those of a folder, and at several scales the truth."""
    rng = np.random.default_rng(2)
    folder = tmp_path / 'predictions'
    (folder / MULTI_SCALE).mkdir(parents=True)
    for _, labels in load(root).samples:
        truth = np.array(Image.open(labels))
        guess = rng.integers(1, 3, truth.shape, np.uint8)
        Image.fromarray(guess).save(folder / labels.name)
        Image.fromarray(truth).save(folder / MULTI_SCALE / labels.name)
    return folder


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*.png')}


def test_a_folder_and_an_archive_of_it_score_the_same(root, predictions, tmp_path):
    annotations = root / 'annotations/validation'
    folder = score_folder(predictions, annotations, None, FORMAT)
    assert folder[0].metrics['ms_miou'] == 100.0
    assert folder[0].per_class['wall']['ms_iou'] == 100.0
    total = sum(
        class_pixels(*(FORMAT.read_label_map(f, 2) for f in (predictions / p.name, p)), 2)
        for p in annotations.iterdir()
    )
    assert folder[0].metrics['miou'] == means(total)['miou'] < 100
    archive = tmp_path / 'predictions.zip'
    archive.write_bytes(to_zip(files(predictions)))
    assert score_folder(archive, annotations, None, FORMAT) == folder
    content = {p.relative_to(tmp_path): p for p in root.rglob('*') if p.is_file()}
    data = tmp_path / 'packed/ADEChallengeData2016.zip'
    data.parent.mkdir()
    data.write_bytes(to_zip({str(name): path.read_bytes() for name, path in content.items()}))
    assert score_file(archive, load(data.parent)) == folder[0]


def test_a_part_of_the_predictions(root, predictions):
    annotations = root / 'annotations/validation'
    for name in ('ADE_val_00000002.png', 'ADE_val_00000004.png', 'ADE_val_00000005.png'):
        (predictions / name).unlink()
        (predictions / MULTI_SCALE / name).unlink()
    _, images, problems = score_folder(predictions, annotations, 2, FORMAT)
    assert images == 2
    assert '2 of 5 images were asked for' in problems
    with pytest.raises(UserError, match=r'ADE_val_00000002\.png and 2 more are not predicted'):
        score_folder(predictions, annotations, None, FORMAT)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        (f'{MULTI_SCALE}/ADE_val_00000003.png', None, r'ADE_val_00000003\.png is not predicted'),
        ('other.png', png(GREY), r'other\.png is predicted but not there'),
        ('ADE_val_00000003.png', png(GREY.T), 'has 8 x 9 pixels and its'),
        ('ADE_val_00000003.png', png(GREY + 7), r'ADE_val_00000003\.png has the label 7'),
        ('ADE_val_00000003.png', b'', r'cannot read the label map .*ADE_val_00000003\.png'),
    ],
)
def test_predictions_that_do_not_fit(root, predictions, name, content, message):
    archive = predictions.with_suffix('.zip')
    changed = {**files(predictions), name: content}
    archive.write_bytes(to_zip({k: v for k, v in changed.items() if v is not None}))
    with pytest.raises(UserError, match=message) as error:
        score_folder(archive, root / 'annotations/validation', None, FORMAT)
    assert '\n' not in str(error.value)


def test_the_command_scores_a_folder(run, root):
    labels = root / 'annotations/validation'
    code, out, _ = run('score', 'ade20k', labels, '--annotations', labels, '--format', 'json')
    scored = json.loads(out)
    assert scored['metrics'] == {'miou': 100.0, 'macc': 100.0, 'aacc': 100.0}
    assert scored['per_class'] == {'wall': {'iou': 100.0}, 'building': {'iou': 100.0}}
    assert scored['problems'] == list(load(root).problems)
    code, out, err = run('score', 'ade20k', root / 'nowhere', '--annotations', labels)
    assert (code, out, err.count('\n')) == (2, '', 1)
