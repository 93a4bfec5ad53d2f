"""Files fetched over the network: resumed where they were cut off, verified, then put in place."""

import fcntl
import hashlib
import http.client
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from huggingface_hub import get_hf_file_metadata
from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from reproduce.errors import UserError
from reproduce.files import write_atomically

TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20


class _Unfetched(Exception):
    """Nothing comes from there, and why."""


class Receipt(BaseModel):
    """What was fetched from where, kept beside the file as FILE.receipt.json."""

    model_config = ConfigDict(extra='forbid', frozen=True)
    url: str
    sha256: str
    size: int
    date: str


def receipt(path: Path) -> Receipt | None:
    """Return the receipt of the file at `path`, if it has one that can be read."""
    try:
        return Receipt.model_validate_json(_receipt_path(path).read_bytes())
    except (OSError, ValidationError):
        return None


def fetch(url: str, path: Path, sha256: str = '') -> None:
    """Fetch `url` into `path`, unless it is there; its folder is made.

    What has arrived is kept as `path`.part, and the next call goes on from there. `path` itself is
    the whole file, verified, or is not there.

    Args:
        sha256: of the file, or its first digits. Where it is not known, the server has to tell it,
            as the Hugging Face hub does.

    Raises:
        UserError: if it cannot be fetched or written, or is another file; then nothing is kept.
    """
    part = path.with_name(f'{path.name}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open('ab') as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # several processes may want the same file
            if not path.is_file() and not _linked(file):  # one of them failed, and removed it
                return fetch(url, path, sha256)
            try:
                if not path.is_file():
                    _fill(url, file, part, path, sha256)
            finally:
                if path.is_file() or (_linked(file) and part.stat().st_size == 0):
                    part.unlink(missing_ok=True)
    except _Unfetched as error:
        raise UserError(
            f'{path.name} cannot be fetched from {url} ({error}): check the network, or put the '
            'file there another way.'
        ) from error
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror or error}.') from error


def _linked(file: BinaryIO) -> bool:
    """Return whether the open file still has a name."""
    return os.fstat(file.fileno()).st_nlink > 0


def _fill(url: str, file: BinaryIO, part: Path, path: Path, sha256: str) -> None:
    expected = sha256 or _told_by_hub(url)
    _complete(url, file)
    file.flush()
    _put(url, part, path, expected)


def _complete(url: str, file: BinaryIO) -> None:
    """Append what `file` lacks, over as many connections as bring something."""
    while True:
        before = file.tell()
        if _receive(url, file):
            return
        if file.tell() <= before:
            raise UserError(
                f'{url} was cut off after {file.tell():,} bytes, which are kept: run it again to '
                'go on from there.'
            )


def _receive(url: str, file: BinaryIO) -> bool:
    """Append what one connection brings; whether the file is whole then."""
    start = file.tell()
    request = Request(url, headers={'Range': f'bytes={start}-'} if start else {})
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416 or not start:
            raise _Unfetched(f'HTTP {error.code} {error.reason}') from error
        if error.headers.get('Content-Range') == f'bytes */{start}':
            return True
        file.truncate(0)  # longer than what is there now
        file.seek(0)
        return _receive(url, file)
    except URLError as error:
        raise _Unfetched(error.reason) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Unfetched(error) from error
    with response:
        if start and not _continues(response.headers, start):
            file.truncate(0)  # the server sends it from the beginning
            file.seek(start := 0)
        length = response.headers.get('Content-Length')
        total = None if length is None else start + int(length)
        name = Path(file.name).stem
        with tqdm(
            total=total, initial=start, unit='B', unit_scale=True, desc=name, disable=None
        ) as bar:
            while True:
                try:
                    chunk = response.read(CHUNK)
                except (OSError, http.client.HTTPException):
                    return False
                if not chunk:
                    return total is None or file.tell() == total
                file.write(chunk)
                bar.update(len(chunk))


def _continues(headers: http.client.HTTPMessage, start: int) -> bool:
    return headers.get('Content-Range', '').startswith(f'bytes {start}-')


def _put(url: str, part: Path, path: Path, sha256: str) -> None:
    with part.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    if not digest.startswith(sha256):
        part.unlink()
        raise UserError(
            f'{url} brought another file than the published one: its SHA-256 is {digest[:16]}..., '
            f'expected {sha256[:16]}; nothing of it is kept.'
        )
    kept = Receipt(
        url=url,
        sha256=digest,
        size=part.stat().st_size,
        date=datetime.now(UTC).isoformat(timespec='seconds'),
    )
    # The receipt first: without it a file whose name tells no hash could not be verified.
    write_atomically(_receipt_path(path), kept.model_dump_json(indent=2) + '\n')
    part.rename(path)


def _told_by_hub(url: str) -> str:
    try:
        etag = get_hf_file_metadata(url).etag or ''
    except Exception as error:  # whatever the hub's client raises
        raise _Unfetched(f'{error}'.splitlines()[0]) from error
    if not re.fullmatch('[0-9a-f]{64}', etag):
        raise _Unfetched('the server does not tell its SHA-256')
    return etag


def _receipt_path(path: Path) -> Path:
    return path.with_name(f'{path.name}.receipt.json')
