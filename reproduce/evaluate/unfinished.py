"""Predictions of an evaluation that has not ended, with which another run can continue.

The folder `.NAME-KEY.unfinished` beside the records holds

    evaluation.json   what decides the numbers, of which KEY is a hash
    INDEX.pickle      what a rank found on the images of some batches, the first image is INDEX

Every rank writes a file every few seconds. The folder is removed when the record is written.
"""

import io
import json
import pickle
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from model.checkpoint import NUMPY
from reproduce.base.errors import UserError
from reproduce.base.files import write_atomically
from reproduce.base.processes import Group
from reproduce.evaluate.attestation import content_sha256

# Between two files of a rank: what is lost of a run that is killed.
SECONDS = 10.0

# The place of an image in the data set, its prediction, the SHA-256 of its file.
Found = tuple[int, Any, str]


class _Reader(pickle.Unpickler):
    """Reads Python's own types and NumPy's arrays; a file of anything else runs no code."""

    def find_class(self, module: str, name: str) -> Any:
        return {full: value for value, full in NUMPY}[f'{module}.{name}']


class Unfinished:
    """What is kept of one evaluation, as one of its ranks sees it.

    Args:
        records: the folder of the records; None keeps nothing.
        name: of the system or the model.
        facts: what decides the numbers, by what it is called in errors.
        resume: whether to continue with what is kept.

    Attributes:
        earlier: what interrupted runs found; empty unless they are resumed.

    Raises:
        UserError: if what is kept is of an evaluation with other facts, or it is damaged.
    """

    def __init__(
        self, group: Group, records: Path | None, name: str, facts: Mapping[str, Any], resume: bool
    ) -> None:
        self.facts = {key: json.dumps(v, sort_keys=True, default=str) for key, v in facts.items()}
        self.folder = records and records / f'.{name}-{content_sha256(self.facts)[:12]}.unfinished'
        self.earlier: list[Found] = []
        self.pending: list[Found] = []
        self.written, self.is_first = time.monotonic(), group.rank == 0
        if resume and self.folder:
            self.earlier = self._read(name)
            group.check_same(lambda: {'kept predictions': [index for index, *_ in self.earlier]})
        elif self.is_first and self.folder and self.folder.is_dir():
            kept = f'note: {self.folder} has predictions of an interrupted run'
            print(f'{kept}: --resume continues it, and this run does not.', file=sys.stderr)

    def add(self, found: Iterable[Found]) -> None:
        """Keep what was found on the images of a batch.

        Raises:
            UserError: if it cannot be written.
        """
        self.pending += found
        if self.folder is None or time.monotonic() - self.written < SECONDS:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.is_first:
            write_atomically(self.folder / 'evaluation.json', json.dumps(self.facts, indent=2))
        # Protocol 5 has functions for arrays that are not in NUMPY.
        content = pickle.dumps(self.pending, protocol=4)
        write_atomically(self.folder / f'{self.pending[0][0]:08}.pickle', content)
        self.pending, self.written = [], time.monotonic()

    def remove(self) -> None:
        """Remove what is kept, when the record is written."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, name: str) -> list[Found]:
        if not self.folder.is_dir():
            for other in self.folder.parent.glob(f'.{name}-*.unfinished/evaluation.json'):
                kept = json.loads(other.read_bytes())
                names = [key for key in self.facts | kept if self.facts.get(key) != kept.get(key)]
                differs = f'that in {other.parent} has another {", ".join(names)}'
                if self.is_first:
                    print(f'note: of this evaluation nothing is kept; {differs}.', file=sys.stderr)
            return []  # a script that always resumes begins
        found: dict[int, Found] = {}
        for path in sorted(self.folder.glob('*.pickle')):
            try:
                read = _Reader(io.BytesIO(path.read_bytes())).load()
                found |= {index: (index, *others) for index, *others in read}
            except Exception as error:  # whatever damaged bytes raise
                raise UserError(f'{path} is damaged: remove it, and --resume again.') from error
        if self.is_first:
            print(f'note: {len(found):,} images are predicted already.', file=sys.stderr)
        return list(found.values())
