"""Read parameters from a checkpoint file without running code in it; rename and compare them."""

import codecs
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from timm.models import clean_state_dict, load_state_dict
from torch.serialization import safe_globals

# A function or class that a pickle may call, besides those that torch allows, and its full name.
Allowed = tuple[Callable, str]

# NumPy's arrays and scalars. NumPy 2 renamed the package `numpy.core`; files use both names.
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
    """A checkpoint does not exist, cannot be read safely or does not fit the model."""


class _Unread:
    """Replaces the logs in a training checkpoint from which only the parameters are read."""

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

# What a file of PaddlePaddle calls besides NumPy's.
_PADDLE: tuple[Allowed, ...] = ((codecs.encode, '_codecs.encode'), (tuple, 'builtins.tuple'))
PADDLE_SUFFIX = '.pdparams'


def read(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the parameters of a checkpoint by name.

    The file holds either the parameters themselves or a training checkpoint of timm, OpenMMLab or
    ViL.
    Of a training checkpoint with averaged weights these are returned. The prefix `module.` of
    distributed training is removed. A file of PaddlePaddle, `.pdparams`, is read as torch would
    have written it.

    Raises:
        CheckpointError: if the file is missing, does not hold parameters, or would run code.
    """
    path = Path(path)
    if path.suffix == PADDLE_SUFFIX:
        return _reading(path, (), lambda: _read_paddle(path))
    state = _reading(path, _LOGS, lambda: load_state_dict(str(path), weights_only=True))
    if isinstance(state.get('net'), dict):  # as ViL's training keeps them
        state = clean_state_dict(state['net'])
    # torch's AveragedModel stores the number of averaged models beside the parameters.
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
    """Return the whole content of a checkpoint: parameters, and the state of the training.

    Args:
        allowed: functions and classes that the file may use besides those of torch and NumPy.
        map_location: the device for the tensors, in one of the forms of `torch.load`.

    Raises:
        CheckpointError: if the file is missing, is not a checkpoint, or would run code.
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
            warnings.catch_warnings(action='ignore'),  # torch warns of pickles that it refuses
            safe_globals([*NUMPY, *allowed]),
        ):
            return read()
    except Exception as error:  # torch, pickle and safetensors raise many kinds for a bad file
        raise CheckpointError(_explain(path, error)) from error


class _PaddleUnpickler(pickle.Unpickler):
    """Reads arrays and what holds them; anything else is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        full = f'{module}.{name}'
        for value, allowed in (*NUMPY, *_PADDLE):
            if full == allowed:
                return value
        raise pickle.UnpicklingError(f'GLOBAL {full}')


def _read_paddle(path: Path) -> dict[str, torch.Tensor]:
    """Return the parameters of a file of PaddlePaddle as torch names and shapes them.

    The weights of linear layers are transposed, and the batches that a batch norm has seen, which
    PaddlePaddle does not count, are 0.
    """
    with path.open('rb') as file:
        content = _PaddleUnpickler(file).load()
    state = {}
    for name, value in content.items():
        if name == 'StructuredToParameterName@@':  # PaddlePaddle's internal names of the same
            continue
        array = value[1] if isinstance(value, tuple) else value  # of a tensor, its name and array
        if not isinstance(array, np.ndarray):
            raise TypeError(f'{name} is a {type(array).__name__}')
        tensor = torch.from_numpy(array.copy())
        if tensor.dim() == 2 and name.endswith('.weight'):
            tensor = tensor.T.contiguous()
        if name.endswith('._variance'):
            seen = f'{name.removesuffix("._variance")}.num_batches_tracked'
            state[seen] = torch.zeros((), dtype=torch.long)
        state[name.replace('._mean', '.running_mean').replace('._variance', '.running_var')] = (
            tensor
        )
    return state


def renamed(
    state: Mapping[str, torch.Tensor],
    names: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]],
    without: str = r'(?!)',
) -> dict[str, torch.Tensor]:
    """Return the parameters under other names.

    Args:
        names: regular expressions and their replacements, as `re.sub` takes them, which are applied
            to every name one after the other.
        without: a regular expression of the original names that are left out; none by default.
    """
    result = {}
    for name, value in state.items():
        if not re.search(without, name):
            for pattern, replacement in names:
                name = re.sub(pattern, replacement, name)
            result[name] = value
    return result


def differences(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each parameter whose name or shape differs between the two.

    Args:
        state: the parameters in a file.
        wanted: the parameters of the model.
    """
    return [
        f'{name} is {_shape(state, name)} in the file and {_shape(wanted, name)} in the model'
        for name in sorted(wanted.keys() | state.keys())
        if _shape(state, name) != _shape(wanted, name)
    ]


def listed(differing: list[str], most: int = 3) -> str:
    """Return the first `most` of the phrases of `differences`, and how many more there are."""
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
    """Return the first name outside torch and NumPy that a bare pickle uses, without running it."""
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
    except (ValueError, OSError):  # the file is not a pickle
        pass
    return None


def _shape(state: Mapping[str, Any], name: str) -> tuple[int, ...] | str:
    value = state.get(name)
    return 'absent' if value is None else tuple(value.shape)
