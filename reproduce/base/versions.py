"""What measures: the code of this project and the libraries that it computes with."""

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]

_PACKAGES = (
    *('torch', 'torchvision', 'timm', 'pillow', 'numpy', 'pycocotools'),
    *('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation'),
)

_ROOMS = ('model', 'datasets', 'reproduce', 'operators')
_SOURCES = ('.py', '.toml', '.csv')


def libraries() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the numbers."""
    return {'python': platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def code_facts() -> dict[str, str]:
    """Return what ranks have in common if they run the same code, for `Group.check_same`."""
    versions = {f'version of {name}': version for name, version in libraries().items()}
    return {'code of this project': sources_sha256(), **versions}


@cache
def sources_sha256(places: tuple[str, ...] = _ROOMS, checkout: Path = CHECKOUT) -> str:
    """Return a hash over this project's own code, 16 hex digits; changed files are in it, too.

    Args:
        places: files, and folders with all that is below them, relative to `checkout`.
    """
    digest = hashlib.sha256()
    found = (checkout / place for place in places)
    files = (path for place in found for path in ([place] if place.is_file() else place.rglob('*')))
    for path in sorted(path for path in files if path.suffix in _SOURCES and path.is_file()):
        name = path.relative_to(checkout)
        if 'build' in name.parts:  # the copy that pip leaves there when it installs `operators`
            continue
        content = path.read_bytes()
        digest.update(f'{name} {len(content)}\n'.encode() + content)
    return digest.hexdigest()[:16]
