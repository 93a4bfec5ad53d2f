"""Folders that can hold results, and files that are replaced whole or not at all."""

import os
import tempfile
from pathlib import Path

from reproduce.errors import UserError


def check_writable(folder: Path) -> None:
    """Make `folder` and check that files can be made in it, before hours are spent.

    Raises:
        UserError: if not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f'{folder} cannot hold results ({error.strerror}): name a writable folder with '
            '--output.'
        ) from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, whose folder exists.

    Raises:
        UserError: if it cannot be written; what stood there is as it was.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f'.{path.name}.', delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content.encode() if isinstance(content, str) else content)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}.') from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
