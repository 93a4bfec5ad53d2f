"""Checkpoints: found, verified, loaded, and explained where they do not fit.

`checkpoints.toml` is the manifest of released weights: where each file is, its SHA-256, its
licence, and what it scores according to whoever released it.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
import torch.nn as nn
from pydantic import BaseModel, ConfigDict, Field, model_validator

from model import maformer
from model.checkpoint import CheckpointError, differences, listed, read
from reproduce.errors import UserError
from reproduce.paper import read_toml

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
    """One entry of the manifest.

    Attributes:
        name: unique.
        task: 'imagenet', 'coco' or 'ade20k'.
        model, arguments: the timm model and its constructor arguments, or an OpenMMLab config and
            the values that replace some of it.
        preprocessing: what replaces a timm model's own: img_size, crop_pct, ...
        multi_scale: whether a segmenter is evaluated at several scales, too.
        file, url: the file, relative to the manifest, or where it is fetched from.
        sha256: of the file, 64 hex digits.
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


def reference(
    sha256: str, fingerprint: str, complete: bool, manifest: Iterable[Released] | None = None
) -> Reference | None:
    """What the manifest says that the weights with this hash score on these images, if it does."""
    for entry in load_manifest() if manifest is None else manifest:
        if entry.sha256 == sha256:
            for candidate in entry.reference:
                if candidate.holds_for(fingerprint, complete):
                    return candidate
    return None


def find(where: str | Path, name: str) -> Path:
    """The checkpoint file that `where` tells for the system or model `name`.

    Args:
        where: a file; a folder with one file for each system, such as `NAME.safetensors`; or the
            name of a manifest entry, whose file is fetched if need be and verified.

    Raises:
        UserError: if there is none, or a released file is not the one of the manifest.
    """
    path = Path(where)
    if path.is_file():
        return path
    if path.is_dir():
        found = in_folder(path, name)
        if found is None:
            raise UserError(f'{expected(path, name)} does not exist: put the weights there.')
        return found
    entries = {entry.name: entry for entry in load_manifest()}
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


def obtain(entry: Released, manifest: Path = MANIFEST) -> Path:
    """The verified file of a released checkpoint; a URL is fetched once, into torch's cache.

    Raises:
        UserError: if it is not there, cannot be fetched, or has another SHA-256.
    """
    if entry.file is not None:
        path = manifest.parent / entry.file
        if not path.is_file():
            raise UserError(f'the released checkpoint {path} does not exist: restore the checkout.')
    else:
        folder = Path(torch.hub.get_dir()) / 'checkpoints'
        path = folder / f'{entry.sha256[:8]}-{entry.url.rsplit("/", 1)[-1]}'
        if not path.is_file():
            _fetch(entry, path)
    if (actual := sha256(path)) != entry.sha256:
        raise UserError(
            f'{path} is not the released {entry.name}: its SHA-256 is {actual[:16]}..., expected '
            f'{entry.sha256[:16]}...; remove it and fetch it again.'
        )
    return path


def _fetch(entry: Released, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(entry.url, str(path), hash_prefix=entry.sha256)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f'{entry.name} cannot be fetched from {entry.url} ({error}): fetch it another way and '
            'name the file.'
        ) from error


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
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(
                f'the checkpoint {path} holds a NaN or an infinity in {key}: it is damaged, or its '
                'training diverged; take another.'
            )
    model.load_state_dict(state)


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
