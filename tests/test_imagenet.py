"""ImageNet as it lies on people's disks, complete and not."""

import itertools
import shutil
from collections import Counter

import numpy as np
import pytest
import scipy.io
from PIL import Image
from timm.data import ImageNetInfo
from torchvision.datasets import ImageFolder

from datasets import imagenet
from datasets.reading import open_image
from reproduce.base.errors import DataNotFound, UserError

REAL = tuple(sorted(ImageNetInfo('imagenet-1k').label_names()))
OWN = ('n00000001', 'n00000002', 'n00000003')


def touch(path, size):
    """A file of `size` bytes, none of them on the disk: an inventory decodes nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('wb') as file:
        file.truncate(size)


def class_folders(root, wnids, each=4, split='val'):
    number = itertools.count(1)
    for wnid in wnids:
        for _ in range(each):
            i = next(number)
            touch(root / split / wnid / f'ILSVRC2012_val_{i:08d}.JPEG', i)


def flat(folder, images):
    for i in range(1, images + 1):
        touch(folder / f'ILSVRC2012_val_{i:08d}.JPEG', i)


def devkit(folder, wnids, ids, inner=2):
    """meta.mat as the devkit has it: leaves in the order of ILSVRC ids, then inner nodes."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [('ILSVRC2012_ID', 'O'), ('WNID', 'O'), ('words', 'O'), ('num_children', 'O')]
    synsets = [(i, wnid, f'class {i}', 0) for i, wnid in enumerate(wnids, 1)]
    synsets += [(len(wnids) + i, f'n9000000{i}', 'inner', 2) for i in range(1, inner + 1)]
    table = np.array([tuple(row) for row in synsets], dtype=kinds)[:, None]
    scipy.io.savemat(folder / 'meta.mat', {'synsets': table})
    lines = ''.join(f'{i}\n' for i in ids)
    (folder / 'ILSVRC2012_validation_ground_truth.txt').write_text(lines)


@pytest.fixture(scope='module')
def all_classes(tmp_path_factory):
    root = tmp_path_factory.mktemp('full')
    class_folders(root, REAL, 2)
    return root


@pytest.fixture
def full(all_classes, monkeypatch):
    """Two images of each class, which are the complete validation set here."""
    monkeypatch.setattr(imagenet, 'NUM_IMAGES', {'val': 2000})
    monkeypatch.setattr(imagenet, 'VAL_IMAGES_PER_CLASS', 2)
    return all_classes


def test_the_full_validation_set_is_complete(full):
    data = imagenet.load(full)
    assert data.complete
    assert data.problems == ()
    assert data.classes == REAL
    assert Counter(label for _, label in data.samples) == dict.fromkeys(range(1000), 2)
    half = imagenet.load(full, limit=1000)
    assert half.problems == ('1,000 of 2,000 images were asked for',)
    assert [label for _, label in half.samples] == list(range(1000))
    assert half.fingerprint != data.fingerprint


def test_the_flat_layout_of_the_same_images_is_the_same_data(full, tmp_path):
    """Same samples, same fingerprint, whatever labels them."""
    expected = imagenet.load(full)
    order = np.random.default_rng(0).permutation(1000)  # ILSVRC ids are not the sorted order
    ilsvrc = [REAL[i] for i in order]
    folder = tmp_path / 'ILSVRC/Data/CLS-LOC/val'
    folder.mkdir(parents=True)
    labels = {}
    for path, label in expected.samples:
        (folder / path.name).hardlink_to(path)
        labels[path.name] = REAL[label]
    ids = {wnid: i for i, wnid in enumerate(ilsvrc, 1)}
    devkit(
        tmp_path / 'ILSVRC2012_devkit_t12/data', ilsvrc, [ids[labels[n]] for n in sorted(labels)]
    )

    data = imagenet.load(tmp_path)
    assert data.complete
    assert data.fingerprint == expected.fingerprint
    assert [(p.name, k) for p, k in data.samples] == [(p.name, k) for p, k in expected.samples]

    shutil.rmtree(tmp_path / 'ILSVRC2012_devkit_t12')
    lines = [f'{name} {wnid}' for name, wnid in labels.items()]
    (tmp_path / 'val_labels.txt').write_text('\n'.join(lines))
    assert imagenet.load(tmp_path).fingerprint == expected.fingerprint

    (tmp_path / 'val_labels.txt').unlink()
    lines = [f'{name[:-5]},{wnid} 1 2 3 4' for name, wnid in labels.items()]
    text = '\r\n'.join(['ImageId,PredictionString', *lines])
    (tmp_path / 'LOC_val_solution.csv').write_text(text, encoding='utf-8-sig')
    assert imagenet.load(tmp_path).fingerprint == expected.fingerprint


def test_a_missing_class_is_named_and_moves_no_other(tmp_path):
    class_folders(tmp_path, REAL[:5] + REAL[6:], 1)
    data = imagenet.load(tmp_path)
    assert not data.complete
    assert f'999 of 1,000 classes: {REAL[5]} is missing' in data.problems
    assert '999 images instead of 50,000' in data.problems
    assert [label for _, label in data.samples] == [*range(5), *range(6, 1000)]


def test_a_missing_and_an_extra_image_are_named(full, tmp_path):
    shutil.copytree(full / 'val', tmp_path / 'val', copy_function=lambda a, b: None)
    for path, label in imagenet.load(full).samples:
        (tmp_path / 'val' / REAL[label] / path.name).hardlink_to(path)
    next((tmp_path / 'val' / REAL[7]).iterdir()).unlink()
    touch(tmp_path / 'val' / REAL[9] / 'another.JPEG', 1)
    data = imagenet.load(tmp_path)
    assert not data.complete
    assert data.problems == (f'not 2 images in every class: {REAL[7]} (1), {REAL[9]} (3)',)


def test_numbers_of_class_folders_are_checked(tmp_path):
    for names, expected in ((('0', '00', '1'), 'each once'), (('1', '100000'), 'to 99,999')):
        for name in names:
            touch(tmp_path / expected[:4] / 'val' / name / 'a.jpg', 1)
        with pytest.raises(UserError, match=expected):
            imagenet.load(tmp_path / expected[:4])
    for name in ('0', '2', '10'):
        touch(tmp_path / 'val' / name / 'a.jpg', 1)
    data = imagenet.load(tmp_path)
    assert [label for _, label in data.samples] == [0, 2, 10]
    assert data.problems[1] == '3 of 11 classes: 1, 3, 4, 5, 6 and 3 more are missing'


def named_folders(root):
    """Three classes, with an upper-case name, every suffix that images may have, and a `.png`."""
    for split, each in (('train', 4), ('val', 2)):
        for name in ('truck', 'Zebra', 'air plane'):
            for i, suffix in zip(range(each), ('jpg', 'jpeg', 'PNG', 'JPEG'), strict=False):
                touch(root / split / name / f'{i}.{suffix}', 10 + i)


def test_class_folders_of_any_name_are_those_of_torchvision(tmp_path):
    named_folders(tmp_path)
    data = imagenet.load(tmp_path)
    expected = ImageFolder(tmp_path / 'val')
    assert data.classes == ('Zebra', 'air plane', 'truck') == tuple(expected.classes)
    assert [(str(path), label) for path, label in data.samples] == expected.samples
    assert data.problems == (
        "3 classes of its own, in the order of their names, instead of ImageNet-1K's 1,000",
        '6 images instead of 50,000',
    )


def test_what_is_not_a_class_is_left_out(tmp_path):
    named_folders(tmp_path)
    before = imagenet.load(tmp_path)
    touch(tmp_path / 'val/.cache/a.jpg', 1)
    touch(tmp_path / 'val/truck/.thumbnail.jpg', 1)
    touch(tmp_path / 'val/list.txt', 1)
    touch(tmp_path / 'val/truck/7.webp', 1)
    touch(tmp_path / 'val/__MACOSX/truck/._0.jpg', 1)
    touch(tmp_path / 'val/docs/readme.txt', 1)
    (tmp_path / 'val/lost+found').mkdir()
    (tmp_path / 'val/@eaDir/0.jpg').mkdir(parents=True)  # a folder, whatever its name
    assert imagenet.load(tmp_path) == before


def test_the_fingerprint_sees_names_sizes_and_classes(tmp_path):
    class_folders(tmp_path, OWN)
    prints = {imagenet.load(tmp_path).fingerprint}
    path = tmp_path / 'val' / OWN[0] / 'ILSVRC2012_val_00000001.JPEG'
    touch(path, 77)
    prints.add(imagenet.load(tmp_path).fingerprint)
    path = path.rename(path.with_name('other.JPEG'))
    prints.add(imagenet.load(tmp_path).fingerprint)
    path.rename(tmp_path / 'val' / OWN[1] / 'other.JPEG')
    prints.add(imagenet.load(tmp_path).fingerprint)
    assert len(prints) == 4


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    with pytest.raises(UserError, match='absent is not a folder'):
        imagenet.load(tmp_path / 'absent')
    with pytest.raises(UserError, match='no ImageNet images in'):
        imagenet.load(tmp_path)
    class_folders(tmp_path, OWN)
    (tmp_path / 'empty/val/n00000009').mkdir(parents=True)
    with pytest.raises(DataNotFound, match='hold no image'):
        imagenet.load(tmp_path / 'empty')


def test_what_is_wrong_with_labels_is_said(tmp_path):
    flat(tmp_path / 'val', 4)
    with pytest.raises(UserError, match='have no labels'):
        imagenet.load(tmp_path)

    devkit(tmp_path, OWN, [1, 2, 3, 4])  # 4 is an inner node of the hierarchy
    with pytest.raises(UserError, match='KeyError: 4; take the'):
        imagenet.load(tmp_path)
    devkit(tmp_path, OWN, [1, 2, 3, 1])
    assert len(imagenet.load(tmp_path).samples) == 4
    (tmp_path / 'meta.mat').unlink()

    (tmp_path / 'ILSVRC2012_validation_ground_truth.txt').unlink()
    lines = [f'ILSVRC2012_val_0000000{i}.JPEG {OWN[0]}' for i in range(1, 4)]
    (tmp_path / 'val_labels.txt').write_text('\n'.join(lines))
    with pytest.raises(UserError, match=r'no label for 1 images \(ILSVRC2012_val_00000004'):
        imagenet.load(tmp_path)
    (tmp_path / 'val_labels.txt').write_text('ILSVRC2012_val_00000001.JPEG 12')
    with pytest.raises(UserError, match='line 1 is'):
        imagenet.load(tmp_path)


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (4, 6, 3), np.uint8))
    return small.resize((60, 40), Image.Resampling.BICUBIC)


def test_quirks_of_the_training_set(tmp_path, picture):
    path = tmp_path / 'image.JPEG'
    picture.save(path, 'PNG')
    assert np.array_equal(open_image(path), picture)
    picture.convert('CMYK').save(path, 'JPEG', quality=100)
    opened = open_image(path)
    assert opened.mode == 'RGB'
    assert np.abs(np.asarray(opened, int) - np.asarray(picture, int)).mean() < 5
    picture.convert('L').save(path, 'JPEG')
    assert open_image(path).mode == 'RGB'


def test_exif_orientation_is_not_applied(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    picture.save(tmp_path / 'turned.JPEG', exif=exif)
    picture.save(tmp_path / 'plain.JPEG')
    turned, plain = (open_image(tmp_path / f'{n}.JPEG') for n in ('turned', 'plain'))
    assert turned.size == picture.size
    assert np.array_equal(turned, plain)


def test_a_broken_image_is_named(tmp_path, picture):
    path = tmp_path / 'broken.JPEG'
    picture.save(path, 'JPEG')
    content = path.read_bytes()
    for broken in (content[: len(content) * 2 // 3], b'', b'<html>not found</html>'):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r'broken\.JPEG'):
            open_image(path)
    path.unlink()
    with pytest.raises(UserError, match='does not exist'):
        open_image(path)
