"""Files in archives for mmdet and mmseg, which read all files through mmengine's backends.

A path that begins with `archive://` is that of the archive, followed by the path in it.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.fileio import BaseStorageBackend, register_backend

from datasets.stores import AnyPath, StoredPath, open_archive

_PREFIX = 'archive://'


def location(path: AnyPath) -> str:
    """Return the path of a file or a folder as configs of mmdet and mmseg have it."""
    return f'{_PREFIX}{path}' if isinstance(path, StoredPath) else str(path.absolute())


class ArchiveBackend(BaseStorageBackend):
    """The part of mmengine's interface to files that mmdet and mmseg use, for those in archives."""

    def get(self, filepath: str) -> bytes:
        """Return the content of a file."""
        return _stored(filepath).read_bytes()

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        """Return the text of a file."""
        return self.get(filepath).decode(encoding)

    def join_path(self, filepath: str, *filepaths: str) -> str:
        """Return the path of something below `filepath`."""
        return '/'.join([filepath.rstrip('/'), *filepaths])

    def list_dir_or_file(self, dir_path: str, suffix: str = '', **options: Any) -> Iterator[str]:
        """Yield the names of the files in a folder; those of ADE20K hold no folders."""
        return (path.name for path in _stored(dir_path).iterdir() if path.name.endswith(suffix))

    @contextmanager
    def get_local_path(self, filepath: str) -> Iterator[str]:
        """Give a copy of a file, which is removed afterwards."""
        with tempfile.NamedTemporaryFile(suffix=Path(filepath).suffix) as file:
            file.write(self.get(filepath))
            file.flush()
            yield file.name


def _stored(uri: str) -> StoredPath:
    path = Path(uri.removeprefix(_PREFIX))
    archive = next(parent for parent in (path, *path.parents) if parent.is_file())
    return open_archive(archive) / str(path.relative_to(archive))


register_backend('archive', ArchiveBackend, prefixes='archive')
