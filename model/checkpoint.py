"""The parameters in a checkpoint file, read without running any code of it."""

import pickletools
import re
import warnings
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from timm.models import load_state_dict
from torch.serialization import safe_globals

# What a pickle may ask for by name, besides what torch itself lets through.
Allowed = tuple[Callable, str]

# NumPy's own arrays and numbers, under the names of its first and of its second version.
NUMPY: tuple[Allowed, ...] = (
    (np.ndarray, 'numpy.ndarray'),
    (np.dtype, 'numpy.dtype'),
    *(
        (getattr(np._core.multiarray, name), f'{package}.multiarray.{name}')
        for package, name in product(('numpy.core', 'numpy._core'), ('_reconstruct', 'scalar'))
    ),
    *(
        (type(np.dtype(code)), f'numpy.dtypes.{type(np.dtype(code)).__name__}')
        for code in ('?', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')
    ),
)


class CheckpointError(ValueError):
    """A checkpoint that is not there, cannot be read safely or does not fit the model."""


class _Unread:
    """Takes the place of the logs in a training checkpoint of which only parameters are wanted."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _unread(*arguments: Any) -> None:
    pass


_LOGS: tuple[Allowed, ...] = (
    (_Unread, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (_unread, 'builtins.getattr'),
)


def read(path: str | Path) -> dict[str, torch.Tensor]:
    """The parameters of a checkpoint, by name.

    The file may hold the parameters themselves or one of timm's or OpenMMLab's training checkpoints
    around them; averaged weights are preferred where it has both, and `module.` prefixes go.

    Raises:
        CheckpointError: if the file is missing, is no file of parameters, or would run code.
    """
    path = Path(path)
    state = _reading(path, _LOGS, lambda: load_state_dict(str(path), weights_only=True))
    # `n_averaged` is what torch's AveragedModel counts with.
    state = {name: value for name, value in state.items() if name != 'n_averaged'}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        strange = [f'{name} ({type(v).__name__})' for name, v in state.items()][:3]
        raise CheckpointError(
            f'the checkpoint {path} holds no parameters by name; it holds '
            f'{", ".join(strange) or "nothing"}'
        )
    return state


def read_whole(
    path: str | Path, allowed: tuple[Allowed, ...], map_location: Any = 'cpu'
) -> dict[str, Any]:
    """All that a checkpoint holds: parameters, and what a training keeps beside them.

    Args:
        allowed: what the file may ask for by name besides NumPy's arrays and what torch allows.
        map_location: as `torch.load` takes it.

    Raises:
        CheckpointError: if the file is missing, is no checkpoint, or would run code.
    """
    path = Path(path)
    if path.suffix == '.safetensors':
        return _reading(path, (), lambda: safetensors.torch.load_file(path))
    content = _reading(
        path, allowed, lambda: torch.load(path, map_location=map_location, weights_only=True)
    )
    if not isinstance(content, dict):
        raise CheckpointError(
            f'the checkpoint {path} holds no parameters by name; it holds a '
            f'{type(content).__name__}'
        )
    return content


def _reading(path: Path, allowed: tuple[Allowed, ...], read: Callable[[], Any]) -> Any:
    if not path.is_file():
        raise CheckpointError(f'the checkpoint {path} does not exist')
    if path.stat().st_size == 0:
        raise CheckpointError(f'the checkpoint {path} is empty: fetch it again')
    try:
        with (
            warnings.catch_warnings(action='ignore'),  # about pickles that it then refuses
            safe_globals([*NUMPY, *allowed]),
        ):
            return read()
    except Exception as error:  # whatever torch, pickle and safetensors make of a bad file
        raise CheckpointError(_explain(path, error)) from error


def differences(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One phrase for each parameter that `state` and `wanted` do not share in name and shape."""
    return [
        f'{name} is {_shape(state, name)} in the file and {_shape(wanted, name)} in the model'
        for name in sorted(wanted.keys() | state.keys())
        if _shape(state, name) != _shape(wanted, name)
    ]


def listed(differing: list[str], most: int = 3) -> str:
    """The first `most` of the phrases, and how many more there are."""
    more = f'; and {len(differing) - most} more' if len(differing) > most else ''
    return '; '.join(differing[:most]) + more


def _explain(path: Path, error: Exception) -> str:
    causes = f'{error} {error.__cause__ or ""}'
    blocked = re.search(r'GLOBAL ([\w.]+)', causes)
    if code := blocked[1] if blocked else _imported_by(path):
        return (
            f'the checkpoint {path} is refused, for it is no file of tensors alone: reading it '
            f'would run code ({code}); get it as safetensors, or convert it where you trust it'
        )
    return (
        f'the checkpoint {path} is truncated, damaged or no file of tensors '
        f'({type(error).__name__}): fetch it again'
    )


def _imported_by(path: Path) -> str | None:
    """The first name outside torch that a bare pickle asks for, read without running it."""
    strings: list[str] = []
    if path.suffix == '.safetensors':
        return None
    try:
        with path.open('rb') as file:
            for opcode, argument, _ in pickletools.genops(file):
                if isinstance(argument, str):
                    strings.append(argument.replace(' ', '.'))
                if opcode.name in ('GLOBAL', 'STACK_GLOBAL'):
                    name = '.'.join(strings[-1 if opcode.name == 'GLOBAL' else -2 :])
                    if not name.startswith(('torch.', 'collections.', 'numpy.')):
                        return name
    except (ValueError, OSError):  # it is no pickle after all
        pass
    return None


def _shape(state: Mapping[str, Any], name: str) -> tuple[int, ...] | str:
    value = state.get(name)
    return 'absent' if value is None else tuple(value.shape)
