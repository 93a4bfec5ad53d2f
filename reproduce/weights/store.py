"""Files of weights: found by name, downloaded where they are public, and verified by their hash."""

from enum import StrEnum
from pathlib import Path

from reproduce.base.errors import CheckpointNotFound, UserError
from reproduce.base.files import sha256_of
from reproduce.weights import download, registry
from reproduce.weights.registry import MANIFEST, Public, Released

# A folder may have the same weights twice: safetensors, which cannot hold code, goes first. An
# index lists the files of weights in several, which are refused when they are read.
_SUFFIXES = (
    *('.safetensors', '.pth', '.pth.tar', '.pt', '.bin', '.pdparams'),
    '.safetensors.index.json',
)


def in_folder(folder: Path, name: str) -> Path | None:
    """Return the file of the system or model `name`, safetensors first, if there is one.

    Raises:
        UserError: if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f'{folder} is not a folder: expected one with weights.')
    candidates = (folder / f'{name}{suffix}' for suffix in _SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def expected(folder: str | Path, name: str) -> str:
    """Return the file in which the weights of the system or model `name` are expected."""
    return f'{folder}/{name}{_SUFFIXES[0]}'


class FileState(StrEnum):
    """The state of the file of released weights."""

    PRESENT = 'present'
    ABSENT = 'absent'
    BAD_HASH = 'bad hash'  # another file than the released one
    UNVERIFIED = 'unverified'  # without a receipt, and its publisher gives no hash


def released_name(path: Path, sha256: str) -> str:
    """Return the name of the released weights that the file holds; '' if it holds none."""
    entry = registry.released(sha256)
    if entry is None and (kept := download.receipt(path)) and kept.sha256 == sha256:
        entry = next((e for e in registry.load_public() if e.url == kept.url), None)
    return entry.name if entry else ''


def find(where: str | Path, name: str) -> Path:
    """Return the checkpoint file of the system or model `name`.

    `where` is a file; a folder with one file for each system, such as `NAME.safetensors`, or with
    `model.safetensors`, as on the Hub; or the name of released weights or, after hf-hub:, of a
    repository, whose file is downloaded if need be, and verified if it is released.

    Raises:
        UserError: if there is none, or it is another file than the released one.
    """
    path = Path(where)
    if path.is_file():
        return path
    if path.is_dir():
        if found := in_folder(path, name) or in_folder(path, 'model'):
            return found
        raise UserError(f'{expected(path, name)} does not exist: put the weights there.')
    source, _, repository = str(where).partition(':')
    if source in ('hf-hub', 'hf_hub'):  # timm takes both
        return download.from_hub(repository)
    entries = {entry.name: entry for entry in registry.registered()}
    if str(where) in entries:
        return obtain(entries[str(where)])
    raise UserError(
        f'the checkpoint {where} does not exist: expected a file, a folder with {name}.safetensors '
        'in it, hf-hub:OWNER/REPOSITORY, or the name of weights in '
        'reproduce/weights/released/README.md or in the list of `python -m reproduce checkpoints`.'
    )


def obtain(entry: Released, manifest: Path = MANIFEST, folder: Path | None = None) -> Path:
    """Return the verified file of a released checkpoint, downloaded if it is not there.

    Downloads go to `folder`, or to torch's cache if it is None.

    Raises:
        UserError: if it does not exist, cannot be downloaded, or is another file.
    """
    if entry.file is not None:
        path = manifest.parent / entry.file
        if not path.is_file():
            raise UserError(f'the released checkpoint {path} does not exist: restore the checkout.')
        return _verified(entry, path)
    if folder is None:
        import torch  # imported here, so that listing the weights does not wait for it

        folder = Path(torch.hub.get_dir()) / 'checkpoints'
    path = folder / entry.filename
    if entry.by_hand and not path.is_file():
        raise UserError(
            f'{entry.name} cannot be downloaded by a program: get it from {entry.url} and put '
            f'it at {path}.'
        )
    download.fetch(entry.url, path, entry.sha256)
    return _verified(entry, path)


def stored(entry: Public, folder: Path | None) -> Path:
    """Return the verified file of public weights in `folder`, under the name of their system.

    Raises:
        CheckpointNotFound: if there is none.
        UserError: if it is another file than the published one.
    """
    path = folder and in_folder(folder, entry.system)
    if path is None:
        raise CheckpointNotFound(f'it takes {folder or "CHECKPOINTS"}/{entry.filename}')
    return _verified(entry, path)


def state(entry: Released, path: Path | None) -> FileState:
    """Return whether the file at `path`, which may be none, is the published one."""
    if path is None:
        return FileState.ABSENT
    known = {entry.sha256} - {''}
    if (kept := download.receipt(path)) and kept.url == entry.url:
        known.add(kept.sha256)
    if not known:
        return FileState.UNVERIFIED
    digest = sha256_of(path)
    return FileState.PRESENT if all(map(digest.startswith, known)) else FileState.BAD_HASH


def _verified(entry: Released, path: Path) -> Path:
    found = state(entry, path)
    if found is FileState.UNVERIFIED:
        raise UserError(
            f'{path} may be another file than the released {entry.name}, whose publisher gives no '
            'hash: move it away and download it with `python -m reproduce checkpoints`.'
        )
    if found is FileState.BAD_HASH:
        wanted = f'{entry.sha256[:16]}...' if entry.sha256 else 'that of its receipt'
        raise UserError(
            f'{path} is not the released {entry.name}: its SHA-256 is '
            f'{sha256_of(path)[:16]}..., expected {wanted}; remove it and download it again.'
        )
    return path
