"""Files in archives, read in place: a tar or zip file looks like a folder.

`open_archive` returns the root of an archive as a `StoredPath`, which has the part of
`pathlib.Path` that the data sets use. So they know their layout, and not what holds their files.

`ratarmountcore` lists an archive once, with tar files inside of it as folders. The list is an
SQLite database in the user's cache folder, so nothing is written to the archive's own folder.
Members are then read from their offsets by `pread`, which threads and forked processes can share.
"""

import contextlib
import hashlib
import io
import logging
import os
import stat
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from filelock import FileLock
from platformdirs import user_cache_path
from ratarmountcore.mountsource import FileInfo
from ratarmountcore.mountsource.formats.tar import SQLiteIndexedTar
from ratarmountcore.mountsource.formats.zip import ZipMountSource
from ratarmountcore.mountsource.SQLiteIndexMountSource import SQLiteIndexMountSource

from reproduce.base.errors import UserError
from reproduce.base.files import naming_file

# It prints to standard output whatever its logger lets through.
logging.getLogger('ratarmountcore').setLevel(logging.ERROR)

_BLOCK = 512  # bytes of a header in a tar file
# Of a zip file: flags, method, CRC-32, length of the name and of the extra field.
_LOCAL_HEADER = struct.Struct('<4s2xHH4xI8xHH')
_CRC_FOLLOWS = 8  # a flag
_DEFLATED = 8  # a method


class Member(NamedTuple):
    """Where a file of a store is."""

    part: int  # the index of the store's file that holds it
    offset: int  # the byte at which it, or its header in a zip file, begins; the row of a table
    size: int  # in bytes; -1 for a folder


_FOLDER = Member(0, 0, -1)


class Store:
    """Files that hold the files of a data set: an archive, or several shards.

    Args:
        paths: the files.
        form: their kind for messages, such as 'tar'.
    """

    def __init__(self, paths: Sequence[Path], form: str) -> None:
        self.paths, self.form = tuple(paths), form
        several = len(paths) > 1
        self.name = f'{paths[0].with_suffix("")}..{paths[-1].name}' if several else str(paths[0])

    def list(self, folder: str) -> dict[str, Member]:
        """Return the content of a folder by name; only archives have folders."""
        return {}

    def find(self, name: str) -> Member | None:
        """Return the file or folder `name`; None if there is none."""
        return None

    def read(self, name: str, member: Member) -> bytes:
        """Return the content of a file; the name is for the error that it is damaged."""
        content = self.bytes_at(member.part, member.offset, member.size)
        if len(content) < member.size:
            raise self.damaged(member.part, f'it ends inside of {name}')
        return content

    def bytes_at(self, part: int, offset: int, count: int) -> bytes:
        """Return `count` bytes of one of the store's files, or fewer at its end."""
        path = self.paths[part]
        with naming_file(path):
            file = _opened(path)  # another thread may take it out of the cache
            return os.pread(file.fileno(), count, offset)

    def damaged(self, part: int, reason: object) -> UserError:
        """Return the error that one of the files is damaged."""
        return UserError(f'{self.paths[part]} is damaged ({reason}): download it again.')

    def check_end(self, part: int, end: int) -> None:
        """Check that a tar file ends at this byte: libraries take a damaged header for its end."""
        end = -(-end // _BLOCK) * _BLOCK
        if self.bytes_at(part, end, _BLOCK) != bytes(_BLOCK):
            raise self.damaged(part, f'it has no mark of its end at byte {end:,}')


class Archive(Store):
    """A tar or zip file with folders."""

    def __init__(self, path: Path) -> None:
        super().__init__([path], 'tar')
        begin = self.bytes_at(0, 0, _BLOCK)
        if begin.startswith(b'PK'):
            self.form = 'zip'
        elif begin[257:262] != b'ustar':
            raise UserError(
                f'{path} is not a tar or zip file: unzip a .tar.gz, else fetch it again.'
            )
        self.index = derived_file(self.paths, '.sqlite', self._write_index)

    def list(self, folder: str) -> dict[str, Member]:
        found = _listing(self.index, os.getpid(), threading.get_ident()).list(f'/{folder}') or {}
        return {
            name: self._member(f'{folder}/{name}', info)
            for name, info in sorted(found.items())
            # A tar file that is listed as a folder.
            if stat.S_ISDIR(info.mode) or not info.userdata[-1].istar
        }

    def find(self, name: str) -> Member | None:
        info = _listing(self.index, os.getpid(), threading.get_ident()).lookup(f'/{name}')
        return None if info is None else self._member(name, info)

    def read(self, name: str, member: Member) -> bytes:
        if self.form == 'tar':
            return super().read(name, member)
        header = self.bytes_at(0, member.offset, _LOCAL_HEADER.size)
        if not header.startswith(b'PK\x03\x04') or len(header) < _LOCAL_HEADER.size:
            raise self.damaged(0, f'{name} is not where its list says')
        _, flags, method, crc, *lengths = _LOCAL_HEADER.unpack(header)
        most = member.size + member.size // 1000 + 64  # what deflate can add
        content = self.bytes_at(0, member.offset + len(header) + sum(lengths), most)
        if method == _DEFLATED:
            with contextlib.suppress(zlib.error):  # its checksum shows it
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.size or 1)
        content = content[: member.size]
        right = flags & _CRC_FOLLOWS or zlib.crc32(content) == crc
        if len(content) != member.size or not right:
            raise self.damaged(0, f'{name} does not fit its checksum')
        return content

    def _member(self, name: str, info: FileInfo) -> Member:
        data = info.userdata[-1]
        if stat.S_ISDIR(info.mode):
            return _FOLDER
        if info.linkname or data.issparse:
            raise UserError(f'{self.name} has the link or sparse file {name}: pack it without.')
        return Member(0, data.offsetheader if self.form == 'zip' else data.offset, info.size)

    def _write_index(self, index: Path) -> None:
        path, options = str(self.paths[0]), {'indexFilePath': str(index), 'writeIndex': True}
        tar = {'recursive': True, 'stripRecursiveTarExtension': True, 'isGnuIncremental': False}
        try:
            with contextlib.redirect_stdout(sys.stderr):  # it reports its progress
                if self.form == 'zip':
                    ZipMountSource(path, **options).close()
                    return
                source = SQLiteIndexedTar(path, parallelization=1, **tar, **options)
                query = 'SELECT MAX(offset + size) FROM files'
                ((end,),) = source.index.get_connection().execute(query)
                source.close()
        except Exception as error:  # whatever its readers of archives raise
            raise self.damaged(0, error) from error
        self.check_end(0, end)


class StoredPath:
    """A file or a folder in a store.

    Args:
        store: the archive or the shards.
        inner: the path in it, with slashes; '' for the root.
        member: where it is, if that is known.
    """

    __slots__ = ('_member', 'inner', 'store')

    def __init__(self, store: Store, inner: str, member: Member | None = None) -> None:
        self.store, self.inner, self._member = store, inner, member if inner else _FOLDER

    def __str__(self) -> str:
        return f'{self.store.name}/{self.inner}' if self.inner else self.store.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> 'StoredPath':
        inner = str(PurePosixPath(self.inner) / name)
        return StoredPath(self.store, '' if inner == '.' else inner)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return (self.inner or self.store.name).rpartition('/')[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> 'StoredPath':
        """The folder that it is in; of the root, the root."""
        return StoredPath(self.store, self.inner.rpartition('/')[0])

    @property
    def member(self) -> Member:
        """Where the file is; a `UserError` if there is none."""
        if not self.is_file():
            raise UserError(f'{self.store.name} has no file {self.inner}: restore the archive.')
        return self._member

    def is_file(self) -> bool:
        """Return whether it is a file of the store."""
        self._member = self._member or self.store.find(self.inner)
        return self._member is not None and self._member.size >= 0

    def is_dir(self) -> bool:
        """Return whether it is a folder of the store."""
        return not self.is_file() and self._member is not None

    def iterdir(self) -> Iterator['StoredPath']:
        """Yield the content of this folder, in the order of the names."""
        prefix = f'{self.inner}/' if self.inner else ''
        for name, member in self.store.list(self.inner).items():
            yield StoredPath(self.store, prefix + name, member)

    def read_bytes(self) -> bytes:
        """Return the content of the file."""
        return self.store.read(self.inner, self.member)

    def open(self, mode: str = 'rb') -> BinaryIO:
        """Return the content of the file as a file in memory, open for reading."""
        return io.BytesIO(self.read_bytes())


# A file or a folder of a data set, in a folder or in an archive.
AnyPath = Path | StoredPath


def open_archive(path: Path) -> StoredPath:
    """Return the root of an archive, whose content decides whether it is a tar or a zip file.

    Raises:
        UserError: if it cannot be read, is neither, is damaged, or is compressed as a whole.
    """
    path = path.absolute()
    return StoredPath(_archive(path, _version(path)), '')


def derived_file(sources: Sequence[Path], suffix: str, make: Callable[[Path], None]) -> Path:
    """Return a file in the user's cache folder that is derived from other files.

    Args:
        sources: the files. After they change, another file is derived from them.
        suffix: of its name.
        make: writes the file. It is called if there is none yet, by one process at a time.

    Raises:
        UserError: if the cache folder cannot be written to; and what `make` raises.
    """
    versions = [(str(path.absolute()), _version(path)) for path in sources]
    digest = hashlib.sha256(repr(versions).encode('utf-8', 'surrogateescape')).hexdigest()
    folder = user_cache_path('maformer-reproduction')
    file = folder / f'{sources[0].name}.{digest[:16]}{suffix}'
    unfinished = file.with_name(f'{file.name}.unfinished')
    if not file.exists():
        with naming_file(f'{folder} (XDG_CACHE_HOME names another)'):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f'{file}.lock'):
                if not file.exists():
                    unfinished.unlink(missing_ok=True)
                    make(unfinished)
                    os.replace(unfinished, file)
    return file


def _version(file: Path) -> tuple[int, int]:
    """Return size and time of change of a file, by which another version of it is recognised."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _archive(path: Path, version: tuple[int, int]) -> Archive:
    return Archive(path)


@lru_cache(maxsize=64)
def _opened(path: Path) -> BinaryIO:
    """Return the file, open for as long as a caller keeps it."""
    return path.open('rb', buffering=0)


@lru_cache(maxsize=64)
def _listing(index: Path, process: int, thread: int) -> SQLiteIndexMountSource:
    """Return the open index of an archive: each process and thread has a connection of its own."""
    return SQLiteIndexMountSource(str(index))
