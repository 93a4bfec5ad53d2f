"""MAFormer and its rivals as backbones of mmdet's detectors and mmseg's segmenters.

Importing this module registers `MAFormer`, `CSWin`, `Shuffle` and `MixFormer` in mmengine's root
registry, where every OpenMMLab package looks after its own. A config file asks for it with
`custom_imports = dict(imports=['model.openmmlab'])`.
"""

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.models._features import feature_take_indices

from model import checkpoint, cswin, maformer, mixformer, shuffle
from model.checkpoint import CheckpointError

# What a classifier has after its last stage. A backbone has one norm per output instead.
_CLASSIFIER_ONLY = ('norm.', 'head.', 'aux_head.', 'last_proj.')


class PyramidBackbone(BaseModule):
    """The stages of the timm model `arch`, each output through a LayerNorm of its own.

    The norm per output is what Swin's and CSWin's OpenMMLab backbones have; the paper is silent.

    Args:
        arch: one of `variants`, such as 'maformer_small' or 'cswin_tiny'.
        out_indices: stages whose maps are returned, of strides 4, 8, 16, 32.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages with their
            norms. Frozen means no gradient, and evaluation mode also while the rest trains.
        with_cp: recompute every block in the backward pass instead of keeping its activations.
        init_cfg: `dict(type='Pretrained', checkpoint=path)` of a classification checkpoint, a file
            of safetensors or of what `torch.load(weights_only=True)` reads; its head is ignored.
            None, or a checkpoint of None, trains from scratch.
        kwargs: further arguments of the network.

    Raises:
        ValueError: if `arch` or `init_cfg` is none of the above.
    """

    family: ClassVar[str]
    variants: ClassVar[Mapping[str, Any]]

    def __init__(
        self,
        arch: str,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg=None)
        if arch not in self.variants:
            near = ', '.join(get_close_matches(arch, self.variants, cutoff=0) or self.variants)
            raise ValueError(f"arch '{arch}' is not a {self.family}; the nearest are {near}")
        if init_cfg is not None and (
            not isinstance(init_cfg, Mapping)
            or init_cfg.get('type') != 'Pretrained'
            or set(init_cfg) - {'type', 'checkpoint'}
        ):
            raise ValueError(
                f"init_cfg must be dict(type='Pretrained', checkpoint=...), got {init_cfg}"
            )
        self.arch = arch
        self.out_indices = tuple(sorted(feature_take_indices(4, out_indices)[0]))
        self.frozen_stages = frozen_stages
        self.checkpoint = init_cfg.get('checkpoint') if init_cfg else None
        self.network = timm.create_model(
            arch, num_classes=0, drop_path_rate=drop_path_rate, **kwargs
        )
        self.network.set_grad_checkpointing(with_cp)
        # Parameters that never see a gradient stop distributed training.
        self.network.prune_intermediate_layers(
            list(self.out_indices), prune_norm=True, prune_head=True
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(self.network.embed_dims[i]) for i in self.out_indices
        )
        self._freeze()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (B, 3, H, W) to one map (B, C_i, H_i, W_i) per output.

        Each side is the image's over the output's stride, rounded up; CSWin's stem makes
        (H + 1) // 4 of it.
        """
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

    def train(self, mode: bool = True) -> 'PyramidBackbone':
        """Set the mode of everything that is not frozen."""
        super().train(mode)
        self._freeze()
        return self

    def init_weights(self) -> None:
        """Load the classification checkpoint of `init_cfg`; without one keep the random weights.

        Raises:
            CheckpointError: if it is not there, cannot be read safely or does not fit.
        """
        if self.checkpoint is None:
            print_log(
                f'{self.arch} starts from random weights: init_cfg has no checkpoint', 'current'
            )
        else:
            load_classifier(self.network, self.checkpoint, self.arch)
        self._is_init = True

    def _freeze(self) -> None:
        frozen = [self.network.stem] if self.frozen_stages >= 0 else []
        frozen += self.network.stages[: max(self.frozen_stages, 0)]
        frozen += [
            norm
            for i, norm in zip(self.out_indices, self.norms, strict=True)
            if i < self.frozen_stages
        ]
        for module in frozen:
            module.eval().requires_grad_(False)


@MODELS.register_module(name='MAFormer')
class MAFormerBackbone(PyramidBackbone):
    """MAFormer's stages."""

    family = 'MAFormer'
    variants = maformer.VARIANTS


@MODELS.register_module(name='CSWin')
class CSWinBackbone(PyramidBackbone):
    """CSWin's stages."""

    family = 'CSWin'
    variants = cswin.VARIANTS


@MODELS.register_module(name='Shuffle')
class ShuffleBackbone(PyramidBackbone):
    """Shuffle Transformer's stages."""

    family = 'Shuffle'
    variants = shuffle.VARIANTS


@MODELS.register_module(name='MixFormer')
class MixFormerBackbone(PyramidBackbone):
    """MixFormer's stages."""

    family = 'MixFormer'
    variants = mixformer.VARIANTS


def load_classifier(network: nn.Module, path: str | Path, arch: str) -> None:
    """Load a classification checkpoint into the stages of `network`, named `arch` in errors.

    The file may hold the parameters themselves or one of timm's or OpenMMLab's training checkpoints
    around them; averaged weights are preferred where it has both. Names of the network's first
    release are translated.

    Raises:
        CheckpointError: if the file is missing, unreadable, or its parameters are not those of
            `network` in name and shape.
    """
    state = checkpoint.read(path)
    module = sys.modules[type(network).__module__]
    if translate := getattr(module, 'checkpoint_filter_fn', None):
        state = translate(state, network)
    pruned = tuple(f'stages.{i}.' for i in range(len(network.stages), 4))
    state = {k: v for k, v in state.items() if not k.startswith(_CLASSIFIER_ONLY + pruned)}
    if differ := checkpoint.differences(state, network.state_dict()):
        raise CheckpointError(
            f'the backbone checkpoint {path} is not one of {arch}: {checkpoint.listed(differ)}'
        )
    network.load_state_dict(state)
