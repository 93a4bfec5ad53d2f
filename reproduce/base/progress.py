"""How far a long command is, on standard error: a bar on a terminal, a line a step in a file."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show the progress of `total` steps; yields what is called with the name of each that is done.

    Args:
        what: what is being done, such as 'counting'.
    """
    with tqdm(desc=what, total=total, leave=False, disable=None) as bar:
        done = 0

        def step(name: str) -> None:
            nonlocal done
            done += 1
            bar.set_postfix_str(name, refresh=False)
            bar.update()
            if bar.disable:  # standard error is no terminal
                print(f'{what}: {done}/{total} {name}', file=sys.stderr, flush=True)

        if bar.disable and total:
            print(f'{what}: {total} to do', file=sys.stderr, flush=True)
        yield step
