"""The list of the data sets in a folder, and its verification."""

import csv
import hashlib
import json
import os
import shutil

import forms
import pytest

from datasets import inventory, shapes
from datasets.inventory import DataState, take_inventory
from reproduce.base.errors import UserError

FORMS = {'kaggle': 'zip', 'webdataset': 'WebDataset shards'}


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp('drawn')
    shapes.write(root, train=20, val=10)
    return root


@pytest.fixture
def data(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / 'data')


@pytest.fixture
def zips(drawn, tmp_path):
    (tmp_path / 'zips').mkdir()
    forms.coco_zips(drawn / 'coco', tmp_path / 'zips')
    forms.ade20k_zip(drawn / 'ade20k/ADEChallengeData2016', tmp_path / 'zips')
    return tmp_path / 'zips'


def by_name(entries):
    return {f'{entry.data_set} {entry.split}': entry for entry in entries}


def test_a_folder_of_all_data_sets_is_listed(drawn):
    found = by_name(take_inventory(drawn))
    assert list(found) == [f'{d} {s}' for d in ('imagenet', 'coco', 'ade20k') for s in SPLITS]
    counts = {name: entry.images for name, entry in found.items()}
    for split in SPLITS:
        assert counts[f'coco {split}'] == len([*drawn.glob(f'coco/{split}2017/*.jpg')])
        assert counts[f'imagenet {split}'] == len([*drawn.glob(f'imagenet/{split}/*/*')])
    assert {entry.form for entry in found.values()} == {'folder'}
    assert all(entry.state is DataState.INCOMPLETE for entry in found.values())
    assert found['coco val'].advice.startswith('10 images instead of 5,000')


SPLITS = ('train', 'val')


@pytest.mark.parametrize('name', FORMS)
def test_the_form_of_imagenet_is_named(drawn, tmp_path, name):
    forms.FORMS[name](drawn / 'imagenet', tmp_path)
    found = by_name(take_inventory(tmp_path))
    for split in SPLITS:
        entry = found[f'imagenet {split}']
        assert entry.form == FORMS[name]
        assert entry.images == len([*drawn.glob(f'imagenet/{split}/*/*')])
    assert found['coco val'].state is DataState.MISSING


def test_a_split_of_which_only_the_annotations_are_there_is_missing(zips):
    (zips / 'train2017.zip').unlink()
    found = by_name(take_inventory(zips))
    assert found['coco train'].state is DataState.MISSING
    assert 'has annotations and no images' in found['coco train'].advice
    assert found['coco val'].images


def test_verification_names_what_is_damaged(data):
    image = next(data.glob('imagenet/val/*/*'))
    image.write_bytes(image.read_bytes()[:-20])
    annotations = data / 'coco/annotations/instances_train2017.json'
    annotations.write_text(annotations.read_text().replace('"bbox"', '"box"', 1))
    assert not any(e.state is DataState.DAMAGED for e in take_inventory(data))
    found = by_name(take_inventory(data, verify=True))
    damaged = {name for name, entry in found.items() if entry.state is DataState.DAMAGED}
    assert damaged == {'imagenet val', 'coco train'}
    images = len([*data.glob('imagenet/val/*/*')])
    advice = found['imagenet val'].advice
    assert advice.startswith(f'1 of {images} images cannot be read: cannot read the image {image}')
    assert str(annotations) in found['coco train'].advice
    assert found['ade20k val'].opened == 10


def test_a_pipe_among_the_images_is_named(data):
    for path in (next(data.glob('coco/val2017/*')), next(data.glob('imagenet/val/*/*'))):
        path.unlink()
        os.mkfifo(path)
    found = by_name(take_inventory(data, verify=True))
    assert found['imagenet val'].state is DataState.UNUSABLE
    assert 'it is not a regular file' in found['imagenet val'].advice
    assert found['coco val'].state is DataState.DAMAGED


@pytest.mark.parametrize('name', ['imagenet.zip', 'imagenet-val-0000.tar'])
def test_a_pipe_instead_of_an_archive_is_named(tmp_path, name):
    os.mkfifo(tmp_path / name)
    found = by_name(take_inventory(tmp_path, verify=True))['imagenet val']
    assert found.state is DataState.UNUSABLE
    assert f'{name} is not a regular file' in found.advice


def test_an_image_in_a_shard_is_opened(drawn, tmp_path):
    forms.webdataset(drawn / 'imagenet', tmp_path)
    shard = tmp_path / 'imagenet-val-0001.tar'
    content = bytearray(shard.read_bytes())
    begin = content.index(b'JFIF')
    content[begin + 20 : begin + 300] = bytes(280)
    shard.write_bytes(content)
    entry = by_name(take_inventory(tmp_path, verify=True))['imagenet val']
    assert entry.state is DataState.DAMAGED
    assert f'1 of {entry.opened} images cannot be read' in entry.advice
    assert str(shard).rpartition('-')[0] in entry.advice


def test_an_archive_is_held_to_its_published_checksum(zips, monkeypatch):
    name = 'val2017.zip'
    digest = hashlib.sha1((zips / name).read_bytes()).hexdigest()
    known = {name: {'algorithm': 'sha1', 'digest': digest, 'source': 'the test'}}
    monkeypatch.setattr(inventory, 'published_checksums', lambda: known)
    found = by_name(take_inventory(zips, verify=True))
    # That of the annotations is not known here, so images are opened, too.
    assert [bool(file['published']) for file in found['coco val'].archives] == [True, False]
    assert found['coco val'].opened == 10
    assert found['coco val'].verified == f'{name} as published, 10 images opened'
    digest = hashlib.md5((zips / 'annotations_trainval2017.zip').read_bytes()).hexdigest()
    name = 'annotations_trainval2017.zip'
    known[name] = {'algorithm': 'md5', 'digest': digest, 'source': 'the test'}
    entry = by_name(take_inventory(zips, verify=True))['coco val']
    assert all(file['published'] for file in entry.archives) and entry.opened is None
    (zips / 'ADEChallengeData2016.zip').write_bytes(b'PK')
    with (zips / name).open('ab') as file:
        file.write(b'\0')
    found = by_name(take_inventory(zips, verify=True))
    assert found['coco val'].state is DataState.DAMAGED
    assert f'and the test says {digest}: download it again' in found['coco val'].advice
    assert found['ade20k val'].state is DataState.UNUSABLE


def test_the_checksums_are_those_of_torchvision():
    from torchvision.datasets.imagenet import ARCHIVE_META

    known = inventory.published_checksums()
    for name, digest in ARCHIVE_META.values():
        assert (known[name]['algorithm'], known[name]['digest']) == ('md5', digest)
    with inventory._CHECKSUMS.open() as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == len(known)
    assert all(len(c['digest']) == {'md5': 32, 'sha1': 40}[c['algorithm']] for c in known.values())
    assert all(c['source'] for c in known.values())


def test_the_command_lists_and_exits(zips, run, tmp_path):
    code, out, _ = run('data', zips)
    assert code == 0
    assert 'coco val incomplete 10 of 5,000 zip' in ' '.join(out.split())
    assert out.count('no ImageNet images in') == 1
    code, out, _ = run('data', zips, '--verify', '--format', 'json')
    content = json.loads(out)
    assert code == content['exit_code'] == 1
    coco = next(s for s in content['splits'] if s['data_set'] == 'coco' and s['split'] == 'val')
    assert coco['state'] == 'damaged'
    assert coco['archives'][0]['published'] == '4950dc9d00dbe1c933ee0170f5797584351d2a41'
    (tmp_path / 'empty').mkdir()
    code, _, err = run('data', tmp_path / 'empty')
    assert code == 2 and 'no ImageNet images' in err and 'Traceback' not in err
    with pytest.raises(UserError, match='is not a folder'):
        take_inventory(tmp_path / 'nowhere')
