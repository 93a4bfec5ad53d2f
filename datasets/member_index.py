"""The index of an archive: name, place and size of every member, built once and then shared.

An index is a file beside its archive, `.NAME.index`, or in the user's cache folder where the
archive's folder is read-only. It holds for one size and time of change of the archive. Processes
map it into memory read-only, so that all of them share one copy.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from reproduce.base.errors import UserError
from reproduce.base.files import write_atomically

_VERSION = 1
_HEADER = 512  # bytes
_ENTRY = np.dtype(
    [
        *(('name_end', '<u8'), ('offset', '<u8'), ('stored', '<u8'), ('size', '<u8')),
        *(('crc', '<u4'), ('method', '<u4'), ('part', '<u8')),
    ]
)


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        name: its path in the archive, with slashes.
        offset: the byte at which it begins in the archive, or at which its own header does.
        stored: the number of bytes that it takes there.
        size: the number of bytes of its content.
        crc: the CRC-32 of its content, 0 where the archive has none.
        method: how it is compressed, as zip files number the methods; 0 is not at all.
        part: of an archive of several files, the one that it lies in.
    """

    name: str
    offset: int
    stored: int
    size: int
    crc: int = 0
    method: int = 0
    part: int = 0


class MemberIndex:
    """The members of an archive, sorted by name, from a file that is mapped into memory.

    Args:
        path: the file of the index.
        members: the number of members.
        names: the number of bytes of their names.
    """

    def __init__(self, path: Path, members: int, names: int) -> None:
        entries = np.memmap(path, _ENTRY, 'r', _HEADER, (members,))
        # Plain arrays on the same memory: single items of a `memmap` are several times slower.
        self._entries = entries.view(np.ndarray)
        self._ends = self._entries['name_end']
        self._names = np.memmap(
            path, np.uint8, 'r', _HEADER + members * _ENTRY.itemsize, (names,)
        ).data

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, position: int) -> str:
        """Return the name of the member at `position`."""
        return os.fsdecode(self.name_bytes(position))

    def name_bytes(self, position: int) -> bytes:
        """Return the name of the member at `position` as it is in the index."""
        begin = self._ends[position - 1] if position else 0
        return bytes(self._names[begin : self._ends[position]])

    def member(self, position: int) -> Member:
        """Return the member at `position`."""
        return Member(self.name(position), *self._entries[position].item()[1:])

    def size(self, position: int) -> int:
        """Return the number of bytes of the member at `position`."""
        return int(self._entries[position]['size'])

    def locations(self, positions: np.ndarray) -> np.ndarray:
        """Return where the members at `positions` (N,) lie: (N, 2), part and offset."""
        entries = self._entries[positions]
        return np.stack([entries['part'], entries['offset']], 1).astype(np.int64)


def load_index(
    archive: Path, files: Sequence[Path], members: Callable[[], Iterable[Member]]
) -> MemberIndex:
    """Return the index of `archive`, which is built where there is none that is up to date.

    Args:
        archive: names the index, which lies beside it.
        files: those that the archive consists of, itself in general.
        members: reads the members from the archive.

    Raises:
        UserError: if the archive cannot be read or has no members, it changes meanwhile, or the
            index cannot be written.
    """
    key = _digest(files)
    places = [archive.parent / f'.{archive.name}.index', _cached_place(archive)]
    for place in places:
        if (index := _read(place, key)) is not None:
            return index
    place = next((p for p in places if _writable(p.parent)), None)
    if place is None:
        raise UserError(
            f'the index of {archive} cannot be written, neither to {places[0].parent} nor to '
            f'{places[1].parent}: make one of them writable.'
        )
    with FileLock(place.with_name(f'{place.name}.lock')):
        if (index := _read(place, key)) is None:  # another process may have built it meanwhile
            content = _built(archive, members(), key)
            if _digest(files) != key:
                raise UserError(
                    f'{archive} changed while it was read: wait until it is complete, and start '
                    'again.'
                )
            write_atomically(place, content)
            index = _read(place, key)
    if index is None:
        raise UserError(f'the index {place} cannot be read back: look at the disk it is on.')
    return index


def archive_key(archive: Path) -> tuple[int, int]:
    """Return what changes when the content of the file `archive` does: size, time of change.

    Raises:
        UserError: if there is no such file, or it cannot be read.
    """
    try:
        status = archive.stat()
    except OSError as error:
        raise UserError(f'cannot read {archive}: {error.strerror}; make it readable.') from error
    return status.st_size, status.st_mtime_ns


def _digest(files: Sequence[Path]) -> str:
    keys = [(path.name, *archive_key(path)) for path in files]
    return hashlib.sha256(repr(keys).encode()).hexdigest()


def _cached_place(archive: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(archive.absolute())).hexdigest()[:16]
    return user_cache_path('maformer-reproduction') / f'{archive.name}.{digest}.index'


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _built(archive: Path, members: Iterable[Member], key: str) -> bytes:
    """Return the content of an index. Of members with one name the last counts, as in unpacking."""
    names: list[bytes] = []
    numbers = array('Q')
    for member in members:
        names.append(os.fsencode(member.name))
        numbers.extend((0, *member[1:]))
    if not names:
        raise UserError(f'{archive} holds no files: download it again.')
    order = sorted(range(len(names)), key=names.__getitem__)
    order = [i for i, j in pairwise(order) if names[i] != names[j]] + order[-1:]
    table = np.frombuffer(numbers, np.uint64).reshape(-1, len(_ENTRY.names))[order]
    entries = np.empty(len(order), _ENTRY)
    for column, field in enumerate(_ENTRY.names):
        entries[field] = table[:, column]
    entries['name_end'] = np.cumsum([len(names[i]) for i in order])
    text = b''.join(names[i] for i in order)
    header = json.dumps({**_header(key), 'members': len(entries), 'names': len(text)})
    return header.encode().ljust(_HEADER) + entries.tobytes() + text


def _header(key: str) -> dict[str, Any]:
    return {'version': _VERSION, 'archive': key}


def _read(place: Path, key: str) -> MemberIndex | None:
    """Return the index at `place`; None if there is none, or not of such an archive."""
    try:
        with place.open('rb') as file:
            header = json.loads(file.read(_HEADER))
            length = os.fstat(file.fileno()).st_size
        counts = header.pop('members'), header.pop('names')
        wanted = _HEADER + counts[0] * _ENTRY.itemsize + counts[1]
        if header != _header(key) or length != wanted:
            return None
        return MemberIndex(place, *counts)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
