"""The networks of `model` as backbones of mmdet's detectors and mmseg's segmenters.

Importing this module registers every network of four stages, such as `MAFormer` and `CSWin`, under
the name of its class in mmengine's root registry, in which every OpenMMLab package searches after
its own. A config file imports this module with
`custom_imports = dict(imports=['maformer.openmmlab'])` where `maformer` is installed, and with
`['model.openmmlab']` in a checkout.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from . import checkpoint
from .checkpoint import CheckpointError
from .pyramid import Pyramid
from .registration import NETWORKS

# The layers of a classifier after its last stage. A backbone has one norm per output instead.
_CLASSIFIER_ONLY = ('norm.', 'head.', 'aux_head.', 'last_proj.')


class Backbone(BaseModule):
    """The stages of a network, each output normalised by a LayerNorm of its own.

    A norm per output is what Swin's and CSWin's OpenMMLab backbones have; the paper does not say.
    ViL's detectors have none, and keep the classifier's last layers, which nothing reads.

    Args:
        arch: a variant of a network, such as 'maformer_small' or 'cswin_tiny'.
        out_indices: the stages whose maps are returned, 0 to 3, of strides 4, 8, 16, 32.
        with_cp: whether to recompute every block in the backward pass instead of keeping its
            activations.
        output_norms: whether each output is normalised.
        with_classifier: whether to keep the classifier's norm and head of 1000 classes, frozen,
            which count as parameters.
        init_cfg: `dict(type='Pretrained', checkpoint=path)` of a classification checkpoint, whose
            head is ignored. With None, or a checkpoint of None, the weights stay random.
        kwargs: further arguments of the network, such as `drop_path_rate`.

    Raises:
        ValueError: if `arch` is not a variant of this network, or `init_cfg` of another type.
    """

    variants = tuple(variant for variants in NETWORKS.values() for variant in variants)

    def __init__(
        self,
        arch: str,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        with_cp: bool = False,
        output_norms: bool = True,
        with_classifier: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg=None)
        if arch not in self.variants:
            raise ValueError(f"arch must be one of {', '.join(self.variants)}, got '{arch}'")
        if init_cfg is not None and init_cfg.get('type') != 'Pretrained':
            raise ValueError(f"the type of init_cfg must be 'Pretrained', got {init_cfg}")
        self.arch = arch
        self.checkpoint = init_cfg.get('checkpoint') if init_cfg else None
        classes = 1000 if with_classifier else 0
        self.network = timm.create_model(arch, num_classes=classes, **kwargs)
        self.network.set_grad_checkpointing(with_cp)
        # Parameters that never see a gradient stop distributed training.
        kept = self.network.prune_intermediate_layers(
            list(out_indices), prune_norm=not with_classifier, prune_head=not with_classifier
        )
        self.out_indices = tuple(sorted(kept))
        self.norms = nn.ModuleList(
            nn.LayerNorm(self.network.embed_dims[i]) if output_norms else nn.Identity()
            for i in self.out_indices
        )
        if with_classifier:
            self.network.norm.requires_grad_(False)
            self.network.head.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images (B, 3, H, W) to one map (B, C_i, H_i, W_i) per output."""
        maps = self.network.forward_intermediates(
            x,
            indices=list(self.out_indices),
            stop_early=True,
            output_fmt='NHWC',
            intermediates_only=True,
        )
        return tuple(
            norm(x).permute(0, 3, 1, 2).contiguous()
            for norm, x in zip(self.norms, maps, strict=True)
        )

    def init_weights(self) -> None:
        """Load the classification checkpoint of `init_cfg`; without one the weights stay random.

        Raises:
            CheckpointError: if the file does not exist, cannot be read safely or does not fit.
        """
        path, network, self._is_init = self.checkpoint, self.network, True
        if path is None:
            print_log(f'{self.arch} starts from random weights', 'current', logging.WARNING)
            return
        state = checkpoint.translated(checkpoint.read(path, network)[0], network)
        ignored = (*_CLASSIFIER_ONLY, *(f'stages.{i}.' for i in range(len(network.stages), 4)))
        state = {name: value for name, value in state.items() if not name.startswith(ignored)}
        wanted = {k: v for k, v in network.state_dict().items() if not k.startswith(ignored)}
        if differing := checkpoint.mismatch(state, wanted):
            raise CheckpointError(
                f'the backbone checkpoint {path} is not one of {self.arch}: {differing}'
            )
        network.load_state_dict(state, strict=False)


# A package that was imported under two names, `model` and `maformer`, registers the same networks.
for network, variants in NETWORKS.items():
    if issubclass(network, Pyramid):
        members = {'variants': tuple(variants), '__doc__': Backbone.__doc__}
        backbone = type(network.__name__, (Backbone,), members)
        MODELS.register_module(force=True, module=backbone)
