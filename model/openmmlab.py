"""The networks of `model` as backbones of mmdet's detectors and mmseg's segmenters.

Importing this module registers every network, such as `MAFormer`, `CSWin` and the plain `LVViT`,
under the name of its class in mmengine's root registry, in which every OpenMMLab package searches
after its own. A config file imports this module with
`custom_imports = dict(imports=['maformer.openmmlab'])` where `maformer` is installed, and with
`['model.openmmlab']` in a checkout.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.models._features import feature_take_indices

from . import checkpoint
from .checkpoint import CheckpointError
from .pyramid import Pyramid
from .registration import NETWORKS

# The layers of a classifier after its last stage. A backbone has one norm per output instead.
_CLASSIFIER_ONLY = ('norm.', 'head.', 'aux_head.', 'last_proj.')


class ClassifierBackbone(BaseModule):
    """What the backbones have in common: a network, its checkpoint, and parts that are frozen.

    Args:
        arch: a variant of a registered network.
        init_cfg: None, or `dict(type='Pretrained', checkpoint=path)`.
        kwargs: arguments of the network.

    Raises:
        ValueError: if `init_cfg` has another form.
    """

    def __init__(self, arch: str, init_cfg: Mapping[str, Any] | None, **kwargs: Any) -> None:
        super().__init__(init_cfg=None)
        if init_cfg is not None and (
            not isinstance(init_cfg, Mapping)
            or init_cfg.get('type') != 'Pretrained'
            or set(init_cfg) - {'type', 'checkpoint'}
        ):
            raise ValueError(
                f"init_cfg must be dict(type='Pretrained', checkpoint=...), got {init_cfg}"
            )
        self.arch = arch
        self.checkpoint = init_cfg.get('checkpoint') if init_cfg else None
        self.network = timm.create_model(arch, **kwargs)

    def train(self, mode: bool = True) -> 'ClassifierBackbone':
        """Set training or evaluation mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def init_weights(self) -> None:
        """Load the classification checkpoint of `init_cfg`; without one the weights stay random.

        Raises:
            CheckpointError: if the file does not exist, cannot be read safely or does not fit.
        """
        if self.checkpoint is None:
            print_log(
                f'{self.arch} starts from random weights: init_cfg has no checkpoint', 'current'
            )
        else:
            load_classifier(self.network, self.checkpoint, self.arch)
        self._is_init = True

    def _frozen(self) -> list[nn.Module]:
        raise NotImplementedError

    def _freeze(self) -> None:
        for module in self._frozen():
            module.eval().requires_grad_(False)


class PyramidBackbone(ClassifierBackbone):
    """The stages of a network, each output normalised by a LayerNorm of its own.

    A norm per output is what Swin's and CSWin's OpenMMLab backbones have; the paper does not say.
    ViL's detectors have none, and keep the classifier's last layers, which nothing reads.

    Args:
        arch: a variant of a network of four stages, such as 'maformer_small' or 'cswin_tiny'.
        out_indices: the stages whose maps are returned, 0 to 3, of strides 4, 8, 16, 32.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages with their
            norms. Frozen parts have no gradient and stay in evaluation mode during training.
        with_cp: whether to recompute every block in the backward pass instead of keeping its
            activations.
        output_norms: whether each output is normalised.
        with_classifier: whether to keep the classifier's norm and head of 1000 classes, frozen,
            which count as parameters.
        init_cfg: `dict(type='Pretrained', checkpoint=path)` of a classification checkpoint, a file
            of safetensors or one that `torch.load(weights_only=True)` reads; its head is ignored.
            With None, or a checkpoint of None, the weights stay random.
        kwargs: further arguments of the network.

    Raises:
        ValueError: if `init_cfg` has another form.
    """

    def __init__(
        self,
        arch: str,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        output_norms: bool = True,
        with_classifier: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        classes = 1000 if with_classifier else 0
        super().__init__(
            arch, init_cfg, num_classes=classes, drop_path_rate=drop_path_rate, **kwargs
        )
        self.out_indices = tuple(sorted(feature_take_indices(4, out_indices)[0]))
        self.frozen_stages = frozen_stages
        self.with_classifier = with_classifier
        self.network.set_grad_checkpointing(with_cp)
        # Parameters that never see a gradient stop distributed training.
        self.network.prune_intermediate_layers(
            list(self.out_indices),
            prune_norm=not with_classifier,
            prune_head=not with_classifier,
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(self.network.embed_dims[i]) if output_norms else nn.Identity()
            for i in self.out_indices
        )
        self._freeze()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images (B, 3, H, W) to one map (B, C_i, H_i, W_i) per output.

        A side of a map is the side of the image divided by the stride, rounded up; but CSWin's
        first map has a height of (H + 1) // 4.
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

    def _frozen(self) -> list[nn.Module]:
        frozen = [self.network.stem] if self.frozen_stages >= 0 else []
        frozen += self.network.stages[: max(self.frozen_stages, 0)]
        frozen += [
            norm
            for i, norm in zip(self.out_indices, self.norms, strict=True)
            if i < self.frozen_stages
        ]
        if self.with_classifier:
            frozen += [self.network.norm, self.network.head]  # nothing trains them
        return frozen


class TokenBackbone(ClassifierBackbone):
    """The blocks of a plain vision transformer, LV-ViT, as maps of one stride, 16.

    Each output is normalised by a LayerNorm of its own. As with mmseg's VisionTransformer, a neck
    makes a pyramid of the maps: mmseg's `Feature2Pyramid`, or a `MultiLevelNeck`. Images of any
    size run: the position table is resampled to theirs, and sides are padded to multiples of 16.

    Args:
        arch: a variant such as 'lvvit_small'.
        out_indices: the blocks whose tokens are returned, counted from 0; None selects four at
            equal distances, the last among them.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k blocks. Frozen
            parts have no gradient and stay in evaluation mode during training.
        with_cp: whether to recompute every block in the backward pass.
        init_cfg: as for `PyramidBackbone`.
        kwargs: further arguments of the network.
    """

    def __init__(
        self,
        arch: str,
        out_indices: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        sizes = {'dynamic_img_size': True, 'dynamic_img_pad': True}
        super().__init__(
            *(arch, init_cfg), num_classes=0, drop_path_rate=drop_path_rate, **sizes | kwargs
        )
        depth = len(self.network.blocks)
        if out_indices is None:
            out_indices = [(i + 1) * depth // 4 - 1 for i in range(4)]
        self.out_indices = tuple(sorted(feature_take_indices(depth, out_indices)[0]))
        self.frozen_stages = frozen_stages
        self.network.set_grad_checkpointing(with_cp)
        # Parameters that never see a gradient stop distributed training.
        self.network.prune_intermediate_layers(list(self.out_indices), prune_norm=True)
        self.norms = nn.ModuleList(nn.LayerNorm(self.network.embed_dim) for _ in self.out_indices)
        self._freeze()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images (B, 3, H, W) to one map (B, C, ceil(H / 16), ceil(W / 16)) per output."""
        maps = self.network.forward_intermediates(
            x, indices=list(self.out_indices), output_fmt='NCHW', intermediates_only=True
        )
        return tuple(
            norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
            for norm, x in zip(self.norms, maps, strict=True)
        )

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.network.patch_embed, *self.network.blocks[: self.frozen_stages]]


def load_classifier(network: nn.Module, path: str | Path, arch: str) -> None:
    """Load a classification checkpoint into the stages or blocks of a network.

    The file has one of the forms of `checkpoint.read`. Parameters under the names of the network's
    first release are renamed, and its head is ignored.

    Args:
        network: a network of four stages or of blocks, or the first of them.
        path: the checkpoint.
        arch: the name of the network in errors.

    Raises:
        CheckpointError: if the file is missing, cannot be read safely, or its parameters differ
            from those of the network in name or shape.
    """
    state = checkpoint.read(path)
    module = sys.modules[type(network).__module__]
    if translate := getattr(module, 'checkpoint_filter_fn', None):
        state = translate(state, network)
    parts, kept = (
        ('stages', network.stages) if isinstance(network, Pyramid) else ('blocks', network.blocks)
    )
    pruned = re.compile(rf'{parts}\.(\d+)\.')
    state = {
        name: value
        for name, value in state.items()
        if not name.startswith(_CLASSIFIER_ONLY)
        and not ((found := pruned.match(name)) and int(found[1]) >= len(kept))
    }
    wanted = network.state_dict()
    wanted = {k: v for k, v in wanted.items() if not k.startswith(_CLASSIFIER_ONLY)}
    if differ := checkpoint.differences(state, wanted):
        raise CheckpointError(
            f'the backbone checkpoint {path} is not one of {arch}: {checkpoint.listed(differ)}'
        )
    network.load_state_dict(state, strict=False)


def _builder(
    name: str, variants: Iterable[str], backbone: type[ClassifierBackbone]
) -> Callable[..., ClassifierBackbone]:
    def build(arch: str, **kwargs: Any) -> ClassifierBackbone:
        if arch not in variants:
            near = ', '.join(get_close_matches(arch, variants, cutoff=0) or variants)
            raise ValueError(f"arch '{arch}' is not a {name}; the nearest are {near}")
        return backbone(arch, **kwargs)

    build.__name__ = name
    build.__doc__ = f'Return a backbone of {name}; see `{backbone.__name__}`.'
    return build


def _register(name: str, variants: Iterable[str], backbone: type[ClassifierBackbone]) -> None:
    # The checkout's package and the installed one, `model` and `maformer`, have the same networks.
    again = getattr(MODELS.module_dict.get(name), '__module__', '').endswith('.openmmlab')
    MODELS.register_module(name, force=again, module=_builder(name, variants, backbone))


for network, variants in NETWORKS.items():
    kind = PyramidBackbone if issubclass(network, Pyramid) else TokenBackbone
    _register(network.__name__, variants, kind)
