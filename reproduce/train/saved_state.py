"""What a checkpoint has to hold before a training goes on with it."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn as nn
from pydantic import BaseModel, Field, ValidationError

from reproduce.base.files import first_error
from reproduce.evaluate.records import Percent

_Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Epoch(BaseModel):
    """A row of the history; the loss is NaN where no step had a finite one."""

    epoch: Annotated[int, Field(ge=1)]
    lr: _Time
    loss: float
    top1: Percent
    ema_top1: Percent
    skipped: Annotated[int, Field(ge=0)]
    seconds: _Time


class _Progress(BaseModel):
    epoch: Annotated[int, Field(ge=0)]
    step: Annotated[int, Field(ge=0)]
    seconds: _Time
    history: list[_Epoch]
    recipe: str
    data: str
    labels: str


def fault(
    state: Any,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    counters: Mapping[str, torch.Tensor],
) -> str:
    """Return what keeps a classifier's training from going on with `state`; '' if nothing does.

    Args:
        state: the content of the file.
        modules: those whose weights it holds, by name.
        optimizer: of the first of them.
        counters: tensors that it holds, by name.
    """
    if not isinstance(state, dict):
        return f'it holds a {type(state).__name__}, and no training'
    for name in (*modules, *counters, 'optimizer', 'scheduler', 'scaler'):
        if name not in state:
            return f"it has no '{name}'"
    try:
        progress = _Progress.model_validate(state)
    except ValidationError as error:
        place, reason = first_error(error)
        return f"its '{place}' is not as expected: {reason}"
    epochs = [row.epoch for row in progress.history]
    if epochs != list(range(1, progress.epoch + 1)):
        return f"its 'history' has the epochs {epochs}, and {progress.epoch} are done"
    for name, module in modules.items():
        if reason := differs(state[name], module.state_dict()):
            return f"its '{name}' {reason}"
    for name, counter in counters.items():
        if reason := differs({name: state[name]}, {name: counter}):
            return f'it {reason}'
    return fault_of_optimizer(state['optimizer'], optimizer)


def differs(saved: Any, own: Mapping[str, torch.Tensor]) -> str:
    """Return how saved tensors are not ones for a module with its `own`; '' if they are.

    Names, shapes, and that all values are finite.
    """
    if not isinstance(saved, dict):
        return f'is a {type(saved).__name__}'
    if missing := own.keys() - saved.keys():
        return f'lacks {min(missing)}'
    if surplus := saved.keys() - own.keys():
        return f'has {min(map(str, surplus))}, which the model has not'
    for name, tensor in own.items():
        if not isinstance(saved[name], torch.Tensor) or saved[name].shape != tensor.shape:
            shape = list(getattr(saved[name], 'shape', ()))
            return f'has {name} of the shape {shape}: expected {list(tensor.shape)}'
        if not torch.isfinite(saved[name]).all():
            return f'has NaN or an infinity in {name}'
    return ''


def fault_of_optimizer(saved: Any, optimizer: torch.optim.Optimizer) -> str:
    """Return what keeps `optimizer` from going on with its `saved` state; '' if nothing does."""
    own = optimizer.state_dict()
    try:
        sizes = [len(group['params']) for group in saved['param_groups']]
        if sizes != [len(group['params']) for group in own['param_groups']]:
            return "its 'optimizer' is that of another model"
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        for number, entry in saved['state'].items():
            for name, tensor in entry.items():
                if tensor.ndim and tensor.shape != parameters[number].shape:
                    return f"its 'optimizer' has {name} of another shape for parameter {number}"
                if not torch.isfinite(tensor).all():
                    return f"its 'optimizer' has NaN or an infinity in {name}"
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        return f"its 'optimizer' is not as expected: {type(error).__name__} {error}"
    return ''
