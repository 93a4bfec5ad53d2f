"""What the processes of one job must have in common, because it decides the numbers.

Each function returns some of the facts of `Group.check_same`: values by what they are called in a
message.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from datasets.subset import evenly_spaced
from reproduce.base.files import sha256_of
from reproduce.base.versions import libraries, sources_sha256

# A data set's fingerprint is over names and sizes: so many of its images are read, too.
_READ = 8


class _Data(Protocol):
    split: str
    samples: Sequence[Any]
    fingerprint: str


def of_code() -> dict[str, str]:
    """Return the facts about this project's code and the libraries."""
    versions = {f'version of {name}': version for name, version in libraries().items()}
    return {'code of this project': sources_sha256(), **versions}


def of_data(data: _Data) -> dict[str, str]:
    """Return the facts about the images of a data set, and the bytes of a few of them."""
    digest = hashlib.sha256()
    for path, _ in evenly_spaced(data.samples, _READ):
        # One that cannot be read is named when its turn comes.
        digest.update(path.read_bytes() if path.is_file() else b'')
    return {
        f'number of {data.split} images': str(len(data.samples)),
        f'fingerprint of the {data.split} images': data.fingerprint,
        f'contents of the {data.split} images': digest.hexdigest()[:16],
    }


def of_file(name: str, path: str | Path | None) -> dict[str, str]:
    """Return the hash of a file, called `name` in messages; none if there is no such file."""
    there = path is not None and Path(path).is_file()
    return {f'{name} (SHA-256)': sha256_of(Path(path))[:16] if there else 'none'}
