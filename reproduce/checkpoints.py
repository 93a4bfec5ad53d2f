"""Checkpoints: found, verified, loaded, and explained where they do not fit.

`checkpoints.toml` is the manifest of this project's released weights: where each file is, its
SHA-256, its licence, and what it scores according to whoever released it. The public weights of the
paper's other systems, which `systems/*.toml` names, join it from `public.py`.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import timm
import torch
import torch.nn as nn
from pydantic import BaseModel, ConfigDict, Field, model_validator

from model import maformer
from model.checkpoint import CheckpointError, differences, listed, read
from reproduce import download
from reproduce.errors import CheckpointNotFound, UserError
from reproduce.paper import read_toml
from reproduce.public import publication
from reproduce.systems import System, load_systems

MANIFEST = Path(__file__).parent / 'checkpoints.toml'

# The same weights may lie there twice: safetensors, which cannot hold code, goes first.
SUFFIXES = ('.safetensors', '.pth', '.pth.tar', '.pt', '.bin')

# The whole validation set of each task.
IMAGES = {'imagenet': 50_000, 'coco': 5_000, 'ade20k': 2_000}


class Reference(BaseModel):
    """What released weights score according to whoever released them.

    Attributes:
        data: 'full' for the task's own data set, 'shapes' for the embedded data.
        fingerprint: the images it was measured on; needed unless they are the whole set.
        images: how many they are.
        metrics: in percent, by name.
        source: who measured it.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    data: Literal['full', 'shapes'] = 'full'
    fingerprint: str = ''
    images: int
    metrics: dict[str, float]
    source: str

    @model_validator(mode='after')
    def _names_its_images(self) -> 'Reference':
        if self.data != 'full' and not self.fingerprint:
            raise ValueError('a reference on the embedded data needs a fingerprint')
        return self

    def holds_for(self, fingerprint: str, complete: bool) -> bool:
        """Whether it is about these images: the whole set, or the ones with its fingerprint."""
        return self.fingerprint == fingerprint if self.fingerprint else complete


class Released(BaseModel):
    """Released weights: one entry of the manifest.

    Attributes:
        name: unique.
        task: 'imagenet', 'coco' or 'ade20k'.
        model, arguments: the timm model and its constructor arguments, or an OpenMMLab config and
            the values that replace some of it.
        preprocessing: what replaces a timm model's own: img_size, crop_pct, ...
        multi_scale: whether a segmenter is evaluated at several scales, too.
        file, url: the file, relative to the manifest, or where it is fetched from.
        sha256: of the file, 64 hex digits.
        protocol: how their training or evaluation differs from that of the paper's row.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    name: str
    task: Literal['imagenet', 'coco', 'ade20k'] = 'imagenet'
    model: str
    arguments: dict[str, Any] = {}
    preprocessing: dict[str, Any] = {}
    multi_scale: bool = False
    file: str | None = None
    url: str | None = None
    sha256: Annotated[str, Field(pattern='^[0-9a-f]{64}$')]
    licence: str
    reference: list[Reference] = []
    protocol: str = ''

    @model_validator(mode='after')
    def _is_somewhere(self) -> 'Released':
        if (self.file is None) == (self.url is None):
            raise ValueError(f'{self.name} needs either file or url')
        for reference in self.reference:
            if not reference.fingerprint and reference.images != IMAGES[self.task]:
                raise ValueError(
                    f'{self.name} has a reference on {reference.images} images: one on less than '
                    f"all {IMAGES[self.task]} of {self.task}'s needs a fingerprint"
                )
        return self

    @property
    def filename(self) -> str:
        """The name that a fetched file gets."""
        return f'{self.sha256[:8]}-{self.url.rpartition("/")[2]}'

    def reference_on(self, fingerprint: str, complete: bool) -> Reference | None:
        """What the weights score on these images, if that is published."""
        fitting = (r for r in self.reference if r.holds_for(fingerprint, complete))
        return next(fitting, None)


class Public(Released):
    """Public weights of a system of the paper's tables; its name is that of the weights.

    Attributes:
        system, model: the system.
        sha256: as many of the file's digits as its publisher's URL names, which may be none; then
            the hub tells it when the file is fetched, and it stands in the receipt beside the file.
    """

    system: str
    sha256: Annotated[str, Field(pattern='^([0-9a-f]{8})?$')]

    @property
    def filename(self) -> str:
        return f'{self.system}{Path(self.url).suffix}'


class State(StrEnum):
    """Of the file of released weights."""

    PRESENT = 'present'
    ABSENT = 'absent'
    BAD_HASH = 'bad hash'  # another file than the released one
    UNVERIFIED = 'unverified'  # put there by hand, and its publisher names no hash


class _Manifest(BaseModel):
    model_config = ConfigDict(extra='forbid')
    checkpoint: list[Released] = []


@cache
def load_manifest(path: Path = MANIFEST) -> tuple[Released, ...]:
    """The released checkpoints.

    Raises:
        UserError: if the file is malformed or a name occurs twice.
    """
    entries = tuple(read_toml(path, _Manifest).checkpoint)
    names = [entry.name for entry in entries]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise UserError(f'{path} has the checkpoint {doubled[0]} twice: remove one.')
    return entries


@cache
def load_public() -> tuple[Public, ...]:
    """The public weights of the paper's systems, in the order of the systems.

    Raises:
        UserError: if a system names weights that the installed packages do not know.
    """
    return tuple(_public(system) for system in load_systems() if system.weights is not None)


def _public(system: System) -> Public:
    published = publication(system.weights)
    # Only the UPerNet rows have a multi-scale column, and it costs twelve times the time.
    multi_scale = system.framework == 'upernet'
    metrics = {m: v for m, v in published.metrics.items() if m != 'ms_miou' or multi_scale}
    return Public(
        name=system.weights,
        system=system.name,
        task=system.task,
        model=system.name,
        multi_scale=multi_scale,
        url=published.url,
        sha256=published.sha256,
        licence=published.licence,
        reference=[Reference(images=IMAGES[system.task], metrics=metrics, source=published.source)],
        protocol=system.protocol,
    )


def registered() -> tuple[Released, ...]:
    """The manifest's checkpoints, and the public ones."""
    return (*load_manifest(), *load_public())


def released(
    sha256: str, name: str = '', register: Iterable[Released] | None = None
) -> Released | None:
    """The released weights that a file is, if it is some.

    Args:
        name: what they were called when the file was verified, see `released_name`: the only way to
            know weights whose publisher names no hash.
    """
    for entry in registered() if register is None else register:
        if sha256.startswith(entry.sha256) if entry.sha256 else entry.name == name:
            return entry
    return None


def released_name(path: Path, sha256: str) -> str:
    """The name of the released weights that the file at `path` is; '' if it is none of them."""
    entry = released(sha256)
    if entry is None and (kept := download.receipt(path)) and kept.sha256 == sha256:
        entry = next((entry for entry in load_public() if _same_place(entry.url, kept.url)), None)
    return entry.name if entry else ''


def reference(
    sha256: str,
    fingerprint: str,
    complete: bool,
    manifest: Iterable[Released] | None = None,
    name: str = '',
) -> Reference | None:
    """What these weights score on these images according to their publisher, if he tells.

    Args:
        sha256, name: as in `released`.
        manifest: released checkpoints; all that are registered if it is None.
    """
    entry = released(sha256, name, manifest)
    return entry and entry.reference_on(fingerprint, complete)


def find(where: str | Path, name: str) -> Path:
    """The checkpoint file that `where` tells for the system or model `name`.

    Args:
        where: a file; a folder with one file for each system, such as `NAME.safetensors`; or the
            name of released weights, whose file is fetched if need be and verified.

    Raises:
        UserError: if there is none, or it is to be a released one and is another.
    """
    path = Path(where)
    if path.is_file():
        return path
    if path.is_dir():
        found = in_folder(path, name)
        if found is None:
            raise UserError(f'{expected(path, name)} does not exist: put the weights there.')
        return found
    entries = {entry.name: entry for entry in registered()}
    if str(where) in entries:
        return obtain(entries[str(where)])
    near = get_close_matches(str(where), entries, n=3)
    raise UserError(
        f'the checkpoint {where} does not exist: expected a file, a folder with {name}.safetensors '
        f'in it, or a released checkpoint ({", ".join(near or entries) or "there is none"}).'
    )


def in_folder(folder: Path, name: str) -> Path | None:
    """The file of the system or model `name` in `folder`, safetensors first, if there is one."""
    candidates = (folder / f'{name}{suffix}' for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def expected(folder: str | Path, name: str) -> str:
    """The file in `folder` that the system or model `name` is looked for in."""
    return f'{folder}/{name}{SUFFIXES[0]}'


def obtain(entry: Released, manifest: Path = MANIFEST, folder: Path | None = None) -> Path:
    """The verified file of a released checkpoint; a URL is fetched once.

    Args:
        folder: where it is fetched to; torch's cache if it is None.

    Raises:
        UserError: if it is not there, cannot be fetched, or is another file.
    """
    if entry.file is not None:
        path = manifest.parent / entry.file
        if not path.is_file():
            raise UserError(f'the released checkpoint {path} does not exist: restore the checkout.')
    else:
        folder = folder or Path(torch.hub.get_dir()) / 'checkpoints'
        path = folder / entry.filename
        if not path.is_file():
            download.fetch(entry.url, path, entry.sha256)
    return _verified(entry, path)


def stored(entry: Public, folder: Path | None) -> Path:
    """The verified file of public weights that lies in `folder` for their system.

    Raises:
        CheckpointNotFound: if none lies there.
        UserError: if it is another file than the published one.
    """
    path = folder and in_folder(folder, entry.system)
    if path is None:
        raise CheckpointNotFound(f'it takes {folder or "CHECKPOINTS"}/{entry.filename}')
    return _verified(entry, path)


def state(entry: Public, path: Path | None) -> State:
    """Whether the file at `path`, which may be none, is the published one."""
    return State.ABSENT if path is None else _held(entry, path, sha256(path))


def _held(entry: Released, path: Path, digest: str) -> State:
    known = {entry.sha256} - {''}
    if (kept := download.receipt(path)) and _same_place(entry.url, kept.url):
        known.add(kept.sha256)
    if not known:
        return State.UNVERIFIED
    return State.PRESENT if all(map(digest.startswith, known)) else State.BAD_HASH


def _same_place(url: str, other: str) -> bool:
    """Whether they name the same file, maybe on a mirror of the other's server."""
    return urlsplit(url).path == urlsplit(other).path


def _verified(entry: Released, path: Path) -> Path:
    digest = sha256(path)
    match _held(entry, path, digest):
        case State.PRESENT:
            return path
        case State.UNVERIFIED:
            raise UserError(
                f'{path} may be another file than the released {entry.name}, whose publisher names '
                'no hash: move it away and fetch it with `python -m reproduce checkpoints`.'
            )
    expected = f'{entry.sha256[:16]}...' if entry.sha256 else 'that of its receipt'
    raise UserError(
        f'{path} is not the released {entry.name}: its SHA-256 is {digest[:16]}..., expected '
        f'{expected}; remove it and fetch it again.'
    )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def load(model: nn.Module, path: Path, classes: str = '') -> None:
    """Load the checkpoint at `path` into a classifier that timm made.

    Weights under the names of the model's first release are translated where timm knows how.

    Args:
        classes: where the number of classes of `model` comes from, for the error that tells that
            the checkpoint has another.

    Raises:
        UserError: if the file cannot be read safely, or its parameters are not those of `model`;
            then it says which differ, and which registered model they are instead.
    """
    try:
        state = read(path)
    except CheckpointError as error:
        raise UserError(f'{error}.') from error
    wanted = model.state_dict()
    if differ := differences(state, wanted):
        state = _translated(state, model)
        if differences(state, wanted):
            raise UserError(_misfit(state, model, path, differ, classes))
    check_finite(state, path)
    model.load_state_dict(state)


def check_finite(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Check that all parameters of the checkpoint at `path` are numbers.

    Raises:
        UserError: naming the first that is not.
    """
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(
                f'the checkpoint {path} holds a NaN or an infinity in {key}: it is damaged, or its '
                'training diverged; take another.'
            )


def _translated(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """`state` under timm's names if the model's module in timm knows them, or as it is."""
    translate = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    if translate is None:
        return state
    try:
        translated = dict(translate(dict(state), model))
    except Exception:  # it is for that model's own releases, and these may be anything
        return state
    # It resamples position tables too, and weights of another input size are not the model's.
    resampled = _sizes(translated) - _sizes(state)
    return state if resampled else translated


def _sizes(state: Mapping[str, torch.Tensor]) -> Counter[int]:
    return Counter(value.numel() for value in state.values())


def _misfit(
    state: Mapping[str, torch.Tensor],
    model: nn.Module,
    path: Path,
    differ: list[str],
    classes: str,
) -> str:
    name = model.pretrained_cfg['architecture']
    told = f'the checkpoint {path} is not one of {name}: {listed(differ)}'
    stored = _classes(state, name)
    if classes and stored not in (None, model.num_classes):
        told += f'; it classifies {stored} classes, {classes} has {model.num_classes}'
    if resembled := looks_like(state, model):
        told += f'; this looks like {resembled}'
    return f'{told}.'


def looks_like(state: Mapping[str, torch.Tensor], model: nn.Module) -> str | None:
    """The MAFormer, or the relative of a timm model, whose parameters `state` holds instead."""
    name = model.pretrained_cfg['architecture']
    asked = (name, getattr(model, 'aux_head', None) is not None)
    if any('.local_attention.' in key for key in state):
        candidates = list(maformer.VARIANTS)
    else:
        candidates = get_close_matches(name, timm.list_models(), n=24)
    for candidate in candidates:
        classes = _classes(state, candidate)
        arguments = {} if classes is None else {'num_classes': classes}
        token_labeling = candidate in maformer.VARIANTS and 'aux_head.weight' in state
        if token_labeling:
            arguments['token_labeling'] = True
        try:
            with torch.device('meta'):
                other = timm.create_model(candidate, **arguments)
        except Exception:  # foreign constructors that read numbers, or take no such classes
            continue
        if (candidate, token_labeling) != asked and not differences(state, other.state_dict()):
            if candidate == name or token_labeling:
                return f'{candidate} with token_labeling={token_labeling}'
            return candidate
    return None


def _classes(state: Mapping[str, torch.Tensor], name: str) -> int | None:
    """How many classes `state` tells apart if it is of the timm model `name`."""
    config = timm.get_pretrained_cfg(name)
    head = config.classifier if config is not None else None
    weight = state.get(f'{head[0] if isinstance(head, list | tuple) else head}.weight')
    return None if weight is None else weight.shape[0]
