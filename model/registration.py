"""Register the named variants of a network with timm."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

# The variants of every registered network, by the class of the network.
NETWORKS: dict[type[nn.Module], Mapping[str, Mapping[str, Any]]] = {}


def register(
    network: type[nn.Module],
    variants: Mapping[str, Mapping[str, Any]],
    filter_fn: Callable[..., Any] | None = None,
    out_indices: int | Sequence[int] = (0, 1, 2, 3),
    different: Mapping[str, Mapping[str, Any]] | None = None,
    **description: Any,
) -> None:
    """Register the variants of a network with timm, as classifiers of ImageNet-1K at 224 x 224.

    Args:
        variants: the constructor arguments of each variant, by name.
        filter_fn: changes pretrained parameters, such as their names, to those of the model.
        out_indices: the maps that `features_only=True` returns by default.
        description, different: fields of timm's description of all variants, such as `license`, and
            of single ones.
    """
    NETWORKS[network] = variants
    common = {
        'url': '',
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (7, 7),
        'crop_pct': 0.9,
        'interpolation': 'bicubic',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'stem.proj',
        'classifier': 'head.fc',
        **description,
    }
    different = different or {}
    # timm looks for the descriptions there.
    sys.modules[network.__module__].default_cfgs = generate_default_cfgs(
        {variant: common | different.get(variant, {}) for variant in variants}
    )
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
    /,  # the arguments below come from timm's caller, who may use the same names
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
