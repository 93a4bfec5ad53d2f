"""Tar files, read at random without being unpacked; tar files in them are read as folders."""

import os
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from datasets.member_index import Member
from datasets.stores import IndexedArchive, Store
from reproduce.base.errors import UserError

_BLOCK = 512  # bytes
# The largest compressed tar that is read as a whole: the ImageNet devkit has 2.5 MB.
_MOST_COMPRESSED = 2**26


class TarArchive(IndexedArchive):
    """A tar file. The members of a tar file NAME.tar in it are files of the folder NAME."""

    form = 'tar'

    def members(self) -> Iterator[Member]:
        """Yield the members.

        Raises:
            UserError: if the file is no tar file, or is cut short or damaged.
        """
        with (
            self.path.open('rb') as file,
            tqdm(
                desc=f'indexing {self.path.name}',
                total=os.fstat(file.fileno()).st_size,
                unit='B',
                unit_scale=True,
                leave=False,
                disable=None,
            ) as bar,
        ):
            for member in tar_members(self.path, file):
                bar.update(member.offset - bar.n)
                yield member

    def read(self, position: int, first: int | None = None) -> bytes:
        member = self.index.member(position)
        count = member.size if first is None else min(first, member.size)
        return self.bytes_at(member.offset, count, member.name)


class CompressedTar(Store):
    """A small compressed tar file, all of which is kept in memory.

    Raises:
        UserError: if it is no tar file, is damaged, or is too large.
    """

    form = 'compressed tar'

    def __init__(self, path: Path) -> None:
        self.path, self.paths = path, (path,)
        if path.stat().st_size > _MOST_COMPRESSED:
            raise UserError(
                f'{path} is compressed as a whole, so no file in it can be read alone: '
                'decompress it, with gunzip for a .tar.gz; the .tar can stay packed.'
            )
        try:
            with tarfile.open(path) as tar:
                content = {
                    member.name.removeprefix('./'): tar.extractfile(member).read()
                    for member in tar
                    if member.isreg()
                }
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise _damaged(path, str(error)) from error
        self.content = sorted(content.items(), key=lambda item: os.fsencode(item[0]))

    def __len__(self) -> int:
        return len(self.content)

    def name(self, position: int) -> str:
        return self.content[position][0]

    def size(self, position: int) -> int:
        return len(self.content[position][1])

    def read(self, position: int, first: int | None = None) -> bytes:
        return self.content[position][1][:first]


def tar_members(path: Path, file: BinaryIO) -> Iterator[Member]:
    """Yield the files in a tar file, and those of tar files in it.

    Args:
        path: the tar file, for messages.
        file: its content.

    Raises:
        UserError: if it is no tar file, is cut short or damaged, or has links.
    """
    try:
        yield from _members(path, file, 0, os.fstat(file.fileno()).st_size, '')
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _damaged(path, str(error)) from error


class _Window:
    """A part of a file, as a file: `tarfile` reads a tar file inside another through it."""

    def __init__(self, file: BinaryIO, begin: int, end: int) -> None:
        self.file, self.begin, self.end, self.place = file, begin, end, begin

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = self.begin + offset
        return offset

    def tell(self) -> int:
        return self.place - self.begin

    def read(self, count: int = -1) -> bytes:
        self.file.seek(self.place)
        content = self.file.read(max(0, min(count, self.end - self.place)))
        self.place += len(content)
        return content


def _members(path: Path, file: BinaryIO, begin: int, end: int, folder: str) -> Iterator[Member]:
    """Yield the members of the tar file that lies in `file` from byte `begin` to `end`."""
    with tarfile.open(fileobj=_Window(file, begin, end), mode='r:') as tar:
        while (entry := tar.next()) is not None:
            tar.members = []  # it keeps every member otherwise
            name, offset = posixpath.normpath(folder + entry.name), begin + entry.offset_data
            if entry.issparse():
                raise tarfile.ReadError(f'{entry.name} is a sparse file')
            if offset + entry.size > end:
                raise tarfile.ReadError(f'it ends inside of {entry.name}')
            if entry.islnk() or entry.issym():
                raise UserError(
                    f'{path} has the link {name}, which cannot be read at random: pack the files '
                    'that links name, with tar --dereference --hard-dereference.'
                )
            if entry.isreg() and entry.name.endswith('.tar'):
                inner = name.removesuffix('.tar') + '/'
                yield from _members(path, file, offset, offset + entry.size, inner)
            elif entry.isreg():
                yield Member(name, offset, entry.size, entry.size)
        # `tarfile` takes a damaged header for the end, so the mark of the end has to be there.
        window = _Window(file, begin, end)
        window.seek(tar.offset)
        if window.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError(f'it ends or is damaged after {tar.offset:,} bytes')


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f'{path} cannot be read as a tar file ({reason}): download it again.')
