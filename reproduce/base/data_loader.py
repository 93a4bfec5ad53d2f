"""Reading a data set in worker processes, with errors that stay one sentence."""

import errno
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from reproduce.base import shared_memory
from reproduce.base.errors import UserError

shared_memory.install()


def check_workers(workers: int | None) -> None:
    """Hold a number of data-loading workers against what there can be; None is the default.

    Raises:
        UserError: if it is negative.
    """
    if workers is not None and workers < 0:
        raise UserError(f'--workers {workers} is no number of processes: give 0 or more.')


class ErrorPreservingLoader(DataLoader):
    """torch's `DataLoader`, which raises a `UserError` of the data set as the data set raised it.

    torch's own carries an exception of a worker process to this one as text, with the traceback.
    Here it travels as a value, in place of the batch. A batch for which shared memory is short
    travels another way.

    Args:
        dataset: a data set with indices.
        collate: makes a batch of a list of items.
        options: further arguments of `DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset,
        collate: Callable[[list[Any]], Any] = shared_memory.collate_where_there_is_room,
        **options: Any,
    ) -> None:
        super().__init__(_Caught(dataset), collate_fn=_CollateCaught(collate), **options)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches.

        Raises:
            UserError: at the first batch with an item that cannot be read, or if a worker is
                killed.
        """
        try:
            batches = super().__iter__()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise UserError(
                f'{shared_memory.PLACE} is full, so no data-loading worker starts: give it more '
                '(--shm-size in Docker), or read images in the same process with --workers 0.'
            ) from error
        try:
            yield from _without_errors(batches)
        finally:
            if not self.persistent_workers:
                end_workers(batches)


def end_workers(batches: Iterator[Any]) -> None:
    """End the workers of an iterator of torch's `DataLoader`, if it has any.

    Left to the garbage collector it can take five seconds: where the iterator is part of a cycle,
    the queue that would tell the workers to end is taken away first.
    """
    if end := getattr(batches, '_shutdown_workers', None):
        end()


def _without_errors(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches, and raise the first error among them."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if 'DataLoader worker' not in str(error):
                raise
            reason = str(error).partition('\n')[0]
            raise UserError(
                f'a data-loading worker ended ({reason}): give the machine more memory, or '
                'lower --workers; --shm-size says how much of it Docker shares.'
            ) from error
        if isinstance(batch, UserError):
            raise batch
        yield batch


class _Caught(Dataset):
    """A data set whose item is its error where it cannot be read."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return error


class _CollateCaught:
    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        error = next((item for item in items if isinstance(item, UserError)), None)
        return self.collate(items) if error is None else error
