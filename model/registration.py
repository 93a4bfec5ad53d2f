"""Registering the named variants of a network with timm."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, register_model


def default_cfg(**kwargs: Any) -> dict[str, Any]:
    """timm's description of a classifier of ImageNet-1K at 224 x 224, with `kwargs` on top."""
    return {
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


def register(
    network: type[nn.Module],
    variants: Mapping[str, Mapping[str, Any]],
    out_indices: int | Sequence[int] = (0, 1, 2, 3),
    filter_fn: Callable[..., Any] | None = None,
) -> None:
    """Register each of `variants`, constructor arguments of `network` by name, with timm.

    timm looks for `default_cfgs` of these names in the module of `network`.

    Args:
        out_indices: what `features_only=True` returns by default.
        filter_fn: translates the parameter names of the network's first release.
    """
    for variant, arguments in variants.items():
        create = partial(_create, network, variant, arguments, out_indices, filter_fn)
        create.__name__, create.__module__ = variant, network.__module__
        create.__doc__ = f'{variant}: {network.__name__} with {arguments}.'
        register_model(create)


def _create(
    network: type[nn.Module],
    variant: str,
    arguments: Mapping[str, Any],
    out_indices: int | Sequence[int],
    filter_fn: Callable[..., Any] | None,
    /,  # what follows is timm's, and may have the same names
    pretrained: bool = False,
    **kwargs: Any,
) -> nn.Module:
    out_indices = kwargs.pop('out_indices', out_indices)
    return build_model_with_cfg(
        network,
        variant,
        pretrained,
        pretrained_filter_fn=filter_fn,
        feature_cfg={'out_indices': out_indices, 'feature_cls': 'getter'},
        **{**arguments, **kwargs},
    )
