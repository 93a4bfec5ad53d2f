"""Register the named variants of a network with timm."""

import sys
from collections.abc import Mapping, Sequence
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
    out_indices: int | Sequence[int] = (0, 1, 2, 3),
    different: Mapping[str, Mapping[str, Any]] | None = None,
    **description: Any,
) -> None:
    """Register the variants of a network with timm, as classifiers of ImageNet-1K at 224 x 224.

    Pretrained parameters are renamed by the `checkpoint_filter_fn` of the network's module.

    Args:
        variants: the constructor arguments of each variant, by name.
        out_indices: the maps that `features_only=True` returns by default.
        description, different: fields of timm's description of all variants, and of single ones.
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
    module: Any = sys.modules[network.__module__]
    different = different or {}
    # timm looks for the descriptions there.
    module.default_cfgs = generate_default_cfgs(
        {variant: {**common, **different.get(variant, {})} for variant in variants}
    )

    def create(
        variant: str, /, pretrained: bool = False, out_indices: Any = out_indices, **arguments: Any
    ) -> nn.Module:
        return build_model_with_cfg(
            network,
            variant,
            pretrained,
            pretrained_filter_fn=getattr(module, 'checkpoint_filter_fn', None),
            feature_cfg={'out_indices': out_indices, 'feature_cls': 'getter'},
            **{**variants[variant], **arguments},
        )

    for variant in variants:
        entry: Any = partial(create, variant)
        entry.__name__, entry.__module__ = variant, network.__module__
        entry.__doc__ = f'{variant}: {network.__name__} with {variants[variant]}.'
        register_model(entry)
