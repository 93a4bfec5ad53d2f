"""Load the weights of a classifier, and explain which parameters differ where they do not fit."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
from safetensors import SafetensorError, safe_open

from model import maformer
from model.checkpoint import CheckpointError, differences, listed, read
from reproduce.base.errors import UserError

# What other libraries put before the name of every parameter of a classifier.
_PREFIXES = ('model.', 'backbone.', 'net.', 'network.', 'encoder.')

# Building the models that a file may be of instead ends after so many seconds of computing.
_SECONDS = 6

# The sizes of images, in pixels a side, that a file of weights can say it was trained at.
_TRAINED_SIZES = range(32, 2049)


def trained_preprocessing(path: Path) -> dict[str, Any]:
    """Return the `img_size` and the `crop_pct` that weights of `train imagenet` were trained with.

    They stand in the metadata of the file; of other files nothing is returned.

    Raises:
        UserError: if they are no sizes.
    """
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):  # another format, or damaged, which `load` explains
        return {}
    if not {'recipe', 'img_size'} <= metadata.keys():
        return {}
    try:
        stated: dict[str, Any] = {'img_size': int(metadata['img_size'])}
        if 'crop_pct' in metadata:
            stated['crop_pct'] = float(metadata['crop_pct'])
    except ValueError:
        stated = {'img_size': 0}
    if stated['img_size'] not in _TRAINED_SIZES or not 0 < stated.get('crop_pct', 1) <= 1:
        listed = {name: metadata.get(name) for name in ('img_size', 'crop_pct')}
        raise UserError(
            f'the checkpoint {path} says that it was trained with {listed}: expected a size of '
            f'{_TRAINED_SIZES[0]} to {_TRAINED_SIZES[-1]} pixels and a crop ratio in (0, 1]; fetch '
            'it again, or train again.'
        )
    return stated


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
    tried = [form for bare in _without_prefix(state) for form in (bare, _translated(bare, model))]
    for form in tried:
        fill(form, wanted)
    found = [differences(form, wanted) for form in tried]
    best = min(range(len(tried)), key=lambda i: len(found[i]))
    state = tried[best]
    if found[best]:
        raise UserError(_misfit(state, model, path, found[best], classes))
    check_finite(state, path)
    model.load_state_dict(state)


def fill(
    state: dict[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    unread: tuple[str, ...] = (),
) -> None:
    """Add to `state` the parameters of `wanted` that only training reads, where it lacks them.

    Older checkpoints do not count the batches of a batch normalisation.

    Args:
        unread: prefixes of modules that only training reads, which may be missing as a whole.
    """
    lacking = tuple(p for p in unread if not any(name.startswith(p) for name in state))
    for name in wanted.keys() - state.keys():
        if name.endswith('.num_batches_tracked') or (lacking and name.startswith(lacking)):
            state[name] = wanted[name]


def _without_prefix(state: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Return the parameters as they are and, where all have it, without a common prefix."""
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return [state, {name.removeprefix(prefix): value for name, value in state.items()}]
    return [state]


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
    return _as_stored(translated, state)


def _as_stored(
    translated: dict[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return translated parameters without what was resampled: tables have their stored size.

    Weights of another input size are not the model's.
    """
    resampled = _sizes(translated) - _sizes(state)
    if not resampled:
        return translated
    lost = _sizes(state) - _sizes(translated)
    stored = [value for value in state.values() if lost[value.numel()]]
    changed = [name for name, value in translated.items() if resampled[value.numel()]]
    if len(stored) == len(changed) == 1:  # one position table, whatever it is called
        return {**translated, changed[0]: stored[0]}
    if all(name in state for name in changed):
        return {**translated, **{name: state[name] for name in changed}}
    return dict(state)


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
    message = f'the checkpoint {path} is not one of {name}: {listed(differ)}'
    stored = _classes(state, name)
    if classes and stored not in (None, model.num_classes):
        message += f'; it classifies {stored} classes, {classes} has {model.num_classes}'
    if resembled := looks_like(state, model):
        message += f'; this looks like {resembled}'
    return f'{message}.'


def _labeled(name: str, token_labeling: bool) -> str:
    option = f'token_labeling={token_labeling}'
    return f'{name} with {option}, which `evaluate` takes as --model-kwargs {option}'


def looks_like(state: Mapping[str, torch.Tensor], model: nn.Module) -> str | None:
    """Return the name of another model whose parameters `state` holds, if it resembles one."""
    name = model.pretrained_cfg['architecture']
    asked = (name, getattr(model, 'aux_head', None) is not None)
    # The auxiliary head of token labeling alone takes no other model to explain it.
    heads, wanted = ('aux_head.weight', 'aux_head.bias'), model.state_dict()
    if ('aux_head.weight' in state) != ('aux_head.weight' in wanted) and not differences(
        *({k: v for k, v in side.items() if k not in heads} for side in (state, wanted))
    ):
        return _labeled(name, 'aux_head.weight' in state)
    end = time.process_time() + _SECONDS
    if any('.local_attention.' in key for key in state):
        candidates = list(maformer.VARIANTS)
    else:
        candidates = get_close_matches(name, timm.list_models(), n=24)
    for candidate in candidates:
        if time.process_time() > end:
            break
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
                return _labeled(candidate, token_labeling)
            return candidate
    return None


def _classes(state: Mapping[str, torch.Tensor], name: str) -> int | None:
    """Return how many classes `state` tells apart if it is of the timm model `name`."""
    config = timm.get_pretrained_cfg(name)
    head = config.classifier if config is not None else None
    weight = state.get(f'{head[0] if isinstance(head, list | tuple) else head}.weight')
    return None if weight is None else weight.shape[0]
