"""Load weights into a model and check that every parameter fits."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open

from model.checkpoint import CheckpointError, mismatch, read, translated
from reproduce.base.errors import UserError
from reproduce.base.files import naming_file
from reproduce.weights.download import HUB_FILES

State = dict[str, torch.Tensor]

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
    with naming_file(path):
        return _Trained(**metadata).model_dump(exclude_none=True)


def hub_config(path: Path) -> dict[str, Any]:
    """Return what timm's config.json beside weights from the Hub says of them; {} without one.

    Raises:
        UserError: if it cannot be read.
    """
    file = path.with_name('config.json')
    if path.stem not in {Path(name).stem for name in HUB_FILES} or not file.is_file():
        return {}
    with naming_file(file):
        content = json.loads(file.read_bytes())
        return content.get('pretrained_cfg', content if 'input_size' in content else {})


def load(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Load the checkpoint at `path` into a classifier that timm made.

    Weights under the names of the model's first release are renamed where timm can do it. Returns
    a sentence if the file has averaged ones, which are taken.
    """
    taken = load_renamed(model, path, model.pretrained_cfg['architecture'], _translated)
    return (f'The averaged weights of the file were evaluated{taken}.',) if 'ema' in taken else ()


def load_renamed(
    model: nn.Module,
    path: Path,
    name: str,
    rename: Callable[[nn.Module, State], State],
    unread: tuple[str, ...] = (),
) -> str:
    """Load a checkpoint into a model, and return a phrase for where the weights are in the file.

    `rename` returns parameters of a release under the names of the model. What only training reads
    may be missing: counts of the batches of a batch normalisation, which older checkpoints do not
    have, and all of a module whose prefix is in `unread`.

    Raises:
        UserError: if the file cannot be read safely, its parameters are not those of `model`,
            naming those that differ, or one is not finite.
    """
    try:
        state, taken = read(path, model)
    except CheckpointError as error:
        raise UserError(f'{error}.') from error
    wanted = model.state_dict()
    state = rename(model, state)
    absent = tuple(p for p in unread if not any(key.startswith(p) for key in state))
    for key in wanted.keys() - state.keys():
        if key.endswith('.num_batches_tracked') or key.startswith(absent):
            state[key] = wanted[key]
    if differing := mismatch(state, wanted):
        labeled = 'aux_head.weight' in state
        if labeled != ('aux_head.weight' in wanted):
            differing += f'; build the model with --model-kwargs token_labeling={labeled}'
        raise UserError(f'the checkpoint {path}{taken} is not one of {name}: {differing}.')
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(
                f'the checkpoint {path} holds a NaN or an infinity in {key}: it is damaged, or its '
                'training diverged; take another.'
            )
    model.load_state_dict(state)
    return taken


def _translated(model: nn.Module, state: State) -> State:
    """Return `state` under timm's names if the model's module in timm has a translation.

    A translation that resamples a position table is not used, because weights of another input
    size are not the model's.
    """
    if not state.keys() ^ model.state_dict().keys():
        return state
    try:
        renamed = translated(state, model)
    except Exception:  # it is for that model's own releases, and these may be anything
        return state
    before, after = (Counter(v.numel() for v in each.values()) for each in (state, renamed))
    return state if after - before else renamed
