"""Files fetched over the network: resumed where they were cut off, verified, then put in place."""

import fcntl
import http.client
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from huggingface_hub import get_hf_file_metadata
from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of, write_atomically

TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20


SCHEMES = ('http', 'https')


class _Unfetched(Exception):
    """Nothing comes from there, and why."""


class _SameSchemeOnly(HTTPRedirectHandler):
    """Follows a redirection to the same scheme, or from http to https."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in (req.type, 'https'):
            raise _Unfetched(f'it redirects from {req.type} to {scheme}: {newurl}')
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    """Return what opens http and https, and neither files nor other schemes."""
    opener = build_opener(_SameSchemeOnly)
    for scheme in set(opener.handle_open) - {*SCHEMES, 'unknown'}:
        del opener.handle_open[scheme]
    return opener


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


def fetch(url: str, path: Path, sha256: str | None = '') -> None:
    """Fetch `url` into `path`, unless it is there; its folder is made.

    What has arrived is kept as `path`.part, and the next call goes on from there. `path` itself is
    the whole file, verified, or is not there.

    Args:
        sha256: of the file, or its first digits. Where it is '', the server has to tell it, as the
            Hugging Face hub does; with None any file is taken.

    Raises:
        UserError: if `url` is not one of http or https, or it cannot be fetched or written, or is
            another file; then nothing is kept.
    """
    part = path.with_name(f'{path.name}.part')
    try:
        _check_url(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open_part(part) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # several processes may want the same file
            if not path.is_file() and not _linked(file):  # one of them failed, and removed it
                return fetch(url, path, sha256)
            try:
                if not path.is_file():
                    _fill(url, file, part, path, sha256)
            finally:
                file.flush()
                if path.is_file() or (_linked(file) and part.stat().st_size == 0):
                    part.unlink(missing_ok=True)
    except _Unfetched as error:
        raise UserError(
            f'{path.name} cannot be fetched from {url} ({error}): check the network, or put the '
            'file there another way.'
        ) from error
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror or error}.') from error


def _check_url(url: str) -> None:
    """Check that `url` is one of http or https with a host.

    Raises:
        UserError: if it is of another scheme.
        _Unfetched: if it is malformed.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # of which either may raise, too
    except ValueError as error:
        raise _Unfetched(f'malformed: {error}') from error
    if parts.scheme not in SCHEMES:
        raise UserError(
            f"{url} is not fetched: expected http or https; name a local file as 'file', without a "
            'scheme.'
        )
    if not host or not url.isprintable() or ' ' in url:
        raise _Unfetched('malformed: expected http(s)://HOST/PATH')


def _open_part(part: Path) -> BinaryIO:
    """Open a regular file for appending; a symbolic link is not followed."""

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)

    if part.is_symlink() or (part.exists() and not part.is_file()):
        raise UserError(
            f'{part} is a link or no plain file, and what is fetched would go there: remove it.'
        )
    return open(part, 'ab', opener=opener)


def _linked(file: BinaryIO) -> bool:
    """Return whether the open file still has a name."""
    return os.fstat(file.fileno()).st_nlink > 0


def _fill(url: str, file: BinaryIO, part: Path, path: Path, sha256: str | None) -> None:
    expected = sha256 or ('' if sha256 is None else _told_by_hub(url))
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
    try:
        request = Request(url, headers={'Range': f'bytes={start}-'} if start else {})
        response = _opener().open(request, timeout=TIMEOUT)
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
        total = _total(response.headers.get('Content-Length'), start)
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


def _total(length: str | None, start: int) -> int | None:
    """Return the size of the whole file, if the server says how much is still to come."""
    if length is None:
        return None
    if not re.fullmatch('[0-9]{1,18}', length.strip()):
        raise _Unfetched(f"the server's Content-Length is '{length[:30]}', which is no size")
    return start + int(length)


def _continues(headers: http.client.HTTPMessage, start: int) -> bool:
    return headers.get('Content-Range', '').startswith(f'bytes {start}-')


def _put(url: str, part: Path, path: Path, sha256: str) -> None:
    digest = sha256_of(part)
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
        raise _Unfetched(str(error).partition('\n')[0] or type(error).__name__) from error
    if not re.fullmatch('[0-9a-f]{64}', etag):
        raise _Unfetched('the server does not tell its SHA-256')
    return etag


def _receipt_path(path: Path) -> Path:
    return path.with_name(f'{path.name}.receipt.json')
