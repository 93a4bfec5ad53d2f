"""Weights that others published: where they are, what they score, their licence.

Read from the installed packages: timm's pretrained tags, and the metafiles that mmdet and mmseg
carry. What timm's weights score is in no package; `timm_results.toml` has what timm published.
What other releases score, which no package knows, is in `release_results.toml`, and where some are.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from reproduce.base.errors import UserError
from reproduce.base.files import read_toml

TIMM_RESULTS = Path(__file__).parent / 'timm_results.toml'
RELEASE_RESULTS = Path(__file__).parent / 'release_results.toml'

# What the packages are installed as, which is where their licence stands.
DISTRIBUTIONS = {'mmdet': 'onedl-mmdetection', 'mmseg': 'onedl-mmsegmentation'}

# The metafiles' names of the metrics.
METRICS = {
    'box AP': 'box_ap',
    'mask AP': 'mask_ap',
    'mIoU': 'miou',
    'mIoU(ms+flip)': 'ms_miou',
}


@dataclass(frozen=True)
class Publication:
    """What the publisher of weights tells about them.

    Attributes:
        url: the file.
        sha256: the first digits of the file's SHA-256, as far as the URL names them; None where
            nobody tells it, neither the URL nor the server.
        licence: that of the weights, or of the package that publishes them.
        metrics: in percent, by name, on the task's whole validation set.
        source: where the metrics stand.
        config: the OpenMMLab config that they were measured with; None for a timm model.
    """

    url: str
    sha256: str | None
    licence: str
    metrics: dict[str, float]
    source: str
    config: str | None = None


@cache
def publication(weights: str) -> Publication:
    """Return what is published about `weights`.

    Args:
        weights: 'timm:' and a model with its pretrained tag; 'mmdet:' or 'mmseg:' and a name in
            one of the package's metafiles; or 'release:' and a system in `release_results.toml`.

    Raises:
        UserError: if the package is not installed, does not know the weights, or gives two
            different ones under that name.
    """
    package, _, name = weights.partition(':')
    if package == 'timm':
        return _of_timm(name)
    if package in DISTRIBUTIONS:
        return _of_openmmlab(package, name)
    if package == 'release':
        return _of_release(name)
    raise UserError(
        f"'{weights}' names no weights: expected timm:, mmdet:, mmseg: or release: and a name."
    )


class _Result(BaseModel):
    model_config = ConfigDict(extra='forbid')
    top1: float
    top5: float
    img_size: int


class _TimmResults(BaseModel):
    model_config = ConfigDict(extra='forbid')
    repository: str
    commit: str
    file: str
    results: dict[str, _Result]


def _of_timm(name: str) -> Publication:
    # Imported here: they bring torch, and who reads results without such weights needs neither.
    import timm
    from huggingface_hub import hf_hub_url

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that it does not know
        config = None
    if config is None or not config.has_weights:
        raise UserError(f"timm {timm.__version__} has no weights '{name}': correct the entry.")
    published = read_toml(TIMM_RESULTS, _TimmResults)
    result = published.results.get(name)
    if result is None or result.img_size != config.input_size[-1]:
        raise UserError(
            f'{TIMM_RESULTS} has no result of {name} at the {config.input_size[-1]} pixels that '
            'timm evaluates it at: add it.'
        )
    url = config.url or ''
    if not _named_hash(url) and config.hf_hub_id:
        # The hub tells the SHA-256 of its files; a URL that does not name it tells nothing.
        url = hf_hub_url(config.hf_hub_id, config.hf_hub_filename or 'model.safetensors')
    return Publication(
        url=url,
        sha256=_named_hash(url),
        licence=config.license,
        metrics={'top1': result.top1, 'top5': result.top5},
        source=f'{published.repository}/blob/{published.commit}/{published.file}',
    )


def _of_openmmlab(package: str, name: str) -> Publication:
    folder = _metafiles(package)
    found = [
        (path, entry)
        for path in sorted(folder.glob('configs/*/metafile.y*ml'))
        for entry in _entries(path, name)
    ]
    if not found:
        raise UserError(f"{package}'s metafiles have no weights '{name}': correct the entry.")
    if len(found) > 1:
        files = ' and '.join(entry['Weights'].rpartition('/')[2] for _, entry in found)
        raise UserError(
            f"{package}'s metafiles have two weights '{name}', {files}: one of them is mislabelled."
        )
    ((path, entry),) = found
    results = entry['Results']
    results = results if isinstance(results, list) else [results]
    url = entry['Weights']
    return Publication(
        url=url,
        sha256=_named_hash(url),
        licence=_licence(package),
        metrics={
            METRICS[metric]: float(value)
            for result in results
            for metric, value in result['Metrics'].items()
        },
        source=f'{package}, {path.relative_to(folder)}',
        config=f'{package}::{entry["Config"].removeprefix("configs/")}',
    )


class _Release(BaseModel):
    model_config = ConfigDict(extra='forbid')
    repository: str
    commit: str
    file: str
    licence: str = ''
    results: dict[str, dict[str, float]]
    url: dict[str, str] = {}

    @property
    def address(self) -> str:
        return f'{self.repository}/blob/{self.commit}/{self.file}'


@cache
def _releases() -> dict[str, _Release]:
    """Return the release that has the results of each system."""
    return {
        system: release
        for release in read_toml(RELEASE_RESULTS, dict[str, _Release]).values()
        for system in release.results
    }


def release_results() -> dict[str, tuple[dict[str, float], str]]:
    """Return what released weights score that no package knows, by system, and where that stands.

    Raises:
        UserError: if the file is malformed.
    """
    return {
        system: (release.results[system], release.address)
        for system, release in _releases().items()
    }


def _of_release(system: str) -> Publication:
    release = _releases().get(system)
    if release is None or system not in release.url:
        raise UserError(
            f"{RELEASE_RESULTS} has no URL of weights of '{system}': correct the entry."
        )
    return Publication(
        url=release.url[system],
        sha256=None,
        licence=release.licence,
        metrics=release.results[system],
        source=release.address,
    )


def _metafiles(package: str) -> Path:
    spec = find_spec(package)
    if spec is None:
        raise UserError(f'{package} is not installed: run `make setup`.')
    return Path(spec.origin).parent / '.mim'


def _entries(path: Path, name: str) -> list[dict[str, Any]]:
    """Return the entries of a metafile with this name."""
    if f'Name: {name}\n' not in path.read_text():
        return []  # parsing all of them takes a minute
    return [entry for entry in _parsed(path)['Models'] if entry['Name'] == name]


@cache
def _parsed(path: Path) -> dict[str, Any]:
    # The loader in C, where PyYAML has it, takes a tenth of the time.
    return yaml.load(path.read_text(), getattr(yaml, 'CSafeLoader', yaml.SafeLoader))


def _licence(package: str) -> str:
    try:
        return metadata(DISTRIBUTIONS[package])['License-Expression'].removeprefix('LicenseRef-')
    except PackageNotFoundError as error:
        raise UserError(f'{DISTRIBUTIONS[package]} is not installed: run `make setup`.') from error


def _named_hash(url: str) -> str:
    """Return the 8 hex digits of a hash at the end of a file's name; '' if there are none."""
    found = re.search(r'-([0-9a-f]{8})\.pth$', url)
    return found[1] if found else ''
