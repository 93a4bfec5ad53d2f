"""Register the named variants of a network with timm."""

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache, partial
from typing import Any

import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    is_model,
    model_entrypoint,
    register_model,
)

from .auxiliary_head import fit_auxiliary_head

# The variants of every registered network, by the class of the network.
NETWORKS: dict[type[nn.Module], Mapping[str, Mapping[str, Any]]] = {}


def describe(
    variants: Iterable[str], different: Mapping[str, Mapping[str, Any]] | None = None, **kwargs: Any
) -> dict[str, Any]:
    """Return timm's descriptions of classifiers of ImageNet-1K at 224 x 224, by variant.

    timm looks for them under the name `default_cfgs` in the module of the network.

    Args:
        different: fields in which a variant differs from the others, by variant.
        kwargs: fields of all variants, such as `first_conv` and `classifier`.
    """
    common = {
        'url': '',
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (7, 7),
        'crop_pct': 0.9,
        'interpolation': 'bicubic',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        **kwargs,
    }
    different = different or {}
    return generate_default_cfgs({name: common | different.get(name, {}) for name in variants})


def register(
    network: type[nn.Module],
    variants: Mapping[str, Mapping[str, Any]],
    out_indices: int | Sequence[int] = (0, 1, 2, 3),
    filter_fn: Callable[..., Any] | None = None,
) -> None:
    """Register the variants of a network with timm.

    The module of `network` has to define `default_cfgs`; see `describe`. Where another copy of this
    package has registered the same networks, as `maformer` and `model` are two, those of this one
    replace them, and one warning says so.

    Args:
        variants: the constructor arguments of each variant, by name.
        out_indices: the maps that `features_only=True` returns by default.
        filter_fn: renames the parameters of the network's first release. Whatever there is of an
            auxiliary head is then brought to what the model has, see `fit_auxiliary_head`.
    """
    NETWORKS[network] = variants
    for variant, arguments in variants.items():
        create = partial(_create, network, variant, arguments, out_indices, filter_fn)
        create.__name__, create.__module__ = variant, network.__module__
        create.__doc__ = f'{variant}: {network.__name__} with {arguments}.'
        with warnings.catch_warnings():
            if other := _other_copy(variant, network.__module__):
                warnings.filterwarnings('ignore', f'Overwriting {variant} ')  # one for all, below
            register_model(create)
        if other:
            _warn_of_copy(other)


def _other_copy(variant: str, module: str) -> str | None:
    """Return the name of the package that registered `variant`, where it is a copy of this one.

    Args:
        module: the full name of the module that registers the variant now.
    """
    if not is_model(variant):
        return None
    package, _, module_there = model_entrypoint(variant).__module__.rpartition('.')
    name = module.rpartition('.')[2]
    return package if module_there == name and package not in ('', __package__) else None


@cache
def _warn_of_copy(package: str) -> None:
    here, there = (sys.modules[name].__path__[0] for name in (__package__, package))
    warnings.warn(
        f'the networks of the package {package} in {there} are registered with timm once more, by '
        f'{__package__} in {here}, which replaces them: import only one of the two packages',
        stacklevel=2,
    )


def _create(
    network: type[nn.Module],
    variant: str,
    arguments: Mapping[str, Any],
    out_indices: int | Sequence[int],
    filter_fn: Callable[..., Any] | None,
    /,  # the arguments below come from timm's caller, who may use the same names
    pretrained: bool = False,
    **kwargs: Any,
) -> nn.Module:
    out_indices = kwargs.pop('out_indices', out_indices)
    return build_model_with_cfg(
        partial(_build, network),
        variant,
        pretrained,
        pretrained_filter_fn=partial(_pretrained, filter_fn),
        feature_cfg={'out_indices': out_indices, 'feature_cls': 'getter'},
        **{**arguments, **kwargs},
    )


def _pretrained(
    filter_fn: Callable[..., Any] | None,
    state_dict: Mapping[str, torch.Tensor],
    model: nn.Module,
) -> dict[str, torch.Tensor]:
    """Return pretrained parameters as the model that timm has built takes them."""
    state = filter_fn(state_dict, model) if filter_fn is not None else dict(state_dict)
    return fit_auxiliary_head(state, model)


def _build(
    network: type[nn.Module],
    /,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Return a network whose parameters are on a device and of a type, if these are given."""
    with torch.device(device) if device is not None else nullcontext():
        return network(**kwargs).to(dtype=dtype)
