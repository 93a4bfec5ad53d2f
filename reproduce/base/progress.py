"""How far a long loop is, on stderr."""

import sys
from typing import Any

from tqdm import tqdm


class Progress(tqdm):
    """tqdm's bar; where stderr is no terminal, as in the log of a job, a line of it each minute."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        seconds = {} if sys.stderr.isatty() else {'mininterval': 60, 'maxinterval': 60}
        super().__init__(*args, **seconds, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self.fp.isatty():
            super().display(msg, pos)
        elif self.n > self.initial:
            print(self, file=self.fp)

    def close(self) -> None:
        if not self.disable and self.fp.isatty():
            super().close()
        self.disable: bool = True
