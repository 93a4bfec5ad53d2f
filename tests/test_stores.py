"""Archives that are read as they are: the same data set as in folders, and damaged ones."""

import gzip
import io
import os
import pickle
import random
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import forms
import numpy as np
import pytest

from datasets import imagenet, shapes
from datasets.imagenet import open_image
from datasets.stores import open_archive
from reproduce.base.errors import UserError

CONTENT = {f'folder{i % 3}/file{i}.bin': random.Random(i).randbytes(7 * i) for i in range(40)}
PACKED = {
    'tar': lambda path: forms.tar(path, CONTENT.items()),
    'zip': lambda path: forms.zipped(path, CONTENT.items()),
    'deflated': lambda path: forms.zipped(path, CONTENT.items(), zipfile.ZIP_DEFLATED),
}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('folders')
    shapes.write(root, train=40, val=40)
    return root / 'imagenet'


@pytest.fixture(scope='module', params=forms.FORMS)
def packed(request, folders, tmp_path_factory):
    if request.param == 'parquet':
        pytest.importorskip('pyarrow')
    to = tmp_path_factory.mktemp(request.param)
    forms.FORMS[request.param](folders, to)
    return to


def files_below(path):
    for entry in path.iterdir():
        if entry.is_dir():
            yield from files_below(entry)
        else:
            yield entry


@pytest.mark.parametrize('kind', PACKED)
def test_an_archive_has_the_files_that_were_packed(kind, tmp_path):
    root = open_archive(PACKED[kind](tmp_path / 'archive'))
    found = list(files_below(root))
    assert {path.inner: path.read_bytes() for path in found} == CONTENT
    assert {path.inner: path.stat().st_size for path in found} == {
        name: len(content) for name, content in CONTENT.items()
    }
    assert [path.name for path in root.iterdir()] == ['folder0', 'folder1', 'folder2']
    path = root / 'folder1' / 'file4.bin'
    assert path.is_file() and not path.is_dir()
    assert (path.name, path.stem, path.suffix, path.parent.name) == (
        *('file4.bin', 'file4', '.bin'),
        'folder1',
    )
    assert not (root / 'folder1/file3.bin').is_file() and not (root / 'folder').is_dir()
    assert str(path) == f'{tmp_path}/archive/folder1/file4.bin'
    assert pickle.loads(pickle.dumps(path)) == path


def test_the_data_set_is_the_same_in_every_form(folders, packed):
    for split in ('train', 'val'):
        of_folders, of_archive = imagenet.load(folders, split), imagenet.load(packed, split)
        assert of_archive.fingerprint == of_folders.fingerprint
        assert of_archive.problems == of_folders.problems
        assert of_archive.classes == of_folders.classes
        assert len(of_archive.samples) == len(of_folders.samples)
        for (path, label), (other, other_label) in zip(
            of_folders.samples, of_archive.samples, strict=True
        ):
            assert (path.name, label) == (other.name, other_label)
            assert path.read_bytes() == other.read_bytes()
        image, _ = of_archive.samples[-1]
        assert np.array_equal(open_image(image), open_image(of_folders.samples[-1][0]))
    assert imagenet.load(packed, limit=7).fingerprint == imagenet.load(folders, limit=7).fingerprint


def test_labels_are_also_in_the_packed_devkit(folders, tmp_path):
    from test_imagenet import devkit

    forms.flat_tar(folders, tmp_path)
    (tmp_path / 'val_labels.txt').unlink()
    order = list(shapes.WNIDS)
    random.Random(0).shuffle(order)
    ids = [order.index(wnid) + 1 for wnid, *_ in forms.images(folders / 'val')]
    devkit(tmp_path / 'ILSVRC2012_devkit_t12/data', order, ids)
    with tarfile.open(tmp_path / 'ILSVRC2012_devkit_t12.tar.gz', 'w:gz') as file:
        file.add(tmp_path / 'ILSVRC2012_devkit_t12', 'ILSVRC2012_devkit_t12')
    for path in (tmp_path / 'ILSVRC2012_devkit_t12/data').iterdir():
        path.unlink()
    assert imagenet.load(tmp_path).fingerprint == imagenet.load(folders).fingerprint


def test_folders_come_before_archives(folders, tmp_path):
    (tmp_path / 'val').symlink_to(folders / 'val')
    (tmp_path / 'ILSVRC2012_img_val.tar').write_bytes(b'never opened')
    assert imagenet.load(tmp_path).fingerprint == imagenet.load(folders).fingerprint


def test_an_index_is_built_once(folders, tmp_path, monkeypatch):
    forms.as_released(folders, tmp_path)
    path = tmp_path / 'ILSVRC2012_img_train.tar'
    before = imagenet.load(tmp_path, 'train')
    index = tmp_path / '.ILSVRC2012_img_train.tar.index'
    written = index.stat().st_mtime_ns
    assert imagenet.load(tmp_path, 'train').fingerprint == before.fingerprint
    assert index.stat().st_mtime_ns == written
    os.utime(path)  # as after another download
    assert imagenet.load(tmp_path, 'train').fingerprint == before.fingerprint
    assert index.stat().st_mtime_ns > written
    index.write_bytes(index.read_bytes()[:-1])
    open_archive.__globals__['_store'].cache_clear()
    assert imagenet.load(tmp_path, 'train').fingerprint == before.fingerprint


def test_an_index_goes_to_the_cache_where_the_folder_is_read_only(tmp_path, monkeypatch):
    from datasets import member_index

    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    path = PACKED['tar'](tmp_path / 'data' / 'archive.tar')
    # The superuser may write anywhere.
    writable = member_index._writable
    monkeypatch.setattr(member_index, '_writable', lambda p: p != path.parent and writable(p))
    assert (open_archive(path) / 'folder1/file4.bin').read_bytes() == CONTENT['folder1/file4.bin']
    assert [p.name for p in path.parent.iterdir()] == ['archive.tar']
    assert len(list((tmp_path / 'cache/maformer-reproduction').glob('archive.tar.*.index'))) == 1


def _read_all(path):
    root = open_archive(path)
    return {file.inner: file.read_bytes() for file in files_below(root)}, os.getpid()


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_processes_build_the_index_at_once_and_read_together(method, tmp_path):
    path = PACKED['tar'](tmp_path / 'archive.tar')
    with get_context(method).Pool(3) as pool:
        results = pool.map(_read_all, [path] * 6, chunksize=1)
    assert all(content == CONTENT for content, _ in results)


def test_threads_and_forked_processes_share_no_place_in_the_file(tmp_path):
    path = PACKED['tar'](tmp_path / 'archive.tar')
    root = open_archive(path)
    assert (root / 'folder1/file4.bin').read_bytes() == CONTENT['folder1/file4.bin']
    with ThreadPoolExecutor(4) as threads, get_context('fork').Pool(2) as processes:
        pending = [processes.apply_async(_read_all, (path,)) for _ in range(8)]
        assert all(c == CONTENT for c, _ in threads.map(_read_all, [path] * 8))
        assert all(p.get()[0] == CONTENT for p in pending)


def message(path):
    with pytest.raises(UserError) as error:
        _read_all(path)
    assert str(path) in str(error.value)
    return str(error.value)


def tar_entries(path):
    with tarfile.open(path) as file:
        return file.getmembers()


@pytest.mark.parametrize('keep', [0.05, 0.5, 0.9])
def test_a_tar_that_is_cut_short_is_one_sentence(keep, tmp_path):
    path = PACKED['tar'](tmp_path / 'archive.tar')
    entries = tar_entries(path)
    content = path.read_bytes()[: entries[-1].offset_data + entries[-1].size]
    path.write_bytes(content[: int(len(content) * keep)])
    assert 'download it again' in message(path)
    path.write_bytes(content[: entries[20].offset])
    assert 'download it again' in message(path)  # at the border of a member


def test_a_tar_with_a_damaged_header_is_one_sentence(tmp_path):
    path = PACKED['tar'](tmp_path / 'archive.tar')
    member = tar_entries(path)[20]
    content = bytearray(path.read_bytes())
    content[member.offset : member.offset + 8] = b'damaged!'
    path.write_bytes(content)
    assert 'download it again' in message(path)


def test_a_zip_that_is_damaged_is_one_sentence(tmp_path):
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
    assert 'folder0/file39.bin' in found and 'download the archive again' in found


def test_an_archive_that_changes_is_one_sentence(tmp_path):
    path = PACKED['tar'](tmp_path / 'archive.tar')
    root = open_archive(path)
    forms.tar(path, [('other', b'x')])
    with pytest.raises(UserError, match='changed since it was opened'):
        (root / 'folder1/file4.bin').read_bytes()
    assert (open_archive(path) / 'other').read_bytes() == b'x'


def test_what_cannot_be_read_at_random_says_so(tmp_path):
    path = tmp_path / 'archive.tar'
    path.write_bytes(b'no archive at all' * 100)
    assert 'cannot be read as a tar file' in message(path)
    path.write_bytes(b'')
    assert 'cannot be read as a tar file' in message(path)
    forms.tar(path, [])
    assert 'holds no files' in message(path)
    with tarfile.open(path, 'w') as file:
        link = tarfile.TarInfo('link')
        link.type, link.linkname = tarfile.SYMTYPE, 'elsewhere'
        file.addfile(link)
    assert '--dereference' in message(path)
    big = tmp_path / 'big.tar.gz'
    with gzip.open(big, 'wb', 0) as file:
        file.write(bytes(2**26))
    assert 'gunzip' in message(big)


def test_of_members_with_one_name_the_last_counts(tmp_path):
    path = forms.tar(tmp_path / 'a.tar', [('a', b'1'), ('b', b'2'), ('a', b'3'), ('b', b'4')])
    assert _read_all(path)[0] == {'a': b'3', 'b': b'4'}


def test_shards_that_are_missing_are_named(folders, tmp_path):
    forms.webdataset(folders, tmp_path, shards=4)
    whole = imagenet.load(tmp_path)
    (tmp_path / 'imagenet-val-0001.tar').unlink()
    part = imagenet.load(tmp_path)
    assert {p.name for p, _ in part.samples} < {p.name for p, _ in whole.samples}
    assert 'of the shards, 1 is missing' in part.problems


def test_labels_that_contradict_the_names_are_one_sentence(folders, tmp_path):
    wrong = [(f'n00000001_{i}.{e}', c) for i in range(2) for e, c in (('cls', b'3'), ('jpg', b'x'))]
    forms.tar(
        tmp_path / 'train-00.tar', [*wrong, ('n00000002_1.cls', b'3'), ('n00000002_1.jpg', b'x')]
    )
    with pytest.raises(UserError, match='images of n00000001 and of n00000002 with the number 3'):
        imagenet.load(tmp_path, 'train')
    forms.tar(tmp_path / 'train-00.tar', [('a.jpg', b'x'), ('a.cls', b'cat')])
    with pytest.raises(UserError, match=r'the image a in .* has no label'):
        imagenet.load(tmp_path, 'train')
    forms.tar(tmp_path / 'train-00.tar', [('a.txt', b'x')])
    with pytest.raises(UserError, match='has no labelled images'):
        imagenet.load(tmp_path, 'train')


def test_classes_that_are_named_nowhere_have_their_numbers(tmp_path):
    members = [(f'{i}.{e}', c) for i in range(3) for e, c in (('cls', b'%d' % i), ('jpg', b'x'))]
    forms.tar(tmp_path / 'val-00.tar', members)
    assert imagenet.load(tmp_path).classes == ('0000', '0001', '0002')


def test_a_thousand_numbers_are_the_classes_of_imagenet(tmp_path):
    from test_imagenet import REAL

    members = [(f'{i}.{e}', c) for i in range(1000) for e, c in (('cls', b'%d' % i), ('png', b'x'))]
    forms.tar(tmp_path / 'val-00.tar', members)
    data = imagenet.load(tmp_path)
    assert data.classes == REAL
    assert all(path.stem == str(label) for path, label in data.samples)


def test_parquet_that_is_damaged_is_one_sentence(folders, tmp_path):
    pytest.importorskip('pyarrow')
    forms.parquet(folders, tmp_path, shards=1)
    path = tmp_path / 'data/validation-00000-of-00001.parquet'
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r'cannot be read as parquet .*: download it again'):
        imagenet.load(tmp_path)


def test_without_pyarrow_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
    (tmp_path / 'train-00000-of-00001.parquet').write_bytes(b'PAR1')
    with pytest.raises(UserError, match='pip install pyarrow'):
        imagenet.load(tmp_path, 'train')
