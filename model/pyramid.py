"""The parts that MAFormer and other networks of four stages share, with timm's interface.

Maps are channels-last, (B, H, W, C), from the stem to the head.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import (
    ClassifierHead,
    DropPath,
    calculate_drop_path_rates,
    to_2tuple,
    trunc_normal_,
)
from timm.models import checkpoint_seq

# Elements of the widest intermediate in inference. On a CPU larger buffers, above 8 MiB, miss the
# caches and cause page faults; on a GPU this is far above what fills the device.
CPU_WORKSPACE = 2**21
ACCELERATOR_WORKSPACE = 2**26


def recorded() -> bool:
    """Return whether the pass is recorded, for gradients or as a graph, and has to stay whole."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()


def in_pieces(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return `function(x)`, computed on a few entries of the first axis at a time in inference.

    The wide intermediates of attentions and MLPs are most of what a forward pass allocates. In
    pieces, its peak memory does not grow with the batch. `function` treats the entries of the first
    axis independently of each other.
    """
    workspace = CPU_WORKSPACE if x.device.type == 'cpu' else ACCELERATOR_WORKSPACE
    entries = max(1, workspace // (4 * x[0].numel()))  # MLPs are four times as wide
    if recorded() or entries >= len(x):
        return function(x)
    return torch.cat([function(piece) for piece in x.split(entries)])


class Mlp(nn.Module):
    """X + MLP(LN(X)), the second line of MAFormer's eq. 1, of hidden width `mlp_ratio` * `dim`."""

    def __init__(self, dim: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, int(dim * mlp_ratio))
        self.fc2 = nn.Linear(int(dim * mlp_ratio), dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, C) to the same shape."""
        update = in_pieces(self._update, x.reshape(-1, x.shape[-1]))
        return x + self.drop_path(update.view(x.shape))

    def _update(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(self.norm(x))
        return self.fc2(F.gelu(x) if recorded() else torch.ops.aten.gelu_(x))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block around an attention that keeps the shape (B, H, W, C)."""

    def __init__(
        self, dim: int, attention: nn.Module, mlp_ratio: float = 4.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = attention
        self.drop_path = DropPath(drop_path)
        self.mlp = Mlp(dim, mlp_ratio, drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x + self.drop_path(self.attention(self.norm(x))))


class Downsample(nn.Module):
    """Convolution of stride = kernel size, and a norm: the stem (4) and the patch merging (2).

    A side that the stride does not divide is padded with zeros at its end: no pixel is lost.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        stride: int = 2,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, stride, stride)
        self.norm = norm_layer(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, in_dim) to (B, ceil(H / stride), ceil(W / stride), dim)."""
        _, H, W, _ = x.shape
        stride = self.proj.stride[0]
        x = F.pad(x, (0, 0, 0, -W % stride, 0, -H % stride))
        x = self.proj(x.permute(0, 3, 1, 2))
        return self.norm(x.permute(0, 2, 3, 1))


class BatchNormDownsample(nn.Module):
    """Batch norm and a 2x2 convolution of stride 2; an odd side is padded by one at its end."""

    def __init__(self, in_dim: int, dim: int, bias: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_dim)
        self.reduction = nn.Conv2d(in_dim, dim, 2, 2, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, in_dim) to (B, ceil(H / 2), ceil(W / 2), dim)."""
        x = self.norm(x.permute(0, 3, 1, 2))
        x = self.reduction(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)))
        return x.permute(0, 2, 3, 1)


class Stage(nn.Module):
    """The patch merging and the blocks of one scale.

    In the first stage, which follows the stem, `downsample` is an identity.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.grad_checkpointing = False

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the blocks to (B, H, W, C)."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x)
        # In training, batch norms need the whole batch.
        return self.run(x) if self.training else in_pieces(self.run, x)


class Pyramid(nn.Module):
    """A stem, four stages of strides 4 to 32, a norm, the mean over tokens and a linear head.

    It is a classifier, and through `forward_intermediates` a feature pyramid. Its methods are those
    that timm expects of a network.

    The constructors of the networks have the arguments `embed_dims`, `depths`, `num_heads`, the
    attention heads of the four stages, and those of this class from `drop_path_rate` on.

    Args:
        block: makes a block from its stage, its place in the stage and its stochastic depth.
        embed_dims, depths: channels and blocks of the four stages.
        stem, downsample: make the stem and a patch merging from the channels before and after it.
        stage: makes a stage from its number and the arguments of `Stage`.
        norm_layer: makes the norm after the last stage from the number of channels.
        stem_stride: of the stem, in pixels.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        img_size: of the images in pixels, kept as an attribute: any size from 32 x 32 works.
        num_classes: classes of the head; 0 for features only.
        global_pool: pooling of the head, 'avg' or '' for none.
        drop_rate: dropout before the head.
    """

    output_fmt = 'NHWC'  # of the maps, for timm's wrappers

    def __init__(
        self,
        block: Callable[[int, int, float], nn.Module],
        embed_dims: Sequence[int],
        depths: Sequence[int],
        stem: Callable[[int, int], nn.Module] = partial(Downsample, stride=4),
        downsample: Callable[[int, int], nn.Module] = Downsample,
        stage: Callable[..., Stage] = lambda _, *parts: Stage(*parts),
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        stem_stride: int = 4,
        drop_path_rate: float = 0.0,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.embed_dims = tuple(embed_dims)
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.feature_info = [
            {'num_chs': dim, 'reduction': stem_stride * 2**i, 'module': f'stages.{i}'}
            for i, dim in enumerate(embed_dims)
        ]
        self.img_size = to_2tuple(img_size)
        self.stem = stem(in_chans, embed_dims[0])
        rates = calculate_drop_path_rates(drop_path_rate, depths, stagewise=True)
        self.stages = nn.Sequential()
        for i, dim in enumerate(embed_dims):
            merging = downsample(embed_dims[i - 1], dim) if i else nn.Identity()
            blocks = [block(i, j, rate) for j, rate in enumerate(rates[i])]
            self.stages.append(stage(i, merging, blocks))
        self.norm = norm_layer(embed_dims[-1])
        self.head = ClassifierHead(
            embed_dims[-1], num_classes, global_pool, drop_rate, input_fmt='NHWC'
        )

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay besides biases and norms."""
        words = ('relative_position_bias', 'cls_token')
        return {n for n, _ in self.named_parameters() if any(word in n for word in words)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the linear layer of the head."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one; without `global_pool` the pooling stays."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def _taken(self, indices: int | Sequence[int] | None) -> list[int]:
        stages = range(len(self.stages))
        if indices is None or isinstance(indices, int):
            return list(stages[-(indices or 0) :])
        return [stages[i] for i in indices]

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the final features (B, H, W, C) and the maps after some of the stages.

        Args:
            x: images (B, in_chans, H, W).
            indices: the stages, 0 to 3; an int n selects the last n, None all.
            norm: whether to apply the final norm to the last stage's map.
            stop_early: whether to skip the stages after the last one in `indices`.
            output_fmt: layout of the maps, 'NCHW' or 'NHWC'.
            intermediates_only: whether to return the list of maps alone.
        """
        taken = self._taken(indices)
        stages = self.stages[: max(taken) + 1] if stop_early else self.stages
        maps = []
        x = self.stem(x.permute(0, 2, 3, 1))
        for i, stage in enumerate(stages):
            x = stage(x)
            if i in taken:
                out = self.norm(x) if norm and i == len(self.stages) - 1 else x
                maps.append(out.permute(0, 3, 1, 2).contiguous() if output_fmt == 'NCHW' else out)
        if intermediates_only:
            return maps
        # The norm has the channels of the last stage.
        return self.norm(x) if len(stages) == len(self.stages) else x, maps

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what `forward_intermediates` does not need for the stages in `indices`.

        The norm is removed with the last stage, and with `prune_norm`. The stages are returned.
        """
        taken = self._taken(indices)
        if prune_norm or max(taken) + 1 < len(self.stages):
            self.norm = nn.Identity()
        self.stages = self.stages[: max(taken) + 1]
        if prune_head:
            self.reset_classifier(0, '')
        return taken

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (B, in_chans, H, W) to features (B, ceil(H/32), ceil(W/32), C)."""
        x = self.stem(x.permute(0, 2, 3, 1))  # (B, H/4, W/4, C_1)
        return self.norm(self.stages(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Map features (B, H, W, C) to logits (B, K), or to pooled features (B, C)."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (B, in_chans, H, W) to logits (B, K)."""
        return self.forward_head(self.forward_features(x))


def init_weights(module: nn.Module) -> None:
    """Initialise a module if it is a linear layer; all others keep torch's initial values."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
