"""Where the bytes of a data set come from: folders, and archives that are read as they are.

`open_archive` recognises an archive and returns its root as a `StoredPath`, which has what is used
of a `pathlib.Path` here: so the data sets know their layout, and not what holds their files.
"""

import io
import os
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import BinaryIO, TypeVar

import numpy as np

from datasets.member_index import Member, archive_key, load_index
from reproduce.base.errors import UserError

Item = TypeVar('Item')

# Files of one archive that a process has open at once.
_MOST_OPEN = 64

_ZIP_MAGIC = (b'PK\x03\x04', b'PK\x05\x06')
_COMPRESSED_MAGIC = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ\x00', b'\x28\xb5\x2f\xfd')


class Store(ABC):
    """Files in one archive, sorted by name and read by position.

    Attributes:
        path: the archive.
        paths: its file, or its files.
        form: what it is, for messages: 'tar', 'zip'.
    """

    path: Path
    paths: tuple[Path, ...]
    form: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, position: int) -> str:
        """Return the path in the archive of the file at `position`, with slashes."""

    def name_bytes(self, position: int) -> bytes:
        """Return the name of the file at `position`, by which files are sorted."""
        return os.fsencode(self.name(position))

    @abstractmethod
    def size(self, position: int) -> int:
        """Return the number of bytes of the file at `position`."""

    @abstractmethod
    def read(self, position: int, first: int | None = None) -> bytes:
        """Return the content of the file at `position`, or so many first bytes of it.

        Raises:
            UserError: if the archive is damaged, or changed since it was opened.
        """

    def locations(self, positions: np.ndarray) -> np.ndarray:
        """Return where the files at `positions` (N,) lie: (N, 2), number of the file, offset."""
        return np.stack([np.zeros_like(positions), positions], 1)

    def keep(self, images: int) -> None:
        """Expect images to be read that lie within so many of each other, as they lie there."""
        del images  # where each is read by itself, nothing is gained

    def first_from(self, name: str) -> int:
        """Return the position of the first file whose name is not before `name`."""
        return bisect_left(range(len(self)), os.fsencode(name), key=self.name_bytes)

    def find(self, name: str) -> int | None:
        """Return the position of the file `name`; None if there is none."""
        position = self.first_from(name)
        return position if position < len(self) and self.name(position) == name else None


class IndexedArchive(Store):
    """Files of many members, of which an index says where each lies.

    Every process opens the files for itself.

    Args:
        paths: the file of the archive, or the files of one that has several.

    Attributes:
        path: what the archive is called in messages: its file, or the first and last of several.

    Raises:
        UserError: if one cannot be read, or is damaged.
    """

    def __init__(self, *paths: Path) -> None:
        self.paths, self.keys = paths, tuple(archive_key(path) for path in paths)
        self.path = paths[0]
        if len(paths) > 1:
            self.path = paths[0].with_name(f'{paths[0].stem}..{paths[-1].name}')
        self._opened: OrderedDict[int, BinaryIO] = OrderedDict()
        self._process = os.getpid()
        self.index = load_index(self.path, paths, self.members)

    def __reduce__(self) -> tuple:
        return _reopened, self.paths

    @abstractmethod
    def members(self) -> Iterator[Member]:
        """Read the members of the archive from it."""

    def __len__(self) -> int:
        return len(self.index)

    def name(self, position: int) -> str:
        return self.index.name(position)

    def name_bytes(self, position: int) -> bytes:
        return self.index.name_bytes(position)

    def size(self, position: int) -> int:
        return self.index.size(position)

    def locations(self, positions: np.ndarray) -> np.ndarray:
        return self.index.locations(positions)

    def bytes_at(self, offset: int, count: int, name: str, part: int = 0) -> bytes:
        """Return `count` bytes of a file of the archive, of which the member `name` is made.

        Raises:
            UserError: if they are not there, or the file is another one by now.
        """
        file = self.opened(part)
        try:
            content = os.pread(file.fileno(), count, offset)
        except OSError as error:
            raise UserError(f'cannot read {self.paths[part]}: {error.strerror}.') from error
        if len(content) != count:
            raise self.damaged(name, 'it ends before', part)
        return content

    def damaged(self, name: str, reason: str, part: int = 0) -> UserError:
        """Return the error that names a member which cannot be read, and why."""
        return UserError(
            f'cannot read {name} in {self.paths[part]}: {reason}; download the archive again.'
        )

    def opened(self, part: int = 0) -> BinaryIO:
        """Return a file of the archive, which this process alone has open.

        It stays open for as long as the caller keeps it, whatever other threads open meanwhile.

        Raises:
            UserError: if the file is another one than when the archive was opened.
        """
        if self._process != os.getpid():
            self._opened, self._process = OrderedDict(), os.getpid()
        file = self._opened.get(part)
        if file is None:
            file = self.paths[part].open('rb', buffering=0)
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) != self.keys[part]:
                raise UserError(
                    f'{self.paths[part]} changed since it was opened: leave it as it is, and start '
                    'again.'
                )
            self._opened[part] = file
            if len(self._opened) > _MOST_OPEN:
                self._opened.popitem(last=False)
        return file


class StoredPath:
    """A file or a folder in an archive.

    Args:
        store: the archive.
        inner: its path there, with slashes; '' for the root.
        position: its position in the store, if it is a file and that is known.
    """

    __slots__ = ('_position', 'inner', 'store')

    def __init__(self, store: Store, inner: str, position: int | None = None) -> None:
        self.store, self.inner, self._position = store, inner, position

    def __reduce__(self) -> tuple:
        return StoredPath, (self.store, self.inner, self._position)

    def __str__(self) -> str:
        return f'{self.store.path}/{self.inner}' if self.inner else str(self.store.path)

    def __repr__(self) -> str:
        return f'StoredPath({str(self)!r})'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredPath) and str(self) == str(other)

    def __lt__(self, other: 'StoredPath') -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash((self.store.path, self.inner))

    def __truediv__(self, name: str) -> 'StoredPath':
        inner = str(PurePosixPath(self.inner) / name)
        return StoredPath(self.store, '' if inner == '.' else inner)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.inner.rpartition('/')[2] or self.store.path.name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> 'StoredPath | Path':
        """The folder that it lies in: that of the archive for the root."""
        if not self.inner:
            return self.store.path.parent
        return StoredPath(self.store, self.inner.rpartition('/')[0])

    def is_file(self) -> bool:
        """Return whether it is a file of the archive."""
        return self._found() is not None

    def is_dir(self) -> bool:
        """Return whether the archive has files in this folder."""
        if not self.inner or self._position is not None:
            return not self.inner
        position = self.store.first_from(f'{self.inner}/')
        return position < len(self.store) and self.store.name(position).startswith(f'{self.inner}/')

    def exists(self) -> bool:
        """Return whether it is a file or a folder of the archive."""
        return self.is_file() or self.is_dir()

    def is_symlink(self) -> bool:
        """Return False: links in archives are resolved when they are opened."""
        return False

    def stat(self) -> SimpleNamespace:
        """Return the size of a file as `st_size`."""
        return SimpleNamespace(st_size=self.store.size(self._existing()))

    def iterdir(self) -> Iterator['StoredPath']:
        """Yield what lies directly in this folder, in the order of the names."""
        prefix = f'{self.inner}/' if self.inner else ''
        store, position = self.store, self.store.first_from(prefix)
        last = store.first_from(self.inner + chr(ord('/') + 1)) if self.inner else len(store)
        while position < last:
            name = store.name(position)
            head, slash, _ = name[len(prefix) :].partition('/')
            if slash:
                yield StoredPath(store, prefix + head)
                position = store.first_from(prefix + head + chr(ord('/') + 1))
            else:
                yield StoredPath(store, name, position)
                position += 1

    def absolute(self) -> 'StoredPath':
        """Return the path, which is absolute."""
        return self

    def read_bytes(self, first: int | None = None) -> bytes:
        """Return the content of the file, or so many first bytes of it.

        Raises:
            UserError: if there is no such file, or the archive is damaged.
        """
        return self.store.read(self._existing(), first)

    def open(self, mode: str = 'rb') -> BinaryIO:
        """Return the content of the file as a file in memory, open for reading."""
        return io.BytesIO(self.read_bytes())

    def _found(self) -> int | None:
        if self._position is None and self.inner:
            self._position = self.store.find(self.inner)
        return self._position

    def _existing(self) -> int:
        if (position := self._found()) is None:
            raise UserError(f'{self.store.path} has no {self.inner}: restore the archive.')
        return position


# A file or a folder of a data set, wherever it lies.
AnyPath = Path | StoredPath


class StoredSamples(Sequence):
    """(file, label) pairs of one archive, made when they are asked for: 8 bytes each are kept.

    Args:
        store: the archive.
        positions: those of the files.
        labels: one for each.
    """

    def __init__(self, store: Store, positions: Sequence[int], labels: Sequence[int]) -> None:
        self.store = store
        self.positions = np.asarray(positions, np.int32)
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int | slice) -> 'tuple[StoredPath, int] | StoredSamples':
        if isinstance(index, slice):
            return StoredSamples(self.store, self.positions[index], self.labels[index])
        position = int(self.positions[index])
        path = StoredPath(self.store, self.store.name(position), position)
        return path, int(self.labels[index])

    def __reduce__(self) -> tuple:
        return StoredSamples, (self.store, self.positions, self.labels)

    def locations(self) -> np.ndarray:
        """Return where each lies: (N, 2), the number of the archive's file and the offset."""
        return self.store.locations(self.positions)

    def keep(self, images: int) -> None:
        """Expect images to be read that lie within so many of each other."""
        self.store.keep(images)


def in_order_of_storage(samples: Sequence[Item]) -> Sequence[Item]:
    """Return the samples as they lie one after the other in their archive; else as they come."""
    if not isinstance(samples, StoredSamples):
        return samples
    part, offset = samples.locations().T
    order = np.lexsort((offset, part))
    return StoredSamples(samples.store, samples.positions[order], samples.labels[order])


def compact(samples: Sequence[tuple[AnyPath, int]]) -> Sequence[tuple[AnyPath, int]]:
    """Return the samples as they take little memory: `StoredSamples` if they are of an archive."""
    if not samples or not isinstance(samples[0][0], StoredPath):
        return tuple(samples)
    positions = [path._existing() for path, _ in samples]
    return StoredSamples(samples[0][0].store, positions, [label for _, label in samples])


def open_archive(path: Path) -> StoredPath:
    """Return the root of the archive `path`; its content decides what it is, not its name.

    Raises:
        UserError: if it cannot be read, is no archive, is damaged, or is compressed as a whole.
    """
    return StoredPath(_store(path.absolute(), *archive_key(path)), '')


@lru_cache(maxsize=64)
def _store(path: Path, *_key: int) -> Store:
    try:
        with path.open('rb') as file:
            begin = file.read(6)
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; make it readable.') from error
    if begin.startswith(_COMPRESSED_MAGIC):
        return import_module('datasets.tar_archives').CompressedTar(path)
    if begin.startswith(_ZIP_MAGIC):
        return import_module('datasets.zip_archives').ZipArchive(path)
    return import_module('datasets.tar_archives').TarArchive(path)


def _reopened(path: Path) -> Store:
    return open_archive(path).store
