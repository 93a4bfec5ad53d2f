"""Archives and shards that are read in place: the same data set as in folders, and damaged ones."""

import io
import os
import pickle
import random
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import forms
import numpy as np
import pytest
from forms import files_below, read_all

from datasets import imagenet
from datasets.reading import open_image
from datasets.stores import open_archive
from reproduce.base.errors import UserError

CONTENT = {f'folder{i % 3}/file{i}.bin': random.Random(i).randbytes(7 * i) for i in range(40)}
PACKED = {
    'tar': lambda path: forms.tar(path, CONTENT.items()),
    'zip': lambda path: forms.zipped(path, CONTENT.items()),
    'deflated': lambda path: forms.zipped(path, CONTENT.items(), zipfile.ZIP_DEFLATED),
}


@pytest.fixture(scope='module')
def folders(both_splits):
    return both_splits / 'imagenet'


@pytest.mark.parametrize('kind', PACKED)
def test_an_archive_has_the_files_that_were_packed(kind, tmp_path):
    path = PACKED[kind](tmp_path / 'archive')
    assert read_all(path) == CONTENT
    root = open_archive(path)
    assert {file.inner: file.member.size for file in files_below(root)} == {
        name: len(content) for name, content in CONTENT.items()
    }
    assert [folder.name for folder in root.iterdir()] == ['folder0', 'folder1', 'folder2']
    file = root / 'folder1' / 'file4.bin'
    assert file.is_file() and not file.is_dir()
    assert (file.name, file.stem, file.parent.name) == ('file4.bin', 'file4', 'folder1')
    assert not (root / 'folder1/file3.bin').is_file() and not (root / 'folder').is_dir()
    assert pickle.loads(pickle.dumps(file)) == file
    assert [entry.name for entry in tmp_path.iterdir()] == ['archive']  # nothing is written there


@pytest.mark.parametrize('form', forms.FORMS)
def test_the_data_set_is_the_same_in_every_form(folders, form, tmp_path):
    forms.FORMS[form](folders, tmp_path)
    for split in ('train', 'val'):
        of_folders, of_archive = imagenet.load(folders, split), imagenet.load(tmp_path, split)
        for part in ('fingerprint', 'problems', 'classes'):
            assert getattr(of_archive, part) == getattr(of_folders, part)
        for (path, label), (other, other_label) in zip(
            of_folders.samples, of_archive.samples, strict=True
        ):
            assert (path.name, label) == (other.name, other_label)
            assert path.read_bytes() == other.read_bytes()
        image, _ = of_archive.samples[-1]
        assert np.array_equal(open_image(image), open_image(of_folders.samples[-1][0]))
    limited = imagenet.load(tmp_path, limit=7)
    assert limited.fingerprint == imagenet.load(folders, limit=7).fingerprint


def test_the_fingerprint_is_that_of_earlier_versions(folders):
    assert imagenet.load(folders, 'train').fingerprint == '22cf52a30b19e5e1'
    assert imagenet.load(folders, 'val').fingerprint == 'a3c528695986de6f'


def test_an_index_is_built_once_in_the_cache(folders, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    data = tmp_path / 'data'
    data.mkdir()
    forms.tar_of_tars(folders, data)
    path = data / 'ILSVRC2012_img_train.tar'

    def indexes():
        return {p: p.stat().st_mtime_ns for p in (tmp_path / 'cache').rglob('*.sqlite')}

    before = imagenet.load(data, 'train')
    written = indexes()
    assert len(written) == 1
    assert imagenet.load(data, 'train').fingerprint == before.fingerprint
    assert indexes() == written
    os.utime(path)  # as after another download
    assert imagenet.load(data, 'train').fingerprint == before.fingerprint
    assert indexes().items() > written.items()


def test_processes_and_threads_index_and_read_together(tmp_path):
    path = PACKED['zip'](tmp_path / 'archive')
    # The second pool's forked processes have the same file open from the beginning.
    for _ in range(2):
        with get_context('fork').Pool(2) as pool, ThreadPoolExecutor(2) as threads:
            pending = pool.map_async(read_all, [path] * 4, chunksize=1)
            assert all(content == CONTENT for content in threads.map(read_all, [path] * 4))
            assert all(content == CONTENT for content in pending.get())


def message(path):
    with pytest.raises(UserError) as error:
        read_all(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)
    return str(error.value)


def tar_entries(path):
    with tarfile.open(path) as file:
        return file.getmembers()


def test_a_damaged_tar_is_one_sentence(tmp_path):
    path = PACKED['tar'](tmp_path / 'archive.tar')
    entries, whole = tar_entries(path), path.read_bytes()
    content = whole[: entries[-1].offset_data + entries[-1].size]
    cuts = [int(len(content) * keep) for keep in (0.05, 0.5, 0.9)]
    for cut in (*cuts, entries[20].offset):  # the last is at the border of a member
        path.write_bytes(content[:cut])
        assert 'download it again' in message(path)
    header = entries[20].offset
    path.write_bytes(whole[:header] + b'damaged!' + whole[header + 8 :])
    assert 'download it again' in message(path)


def test_a_damaged_zip_is_one_sentence(tmp_path):
    whole = PACKED['deflated'](tmp_path / 'archive.zip').read_bytes()
    path = tmp_path / 'archive.zip'
    path.write_bytes(whole[: len(whole) // 2])
    assert 'download it again' in message(path)
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        begin = file.getinfo('folder0/file39.bin').header_offset
    damaged = bytearray(whole)
    damaged[begin + 100] ^= 255
    path.write_bytes(damaged)
    found = message(path)
    assert 'folder0/file39.bin' in found and 'download it again' in found


@pytest.mark.parametrize(
    ('members', 'expected'),
    [
        ({'a.jpg': b'x', 'a.cls': b'cat'}, r"'a' in .*train-00\.tar .*: invalid literal"),
        ({'a.jpg': b'x'}, r"'a' in .*train-00\.tar .*its label is None"),
        ({'a.jpg': b'x', 'a.cls': b'1', 'b.cls': b'1'}, r"'b' in .*train-00\.tar .*has no image"),
        ({'a.jpg': b'x', 'a.JPG': b'x'}, r"'a\.JPG' in .*train-00\.tar .*it is there twice"),
        ({'a.jpg': b'x', 'a.cls': b'1', 'b/a.jpg': b'x', 'b/a.cls': b'1'}, 'have one name'),
    ],
)
def test_a_sample_that_is_not_sound_is_named(tmp_path, members, expected):
    forms.tar(tmp_path / 'train-00.tar', members.items())
    with pytest.raises(UserError, match=expected) as error:
        imagenet.load(tmp_path, 'train')
    assert '\n' not in str(error.value)


def test_labels_that_contradict_the_names_are_one_sentence(tmp_path):
    names = ('n00000001_0', 'n00000001_1', 'n00000002_1')
    members = [(f'{name}.{e}', c) for name in names for e, c in (('cls', b'3'), ('jpg', b'x'))]
    forms.tar(tmp_path / 'train-00.tar', members)
    with pytest.raises(UserError, match='images of n00000001 and of n00000002 with the number 3'):
        imagenet.load(tmp_path, 'train')


def test_numbers_are_the_labels_in_every_form(tmp_path):
    """One numbering, one fingerprint."""
    labels = [label for label in range(12) for _ in range(2)]
    members = []
    for i, label in enumerate(labels):
        path = tmp_path / f'folders/val/{label}/{i}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'x')
        members += [(f'{i}.cls', b'%d' % label), (f'{i}.jpg', b'x')]
    forms.tar(tmp_path / 'shards/val-00.tar', members)
    expected = imagenet.load(tmp_path / 'folders')
    assert expected.classes == tuple(map(str, range(12)))
    assert [(path.name, label) for path, label in expected.samples] == sorted(
        ((f'{i}.jpg', label) for i, label in enumerate(labels)), key=lambda s: (s[1], s[0])
    )
    found = imagenet.load(tmp_path / 'shards')
    assert found.classes == expected.classes
    assert found.fingerprint == expected.fingerprint
    assert [label for _, label in found.samples] == [label for _, label in expected.samples]
