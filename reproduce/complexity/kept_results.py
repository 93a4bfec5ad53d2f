"""Results of functions of code and inputs: kept in a file, and computed again when either differs.

A line of the file holds a result under a hash of everything that decides it, so one of other code,
other inputs or other libraries is never taken. The file can be deleted at any time.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from reproduce.base.errors import UserError
from reproduce.base.files import read_csv, write_csv
from reproduce.base.versions import CHECKOUT, libraries, sources_sha256

# The packages whose versions decide what a network counts.
_LIBRARIES = (
    *('torch', 'torchvision', 'timm'),
    *('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation'),
)


class KeptLine(BaseModel):
    """A line of such a file; its schema adds the results.

    Attributes:
        name: of what was computed, for the reader.
        code: a hash over the code and the libraries; lines of another one are removed.
        key: a hash over that and the inputs.
    """

    model_config = ConfigDict(extra='forbid')
    name: str
    code: str
    key: str


Line = TypeVar('Line', bound=KeptLine)


def code_key(places: tuple[str, ...], checkout: Path = CHECKOUT) -> str:
    """Return a hash over code of this project and the libraries that decide what networks count.

    Args:
        places: the files and folders of the code, relative to `checkout`.
    """
    installed = libraries()
    return _hash([sources_sha256(places, checkout), [installed[name] for name in _LIBRARIES]])


def kept_or_computed(
    path: Path,
    schema: type[Line],
    code: str,
    inputs: Mapping[str, Any],
    compute: Callable[[list[str]], Mapping[str, Mapping[str, Any] | str]],
) -> dict[str, Line | str]:
    """Return the result of each of `inputs`, by name, from `path` where it is kept there.

    Args:
        schema: of a line of the file.
        code: the `code_key` of the code that computes the results.
        inputs: by name, everything else that decides the result, as JSON has it.
        compute: returns the results of the names that are not kept, as fields of `schema`; or why
            there is none, in a sentence. These are not kept.
    """
    keys = {name: _hash([code, given]) for name, given in inputs.items()}
    kept = _read(path, schema, code)
    results: dict[str, Line | str] = {name: kept[key] for name, key in keys.items() if key in kept}
    missing = [name for name in inputs if name not in results]
    if missing:
        for name, result in compute(missing).items():
            if not isinstance(result, str):
                result = schema(name=name, code=code, key=keys[name], **result)
                kept[result.key] = result
            results[name] = result
        _write(path, schema, kept.values())
    return results


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path, schema: type[Line], code: str) -> dict[str, Line]:
    try:
        lines = [line for _, line in read_csv(path, schema)]
    except UserError:  # missing, damaged or of an earlier version: it is made again
        return {}
    return {line.key: line for line in lines if line.code == code}


def _write(path: Path, schema: type[Line], lines: Sequence[Line]) -> None:
    rows = sorted((line.model_dump() for line in lines), key=lambda row: (row['name'], row['key']))
    try:
        write_csv(path, schema, rows)
    except UserError as error:  # as in a checkout that is read-only: nothing is lost but time
        print(f'note: what was computed is not kept: {error}', file=sys.stderr)
