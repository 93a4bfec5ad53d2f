"""mmengine's checkpoint loaders, replaced by ones that run no code of the files they read.

mmengine's own fall back to plain unpickling where safe reading fails. Every `load_from`, `init_cfg`
and resumed checkpoint of a Runner or a model passes through its `CheckpointLoader`; so does what is
registered here.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import get_external_models, get_torchvision_models
from torch.serialization import safe_globals

from model.checkpoint import NUMPY, CheckpointError, read_file
from reproduce.base.errors import UserError
from reproduce.weights import download


def _statistic(owner: Any, name: str) -> Callable:
    """Return what mmengine's logs ask `getattr` for; `getattr` itself would reach any object."""
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise UnpicklingError(f'GLOBAL builtins.getattr: {name} is no statistic')


_LOGS = (
    (HistoryBuffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (_statistic, 'builtins.getattr'),
)

# Storages that only mmengine's own loaders read.
_OTHERS = ('pavi://', 'mmcls://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Return all that a checkpoint of mmengine holds: `state_dict`, `optimizer`, `message_hub`, ...

    Raises:
        UserError: if the file is missing, is not a checkpoint, or would run code.
    """

    def load(path: Path) -> Any:
        with safe_globals([*NUMPY, *_LOGS]):
            return torch.load(path, map_location=map_location, weights_only=True)

    try:
        content = read_file(Path(path).expanduser(), load)
    except CheckpointError as error:
        raise UserError(f'{error}.') from error
    if isinstance(meta := content.get('meta'), dict):
        # A Runner that resumes would run this string as a config file.
        meta.pop('config', None)
    return content


def install() -> None:
    """Make mmengine read every checkpoint of this process without running code of it.

    Files are local or fetched from http(s), torchvision's or OpenMMLab's addresses; where the file
    name carries a hash, the file is checked by it. Other schemes are refused.
    """
    loaders = {
        '': read_checkpoint,
        'http://': load_from_web,
        'https://': load_from_web,
        'torchvision://': _listed(get_torchvision_models),
        'modelzoo://': _listed(get_torchvision_models),
        'open-mmlab://': _listed(get_external_models),
        'openmmlab://': _listed(get_external_models),
        **dict.fromkeys(_OTHERS, _listed(dict)),
    }
    for prefix, loader in loaders.items():
        CheckpointLoader.register_scheme(prefix, loader, force=True)


def load_from_web(url: str, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint from the web, fetched once into torch's cache and checked by its hash."""
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(url).path).name
    digest = re.search(r'-([0-9a-f]{8,64})\.', path.name)
    download.fetch(url, path, digest[1] if digest else '')  # of several processes, one does it
    return read_checkpoint(path, map_location)


def _listed(models: Callable[[], Mapping[str, str]]) -> Callable[..., dict[str, Any]]:
    def load_from_list(name: str, map_location: Any = None) -> dict[str, Any]:
        address = models().get(name.partition('://')[2], '')
        if not address.startswith(('http://', 'https://')):
            raise UserError(f"there is no published checkpoint '{name}': name a file or a URL.")
        return load_from_web(address, map_location)

    return load_from_list
