"""The folder that a training writes into: one at a time, and nothing is left of a refused one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from reproduce.base.errors import UserError
from reproduce.base.files import check_writable
from reproduce.base.processes import Group

LOCK = '.lock'


@contextmanager
def claimed(folder: Path, group: Group) -> Iterator[None]:
    """Keep `folder` for these processes alone, from before anything is read until all is written.

    A folder that did not exist, and into which nothing has been written, is removed at the end.

    Raises:
        UserError: if files cannot be made in it, or another process writes into it; in all
            processes.
    """
    if group.rank:
        group.barrier()
        yield
        return
    is_new = not os.path.exists(folder)  # False also where that may not be known
    check_writable(folder)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f'another process writes into {folder}: wait for its end, or name another folder with '
            '--output.'
        ) from None
    except OSError as error:
        raise UserError(
            f'{folder / LOCK} cannot be locked ({error.strerror}): name a folder of your own with '
            '--output.'
        ) from None
    try:
        group.barrier()
        yield
    finally:
        if is_new and [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()
        lock.release()
