"""Zip files, read at random without being unpacked."""

import struct
import zlib
from collections.abc import Iterator
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from tqdm import tqdm

from datasets.member_index import Member
from datasets.stores import IndexedArchive
from reproduce.base.errors import UserError

_LOCAL_HEADER = struct.Struct('<4s22xHH')  # signature, length of the name, of the extra field
_ENCRYPTED = 1


class ZipArchive(IndexedArchive):
    """A zip file. What is read is held to its checksum."""

    form = 'zip'

    def members(self) -> Iterator[Member]:
        """Yield the members.

        Raises:
            UserError: if the file is no zip file, is cut short or damaged, or has members that are
                encrypted or compressed in an unusual way.
        """
        try:
            with ZipFile(self.path) as file:
                entries = file.infolist()
        except (BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(
                f'{self.path} cannot be read as a zip file ({error}): download it again.'
            ) from error
        for entry in tqdm(entries, f'indexing {self.path.name}', leave=False, disable=None):
            if entry.is_dir():
                continue
            if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (
                ZIP_STORED,
                ZIP_DEFLATED,
            ):
                raise UserError(
                    f'{self.path} has the member {entry.filename}, which is encrypted or '
                    'compressed in an unusual way: expected files stored or deflated; unpack it.'
                )
            yield Member(
                entry.filename.removeprefix('./'),
                entry.header_offset,
                entry.compress_size,
                entry.file_size,
                entry.CRC,
                entry.compress_type,
            )

    def read(self, position: int, first: int | None = None) -> bytes:
        member = self.index.member(position)
        header = self.bytes_at(member.offset, _LOCAL_HEADER.size, member.name)
        signature, name, extra = _LOCAL_HEADER.unpack(header)
        if signature != b'PK\x03\x04':
            raise self.damaged(member.name, 'it is not where the list of the archive says')
        begin = member.offset + _LOCAL_HEADER.size + name + extra
        count = member.size if first is None else min(first, member.size)
        if member.method == ZIP_STORED:
            content = self.bytes_at(begin, min(count, member.stored), member.name)
        else:
            packed = self.bytes_at(begin, member.stored, member.name)
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, count)
            except zlib.error as error:
                raise self.damaged(member.name, str(error)) from error
        whole = count == member.size
        if len(content) != count or (whole and zlib.crc32(content) != member.crc):
            raise self.damaged(member.name, 'its content does not fit its checksum')
        return content
