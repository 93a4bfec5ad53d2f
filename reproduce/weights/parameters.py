"""Load the weights of a classifier and check that every parameter fits."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open

from model.checkpoint import CheckpointError, mismatch, read, translated
from reproduce.base.errors import UserError
from reproduce.base.files import first_error

# By timm's crop mode: beyond 1 all but border pad the image with black.
MOST_CROP_PCT = {'center': 1, 'squash': 1, 'border': 1.5}


class _Trained(BaseModel):
    img_size: int = Field(ge=32, le=2048)  # pixels a side
    crop_pct: float | None = Field(None, gt=0, le=MOST_CROP_PCT['center'])


def trained_preprocessing(path: Path) -> dict[str, Any]:
    """Return the `img_size` and the `crop_pct` that weights of `train imagenet` were trained with.

    They are in the metadata of the file; for other files the result is empty.

    Raises:
        UserError: if they are no sizes.
    """
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):  # another format, or damaged, which `load` reports
        return {}
    if not {'recipe', 'img_size'} <= metadata.keys():
        return {}
    try:
        return _Trained(**metadata).model_dump(exclude_none=True)
    except ValidationError as error:
        name, reason = first_error(error)
        raise UserError(
            f'the checkpoint {path} says that it was trained with {name}={metadata[name]}: '
            f'{reason}.'
        ) from error


def load(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Load the checkpoint at `path` into a classifier that timm made.

    Weights under the names of the model's first release are renamed where timm can do it. Returns
    a sentence if the file has averaged ones, which are taken.

    Raises:
        UserError: if the file cannot be read safely, or its parameters are not those of `model`,
            naming those that differ.
    """
    try:
        state, taken = read(path, model)
    except CheckpointError as error:
        raise UserError(f'{error}.') from error
    wanted = model.state_dict()
    fill(state, wanted)
    if mismatch(state, wanted):
        state = _translated(state, model)
        fill(state, wanted)
    if differing := mismatch(state, wanted):
        hint, labeled = '', 'aux_head.weight' in state
        if labeled != ('aux_head.weight' in wanted):
            hint = f'; build the model with --model-kwargs token_labeling={labeled}'
        name = model.pretrained_cfg['architecture']
        raise UserError(f'the checkpoint {path}{taken} is not one of {name}: {differing}{hint}.')
    check_finite(state, path)
    model.load_state_dict(state)
    return (f'The averaged weights of the file were evaluated{taken}.',) if 'ema' in taken else ()


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
        if name.endswith('.num_batches_tracked') or name.startswith(lacking):
            state[name] = wanted[name]


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
    """Return `state` under timm's names if the model's module in timm has a translation.

    A translation that resamples a position table is not used, because weights of another input
    size are not the model's.
    """
    try:
        renamed = translated(state, model)
    except Exception:  # it is for that model's own releases, and these may be anything
        return state
    before, after = (Counter(v.numel() for v in each.values()) for each in (state, renamed))
    return state if after - before else renamed
