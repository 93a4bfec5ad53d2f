"""Read parameters from a checkpoint file without running code in it; rename and compare them."""

import builtins
import codecs
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from timm.models import clean_state_dict
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

# A function or class that a pickle may call, besides those that torch allows, and its full name.
Allowed = tuple[Callable, str]

# NumPy's arrays and scalars. NumPy 2 renamed the package `numpy.core`; files use both names.
NUMPY: tuple[Allowed, ...] = (
    (np.ndarray, 'numpy.ndarray'),
    (np.dtype, 'numpy.dtype'),
    *(
        (value.__reduce__()[0], f'{package}.multiarray.{name}')
        for value, name in ((np.empty(0), '_reconstruct'), (np.float64(0), 'scalar'))
        for package in ('numpy.core', 'numpy._core')
    ),
    *(
        (type(np.dtype(code)), f'numpy.dtypes.{type(np.dtype(code)).__name__}')
        for code in '?bhilqBHILQefdUSMmO'
    ),
)

# What a file of PaddlePaddle calls besides NumPy's.
_PADDLE: tuple[Allowed, ...] = ((codecs.encode, '_codecs.encode'), (tuple, 'builtins.tuple'))
PADDLE_SUFFIX = '.pdparams'

# A file that uses one of these modules, which run commands or import others, is refused.
_COMMANDS = {
    *('os', 'posix', 'nt', 'sys', 'subprocess', 'shutil', 'socket', 'importlib', 'runpy', 'pty'),
    *('ctypes', 'pickle', 'webbrowser'),
}

# The wrappers of parameters in training checkpoints, averaged ones first.
_WRAPPERS = (
    *('state_dict_ema', 'model_ema', 'ema_state_dict', 'params_ema'),
    *('state_dict', 'model', 'model_state_dict', 'model_state', 'net', 'network', 'params'),
    *('module', 'weights'),
)

_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool),
}


class CheckpointError(ValueError):
    """A checkpoint does not exist, cannot be read safely or does not fit the model."""


class _Unread:
    """Replaces a class that only objects beside the parameters need, such as a config.

    An object becomes an empty dictionary, the only kind of object that torch's safe unpickler fills
    with items and attributes alike.
    """

    def __new__(cls, *arguments: Any) -> OrderedDict:
        return OrderedDict()


def read(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the parameters of a checkpoint by name.

    The file holds either the parameters themselves or a training checkpoint with them. Of one with
    averaged weights these are returned. The prefixes `module.` of distributed training and
    `_orig_mod.` of compiled models are removed. Other objects that a checkpoint holds are left out,
    and none of their code runs. A file of PaddlePaddle, `.pdparams`, is read as torch would have
    written it.

    Raises:
        CheckpointError: if the file is missing, does not hold parameters, or would run commands.
    """
    path = Path(path)
    unpickle = _read_paddle if path.suffix == PADDLE_SUFFIX else _unpickled
    state = _parameters(_reading(path, lambda: unpickle(path)))
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        strange = [f'{name} ({type(v).__name__})' for name, v in state.items()][:3]
        raise CheckpointError(
            f'the checkpoint {path} does not hold parameters by name, the state_dict() of a model; '
            f'it holds {", ".join(strange) or "nothing"}'
        )
    for name, value in state.items():
        if kind := _unusual(value):
            raise CheckpointError(
                f'the checkpoint {path} holds {name} as a {kind} tensor: expected ordinary ones; '
                'convert it, or take the weights that it was made from'
            )
    # torch's AveragedModel stores the number of averaged models beside the parameters.
    return {k: v for k, v in clean_state_dict(state).items() if k != 'n_averaged'}


def _parameters(content: Any) -> dict[str, Any]:
    """Return what a training checkpoint wraps its parameters in, or the content itself."""
    while isinstance(content, Mapping):
        wrapped = (content[name] for name in _WRAPPERS if name in content)
        inner = next((value for value in wrapped if isinstance(value, Mapping) and value), None)
        if inner is None:
            return {str(name): value for name, value in content.items()}
        content = inner
    return {'': content}


def _unusual(value: torch.Tensor) -> str | None:
    """Return what makes this another tensor than parameters are, if something does."""
    if value.is_quantized:
        return 'quantized'
    if value.layout != torch.strided or value.is_nested:
        return 'sparse'
    if value.is_meta:
        return 'meta'
    return None if value.dtype in _DTYPES else str(value.dtype).removeprefix('torch.')


def _unpickled(path: Path) -> Any:
    """Return the content of a file that is not in safetensors, without what only objects hold.

    Torch's safe unpickler decides what may be called. Classes and functions that it does not know
    are replaced by a class that does nothing; files from before torch 1.6 must have none.
    """
    with safe_globals([*NUMPY]):
        is_legacy = not zipfile.is_zipfile(path)
        unknown = [] if is_legacy else get_unsafe_globals_in_checkpoint(path)
    for name in unknown:
        module, _, attribute = name.rpartition('.')
        # mmengine's logs name their statistics by getattr, which is not called either.
        is_class = attribute == 'getattr' or isinstance(getattr(builtins, attribute, 0), type)
        if module.partition('.')[0] in _COMMANDS or (module == 'builtins' and not is_class):
            raise CheckpointError(
                f'the checkpoint {path} is refused, because reading it would run code ({name}): '
                'get it as safetensors, or convert it where you trust it'
            )
    replaced = [(type(name, (_Unread,), {}), name) for name in unknown]
    # From an open file: by its name torch would take a pickle for safetensors.
    with safe_globals([*NUMPY, *replaced]), path.open('rb') as file:
        return torch.load(file, map_location='cpu', weights_only=True)


def read_whole(
    path: str | Path, allowed: Iterable[Allowed], map_location: Any = 'cpu'
) -> dict[str, Any]:
    """Return the whole content of a checkpoint: parameters, and the state of the training.

    Args:
        allowed: functions and classes that the file may use besides those of torch and NumPy.
        map_location: the device for the tensors, in one of the forms of `torch.load`.

    Raises:
        CheckpointError: if the file is missing, is not a checkpoint, or would run code.
    """
    path = Path(path)

    def load() -> Any:
        with safe_globals([*NUMPY, *allowed]):
            return torch.load(path, map_location=map_location, weights_only=True)

    content = _reading(path, load)
    if not isinstance(content, dict):
        raise CheckpointError(
            f'the checkpoint {path} does not hold parameters by name; it holds a '
            f'{type(content).__name__}'
        )
    return content


def _reading(path: Path, unpickle: Callable[[], Any]) -> Any:
    """Return the content of a file: of one in safetensors, or what `unpickle` returns."""
    if not path.is_file():
        raise CheckpointError(f'the checkpoint {path} does not exist')
    if path.stat().st_size == 0:
        raise CheckpointError(f'the checkpoint {path} is empty: fetch it again')
    try:
        if _is_safetensors(path):
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings(action='ignore'):  # torch warns of pickles that it refuses
            return unpickle()
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:  # torch's advice would be to load it unsafely
        raise CheckpointError(
            f'the checkpoint {path} is refused: it is damaged, was not written by torch.save, or '
            'reading it would run code; get it as safetensors, or convert it where you trust it'
        ) from error
    except Exception as error:  # torch, pickle and safetensors raise many kinds for a bad file
        raise CheckpointError(
            f'the checkpoint {path} is truncated, damaged or not a file of tensors '
            f'({type(error).__name__}): fetch it again'
        ) from error


def _is_safetensors(path: Path) -> bool:
    """Return whether the content is in safetensors, or the name says so and it is not a pickle."""
    with path.open('rb') as file:
        head = file.read(9)
    is_pickle = head.startswith((b'PK', b'\x80\x02'))
    return head[8:] == b'{' or (path.suffix == '.safetensors' and not is_pickle)


class _PaddleUnpickler(pickle.Unpickler):
    """Reads arrays and their containers; anything else is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        for value, allowed in (*NUMPY, *_PADDLE):
            if f'{module}.{name}' == allowed:
                return value
        raise pickle.UnpicklingError(f'{module}.{name} is not allowed')


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
    """Return a phrase for each parameter whose name, shape or kind of number differs.

    Args:
        state: the parameters in a file.
        wanted: the parameters of the model.
    """
    return [
        f'{name} is {_shape(state, name)} in the file and {_shape(wanted, name)} in the model'
        for name in sorted(wanted.keys() | state.keys())
        if _shape(state, name) != _shape(wanted, name)
    ] + [
        f'{name} is {state[name].dtype} in the file and {wanted[name].dtype} in the model'
        for name in sorted(wanted.keys() & state.keys())
        if state[name].is_floating_point() != wanted[name].is_floating_point()
    ]


def listed(differing: list[str], most: int = 3) -> str:
    """Return the first `most` of the phrases of `differences`, and how many more there are."""
    more = f'; and {len(differing) - most} more' if len(differing) > most else ''
    return '; '.join(differing[:most]) + more


def failure(error: Exception) -> str:
    """Return the first line of an error of `torch.load`, but not its advice to load unsafely."""
    if isinstance(error, pickle.UnpicklingError):
        return 'it is damaged, or holds more than tensors'
    return str(error).partition('\n')[0] or type(error).__name__


def _shape(state: Mapping[str, Any], name: str) -> tuple[int, ...] | str:
    value = state.get(name)
    return 'absent' if value is None else tuple(value.shape)
