"""What is published about public weights, kept so that readers of it need no timm and no YAML.

`results/publications.json` has it under a hash over what it is read from: the installed packages'
versions, the results beside this file, and the code that reads them. The file can be deleted at
any time; it is written again by the first command that needs it.
"""

import sys
from collections.abc import Collection
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from reproduce.base.errors import UserError
from reproduce.base.files import write_atomically
from reproduce.base.folders import PUBLICATIONS
from reproduce.base.versions import CHECKOUT
from reproduce.complexity.kept_results import code_key
from reproduce.weights.published import Publication, publication

# The lists of this project, and the code that reads all of them.
_SOURCES = tuple(
    f'reproduce/weights/{name}'
    for name in ('published.py', 'timm_results.toml', 'release_results.toml')
)

_KEPT = TypeAdapter(dict[str, dict[str, Publication]])


def publications(
    weights: Collection[str], path: Path = CHECKOUT / PUBLICATIONS
) -> dict[str, Publication]:
    """Return what is published about each of `weights`, from `path` where it is kept there.

    Raises:
        UserError: if the installed packages do not know some weights.
    """
    key = code_key(_SOURCES)
    kept = _read(path).get(key, {})
    if all(name in kept for name in weights):
        return {name: kept[name] for name in weights}
    found = {name: publication(name) for name in weights}
    try:
        write_atomically(path, _KEPT.dump_json({key: found}, indent=1).decode() + '\n')
    except UserError as error:  # as in a checkout that is read-only: nothing is lost but time
        print(f'note: what is published about weights is not kept: {error}', file=sys.stderr)
    return found


def _read(path: Path) -> dict[str, dict[str, Publication]]:
    try:
        return _KEPT.validate_json(path.read_bytes())
    except (OSError, ValidationError):  # it is made again
        return {}
