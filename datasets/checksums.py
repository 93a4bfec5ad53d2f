"""The published checksums of the archives that data sets are released in, and those of files."""

import csv
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from reproduce.base.errors import UserError

_TABLE = Path(__file__).with_suffix('.csv')
_CHUNK = 2**23  # bytes


class Checksum(NamedTuple):
    """What a file has to hash to.

    Attributes:
        file: its name.
        algorithm: 'md5' or 'sha1', in hashlib's words.
        digest: in hex digits.
        source: where the checksum is published.
    """

    file: str
    algorithm: str
    digest: str
    source: str


@cache
def published() -> dict[str, Checksum]:
    """Return the published checksums by the name of the file."""
    with _TABLE.open(newline='') as file:
        return {row['file']: Checksum(**row) for row in csv.DictReader(file)}


def computed(path: Path, algorithm: str) -> str:
    """Return the checksum of a file, with a progress bar: a disk's speed, or 0.5 GB/s of MD5.

    Raises:
        UserError: if it cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with (
            path.open('rb') as file,
            tqdm(
                desc=f'{algorithm} of {path.name}',
                total=path.stat().st_size,
                unit='B',
                unit_scale=True,
                leave=False,
                disable=None,
            ) as bar,
        ):
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                bar.update(len(chunk))
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}; make it readable.') from error
    return digest.hexdigest()
