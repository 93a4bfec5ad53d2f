"""Files of weights: found by name, fetched where they are public, and verified by their hash."""

from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from reproduce.base.errors import CheckpointNotFound, UserError
from reproduce.base.files import sha256_of
from reproduce.weights import download, registry
from reproduce.weights.folder import expected, in_folder
from reproduce.weights.registry import MANIFEST, Public, Released


class FileState(StrEnum):
    """The state of the file of released weights."""

    PRESENT = 'present'
    ABSENT = 'absent'
    BAD_HASH = 'bad hash'  # another file than the released one
    UNVERIFIED = 'unverified'  # put there by hand, and its publisher names no hash


def released_name(path: Path, sha256: str) -> str:
    """Return the name of the released weights that the file holds; '' if it holds none."""
    entry = registry.released(sha256)
    if entry is None and (kept := download.receipt(path)) and kept.sha256 == sha256:
        entry = next(
            (entry for entry in registry.load_public() if _same_place(entry.url, kept.url)), None
        )
    return entry.name if entry else ''


def find(where: str | Path, name: str) -> Path:
    """Return the checkpoint file that `where` tells for the system or model `name`.

    Args:
        where: a file; a folder with one file for each system, such as `NAME.safetensors`; or the
            name of released weights, whose file is fetched if need be and verified.

    Raises:
        UserError: if there is none, or it is to be a released one and is another.
    """
    path = Path(where)
    if path.is_file():
        return path
    if path.is_dir():
        found = in_folder(path, name)
        if found is None:
            raise UserError(f'{expected(path, name)} does not exist: put the weights there.')
        return found
    entries = {entry.name: entry for entry in registry.registered()}
    if str(where) in entries:
        return obtain(entries[str(where)])
    near = get_close_matches(str(where), entries, n=3)
    known = ', '.join(near) or '`python -m reproduce checkpoints` lists them'
    raise UserError(
        f'the checkpoint {where} does not exist: expected a file, a folder with {name}.safetensors '
        f'in it, or a released checkpoint ({known}).'
    )


def obtain(entry: Released, manifest: Path = MANIFEST, folder: Path | None = None) -> Path:
    """Return the verified file of a released checkpoint; a URL is fetched once.

    Args:
        folder: where it is fetched to; torch's cache if it is None.

    Raises:
        UserError: if it is not there or not below the manifest's folder, cannot be fetched, or is
            another file.
    """
    if entry.file is not None:
        path = manifest.parent / entry.file
        if not is_below(entry.file):
            raise UserError(
                f"{manifest} has the file '{entry.file}' for {entry.name}: expected one below the "
                "manifest's folder, without '..'."
            )
        if not path.is_file():
            raise UserError(f'the released checkpoint {path} does not exist: restore the checkout.')
    else:
        if folder is None:
            import torch  # imported here, so that listing the weights does not wait for it

            folder = Path(torch.hub.get_dir()) / 'checkpoints'
        path = folder / entry.filename
        if not path.is_file():
            download.fetch(entry.url, path, entry.sha256)
    return _verified(entry, path)


def is_below(file: str) -> bool:
    """Return whether a relative path stays below the folder that it is relative to."""
    path = PurePosixPath(file)
    return not path.is_absolute() and '..' not in path.parts


def stored(entry: Public, folder: Path | None) -> Path:
    """Return the verified file of public weights that lies in `folder` for their system.

    Raises:
        CheckpointNotFound: if none lies there.
        UserError: if it is another file than the published one.
    """
    path = folder and in_folder(folder, entry.system)
    if path is None:
        raise CheckpointNotFound(f'it takes {folder or "CHECKPOINTS"}/{entry.filename}')
    return _verified(entry, path)


def state(entry: Public, path: Path | None) -> FileState:
    """Return whether the file at `path`, which may be none, is the published one."""
    return FileState.ABSENT if path is None else _held(entry, path, sha256_of(path))


def _held(entry: Released, path: Path, digest: str) -> FileState:
    known = {entry.sha256} - {'', None}
    if (kept := download.receipt(path)) and _same_place(entry.url, kept.url):
        known.add(kept.sha256)
    if not known:
        return FileState.UNVERIFIED
    return FileState.PRESENT if all(map(digest.startswith, known)) else FileState.BAD_HASH


def _same_place(url: str, other: str) -> bool:
    """Return whether they name the same file, maybe on a mirror of the other's server."""
    return urlsplit(url).path == urlsplit(other).path


def _verified(entry: Released, path: Path) -> Path:
    digest = sha256_of(path)
    match _held(entry, path, digest):
        case FileState.PRESENT:
            return path
        case FileState.UNVERIFIED:
            raise UserError(
                f'{path} may be another file than the released {entry.name}, whose publisher names '
                'no hash: move it away and fetch it with `python -m reproduce checkpoints`.'
            )
    expected = f'{entry.sha256[:16]}...' if entry.sha256 else 'that of its receipt'
    raise UserError(
        f'{path} is not the released {entry.name}: its SHA-256 is {digest[:16]}..., expected '
        f'{expected}; remove it and fetch it again.'
    )
