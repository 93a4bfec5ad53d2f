"""The list of the data sets in a folder, and its verification."""

import hashlib
import json

import forms
import pytest

from datasets import inventory, shapes
from datasets.inventory import DataState, take_inventory


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp('drawn')
    shapes.write(root, train=20, val=10)
    return root


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


def test_an_archive_is_held_to_its_published_checksum(zips, monkeypatch):
    name = 'val2017.zip'
    digest = hashlib.sha1((zips / name).read_bytes()).hexdigest()
    known = {name: {'algorithm': 'sha1', 'digest': digest, 'source': 'the test'}}
    monkeypatch.setattr(inventory, 'published_checksums', lambda: known)
    found = by_name(take_inventory(zips, verify=True))
    assert [bool(file['published']) for file in found['coco val'].archives] == [True, False]
    digest = hashlib.md5((zips / 'annotations_trainval2017.zip').read_bytes()).hexdigest()
    name = 'annotations_trainval2017.zip'
    known[name] = {'algorithm': 'md5', 'digest': digest, 'source': 'the test'}
    entry = by_name(take_inventory(zips, verify=True))['coco val']
    assert all(file['published'] for file in entry.archives)
    with (zips / name).open('ab') as file:
        file.write(b'\0')
    found = by_name(take_inventory(zips, verify=True))
    assert found['coco val'].state is DataState.DAMAGED
    assert f'and the test says {digest}: download it again' in found['coco val'].advice


def test_the_checksums_are_those_of_torchvision():
    from torchvision.datasets.imagenet import ARCHIVE_META

    known = inventory.published_checksums()
    for name, digest in ARCHIVE_META.values():
        assert (known[name]['algorithm'], known[name]['digest']) == ('md5', digest)


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
