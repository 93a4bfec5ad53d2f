"""Read parameters from a checkpoint file without running code in it; rename and compare them."""

import codecs
import pickle
import re
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn as nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

_TYPE_CODES = '?bhilqBHILQefdUSMmO'
# NumPy's arrays and scalars, which a pickle may hold besides what torch allows, each with its full
# name. NumPy 2 renamed the package `numpy.core`; files use both names.
NUMPY = (
    (np.ndarray, 'numpy.ndarray'),
    (np.dtype, 'numpy.dtype'),
    *(
        (value.__reduce__()[0], f'{package}.multiarray.{name}')
        for value, name in ((np.empty(0), '_reconstruct'), (np.float64(0), 'scalar'))
        for package in ('numpy.core', 'numpy._core')
    ),
    *((type(np.dtype(c)), f'numpy.dtypes.{type(np.dtype(c)).__name__}') for c in _TYPE_CODES),
)

# What parameters are wrapped in, as entries or as prefixes of names, averaged ones first.
_WRAPPERS = (
    *('state_dict_ema', 'model_ema', 'ema_state_dict', 'params_ema', 'ema', 'ema_model'),
    *('state_dict', 'model', 'model_state_dict', 'model_state', 'net', 'network', 'params'),
    *('module', 'weights', '_orig_mod'),
)

_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool),
}


class CheckpointError(ValueError):
    """A checkpoint does not exist, cannot be read safely or does not fit the model."""


class _Unread:
    """Replaces a class or function that only other objects than parameters need, such as a config.

    An object becomes an empty dictionary, the only kind of object that torch's safe unpickler fills
    with items and attributes alike.
    """

    def __new__(cls, *arguments: Any) -> Any:
        return OrderedDict()


def read(path: str | Path, model: nn.Module | None = None) -> tuple[dict[str, torch.Tensor], str]:
    """Return the parameters of a checkpoint by name, and a phrase for where they are in it.

    The file holds either the parameters themselves or a training checkpoint with them. Of one with
    averaged weights these are returned. Prefixes of wrappers are removed in any order, `module.`
    and `_orig_mod.` always, and others, such as `model.`, where modules of `model` follow; names
    without the prefix are left out then. Other objects that a checkpoint holds are left out, too,
    and none of their code runs. A file of PaddlePaddle, `.pdparams`, is read as torch would have
    written it.

    Raises:
        CheckpointError: if the file is missing, does not hold parameters, or would run commands.
    """
    path = Path(path)
    if path.name.endswith('.index.json'):  # a record has the hash of one file
        raise CheckpointError(
            f'the checkpoint {path} lists weights in several files: join them into one'
        )
    state = read_file(path, _read_paddle if path.suffix == '.pdparams' else _unpickled)
    own, taken = {name.partition('.')[0] for name in model.state_dict()} if model else set(), []
    while found := next(_wrapped(state, own), None):
        place, state = found
        taken.append(place)
    others = [
        f'{name} ({value.dtype if torch.is_tensor(value) else type(value).__name__})'
        for name, value in state.items()
        if not (isinstance(name, str) and _is_parameter(value))
    ]
    if others or not state:
        raise CheckpointError(
            f'the checkpoint {path} does not hold ordinary parameters by name, the state_dict() of '
            f'a model; it holds {", ".join(others[:3]) or "nothing"}'
        )
    return state, f' ({", ".join(taken)})' if taken else ''


def _is_parameter(value: Any) -> bool:
    """Return whether the value is a tensor of ordinary numbers, which a copy does not change."""
    return (
        torch.is_tensor(value)
        and value.dtype in _DTYPES
        and value.layout == torch.strided
        and not (value.is_nested or value.is_meta)
    )


def _wrapped(state: dict[str, Any], own: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what wrappers hold, each with its name; `own` are the modules of the model."""
    for name in _WRAPPERS:
        if name == 'ema_state_dict' and 'message_hub' in state:
            continue  # mmengine exchanges it with state_dict
        if isinstance(entry := state.get(name), dict) and entry:
            yield f'entry {name}', entry
        names = [key for key in state if isinstance(key, str) and key.startswith(f'{name}.')]
        inner = {key.removeprefix(f'{name}.'): state[key] for key in names}
        known = {*own, *_WRAPPERS}.intersection(key.partition('.')[0] for key in inner)
        if name not in own and (known or (inner and name in ('module', '_orig_mod'))):
            yield f'prefix {name}.', inner


def read_file(path: Path, unpickle: Callable[[Path], Any]) -> dict[str, Any]:
    """Return the content of a file: of one in safetensors, or what `unpickle` returns.

    Raises:
        CheckpointError: if the file is missing, is not a checkpoint, or would run code.
    """
    if not path.is_file():
        raise CheckpointError(f'the checkpoint {path} does not exist')
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings(action='ignore'):  # torch warns of pickles that it refuses
            content = unpickle(path)
    except Exception as error:  # torch, pickle and safetensors raise many kinds for a bad file
        raise CheckpointError(
            f'the checkpoint {path} cannot be read ({type(error).__name__}): it is truncated or '
            'damaged, or reading it would run code; fetch it again, or get it as safetensors'
        ) from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(f'the checkpoint {path} holds a {kind}, not parameters by name')
    return content


def _unpickled(path: Path) -> Any:
    """Return the content of a file that is not in safetensors, without what only objects hold.

    Torch's safe unpickler decides what may be called. Classes and functions that it does not know
    are replaced by one that does nothing; files from before torch 1.6 must have none.
    """
    with safe_globals([*NUMPY]):
        unknown = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    replaced = [(_Unread, name) for name in unknown]
    # From an open file: by its name torch would take a pickle for safetensors.
    with safe_globals([*NUMPY, *replaced]), path.open('rb') as file:
        return torch.load(file, map_location='cpu', weights_only=True)


class _PaddleUnpickler(pickle.Unpickler):
    """Reads arrays and their containers; anything else is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {full: value for value, full in NUMPY}
        allowed |= {'_codecs.encode': codecs.encode, 'builtins.tuple': tuple}
        if f'{module}.{name}' not in allowed:
            raise pickle.UnpicklingError(f'{module}.{name} is not allowed')
        return allowed[f'{module}.{name}']


def _read_paddle(path: Path) -> dict[str, torch.Tensor]:
    """Return the parameters of a file of PaddlePaddle as torch names and shapes them.

    The weights of linear layers are transposed.
    """
    with path.open('rb') as file:
        content = _PaddleUnpickler(file).load()
    content.pop('StructuredToParameterName@@', None)  # PaddlePaddle's internal names of the same
    state = {}
    for name, value in content.items():
        array = value[1] if isinstance(value, tuple) else value  # of a tensor, its name and array
        tensor = torch.from_numpy(array.copy())
        if tensor.dim() == 2 and name.endswith('.weight'):
            tensor = tensor.T.contiguous()
        module, _, kind = name.rpartition('.')
        kind = {'_mean': 'running_mean', '_variance': 'running_var'}.get(kind, kind)
        state[f'{module}.{kind}'] = tensor
    return state


def renamed(
    state: Mapping[str, torch.Tensor],
    model: nn.Module | None = None,
    *,
    names: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]],
    without: str = r'(?!)',
) -> dict[str, torch.Tensor]:
    """Return the parameters under other names; those that already have them stay.

    The regular expressions of `names` are replaced in every name one after the other. Original
    names in which `without` is found are left out. timm gives the unused `model`.
    """
    result = {}
    for name, value in state.items():
        if not re.search(without, name):
            for pattern, replacement in names:
                name = re.sub(pattern, replacement, name)
            result[name] = value
    return result


def translated(state: Mapping[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters under the names of a network, if its module can rename a release's."""
    module = sys.modules[type(network).__module__]
    translate = getattr(module, 'checkpoint_filter_fn', lambda state, network: state)
    return dict(translate(dict(state), network))


def mismatch(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """Return which parameters of a file and of the model differ in name, shape or kind of number.

    The result is '' if none does.
    """

    def described(parameters: Mapping[str, torch.Tensor], name: str) -> str:
        if name not in parameters:
            return 'absent'
        value = parameters[name]
        return f'{tuple(value.shape)}{"" if value.is_floating_point() else " of integers"}'

    differing = [
        f'{name} is {there} in the file and {here} in the model'
        for name in sorted(wanted.keys() | state.keys())
        if (there := described(state, name)) != (here := described(wanted, name))
    ]
    more = f'; and {len(differing) - 3} more' if len(differing) > 3 else ''
    return '; '.join(differing[:3]) + more


def failure(error: Exception) -> str:
    """Return the first line of an error of `torch.load`, but not its advice to load unsafely."""
    if isinstance(error, pickle.UnpicklingError):
        return 'it is damaged, or holds more than tensors'
    return str(error).partition('\n')[0] or type(error).__name__
