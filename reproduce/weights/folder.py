"""A folder that holds one checkpoint for each system, under the system's name."""

from pathlib import Path

# The same weights may lie there twice: safetensors, which cannot hold code, goes first.
SUFFIXES = ('.safetensors', '.pth', '.pth.tar', '.pt', '.bin', '.pdparams')


def in_folder(folder: Path, name: str) -> Path | None:
    """Return the file of the system or model `name`, safetensors first, if there is one."""
    candidates = (folder / f'{name}{suffix}' for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def expected(folder: str | Path, name: str) -> str:
    """Return the file in which the weights of the system or model `name` are expected."""
    return f'{folder}/{name}{SUFFIXES[0]}'
