"""How far a long command is, on standard error: a bar on a terminal, a line a step in a file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Progress:
    """Steps of a known number, of which each is announced once it is done.

    Args:
        what: what is being done, such as 'counting'.
        total: the number of steps.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.done = 0
        # A bar is drawn on a terminal only.
        self.bar = tqdm(desc=what, total=total, leave=False, disable=None)
        if self.bar.disable and total:
            print(f'{what}: {total} to do', file=sys.stderr, flush=True)

    def step(self, name: str) -> None:
        """Say that the step called `name` is done."""
        self.done += 1
        self.bar.set_postfix_str(name, refresh=False)
        self.bar.update()
        if self.bar.disable:
            print(f'{self.what}: {self.done}/{self.total} {name}', file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: int) -> Iterator[Progress]:
    """Show the progress of `total` steps until the block is left."""
    shown = Progress(what, total)
    try:
        yield shown
    finally:
        shown.bar.close()
