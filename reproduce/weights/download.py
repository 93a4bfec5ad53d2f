"""Downloads over http and https, verified by SHA-256 before the file gets its name."""

import sys
from pathlib import Path

from pydantic import BaseModel, ValidationError

from reproduce.base.errors import UserError
from reproduce.base.files import reason, sha256_of, write_atomically

_HUB = 'https://huggingface.co'
# What timm calls the file of weights in a repository there, the first that is found.
HUB_FILES = ('model.safetensors', 'pytorch_model.bin')


class Receipt(BaseModel):
    """Where a file was downloaded from and its hash, kept next to it as FILE.receipt.json."""

    url: str
    sha256: str


def _receipt_path(path: Path) -> Path:
    return path.with_name(f'{path.name}.receipt.json')


def receipt(path: Path) -> Receipt | None:
    """Return the receipt of the file at `path`, if it has one that can be read."""
    try:
        return Receipt.model_validate_json(_receipt_path(path).read_bytes())
    except (OSError, ValidationError):
        return None


def write_receipt(url: str, path: Path, sha256: str) -> None:
    """Write where the file at `path` is from, and its hash, which is to stay the same."""
    kept = Receipt(url=url, sha256=sha256).model_dump_json(indent=2)
    write_atomically(_receipt_path(path), kept + '\n')


def fetch(url: str, path: Path, sha256: str = '') -> None:
    """Download `url` to `path`, unless that file exists; its folder is made.

    `path` is the whole file, verified, or does not exist. Of several processes that need the same
    file one downloads it.

    Args:
        sha256: of the file, or its first digits; '' where they are unknown. Of its own files the
            Hugging Face hub provides it.

    Raises:
        UserError: if it cannot be downloaded, or is another file than expected.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f'.{path.name}.lock')):
        if not path.is_file():
            _download(url, path, sha256)


def from_hub(name: str) -> Path:
    """Return the weights of a repository on the Hugging Face Hub, with its config.json beside them.

    They are in the cache of the Hub's client, which is what is taken if the Hub is out of reach.

    Args:
        name: OWNER/REPOSITORY, and @REVISION if it is not the newest.

    Raises:
        UserError: if they are neither on the Hub nor in the cache.
    """
    from huggingface_hub import constants, snapshot_download  # here, as in `_download`

    repository, _, revision = name.partition('@')
    try:
        for weights in HUB_FILES:
            folder = snapshot_download(
                repository, revision=revision or None, allow_patterns=['config.json', weights]
            )
            path = Path(folder, weights)  # without a network, what timm cached of them
            if path.is_file() and path.with_name('config.json').is_file():
                return path
    except Exception as error:  # of the Hub's client, and of an HTTP library
        raise UserError(
            f'{constants.ENDPOINT}/{repository} cannot be downloaded: {_cause(error)}. Without a '
            'network, name a file with --checkpoint.'
        ) from error
    raise UserError(f'{constants.ENDPOINT}/{repository} has no model.safetensors and config.json.')


def _cause(error: BaseException) -> str:
    """Return what the first of a chain of exceptions says, such as "Name or service not known"."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return reason(error).rstrip('.')


def _download(url: str, path: Path, sha256: str) -> None:
    # Imported here: most commands need weights that are there, or none.
    from huggingface_hub import constants, get_hf_file_metadata
    from pooch import HTTPDownloader

    source = url.replace(_HUB, constants.ENDPOINT, 1)  # HF_ENDPOINT names a mirror
    part = path.with_name(f'{path.name}.part')
    part.unlink(missing_ok=True)  # of a process that was killed
    try:
        try:
            if url.startswith(_HUB) and not sha256:
                sha256 = get_hf_file_metadata(source).etag or 'unknown'
            # It raises an error, too, where a connection breaks off.
            downloader = HTTPDownloader(sys.stderr.isatty(), chunk_size=1 << 20, timeout=30)
            downloader(source, str(part), None)
        except Exception as error:  # of the Hub's client, and of two HTTP libraries
            raise UserError(f'{source} cannot be downloaded: {_cause(error)}.') from error
        digest = sha256_of(part)
        if not digest.startswith(sha256):
            raise UserError(
                f'{source} is another file than the published one: its SHA-256 is '
                f'{digest[:16]}..., expected {sha256[:16]}; it was deleted.'
            )
        # The receipt first: without it a file without a published hash cannot be identified.
        write_receipt(url, path, digest)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
