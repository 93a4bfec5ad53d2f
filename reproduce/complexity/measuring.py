"""Parameters and FLOPs, counted on the `meta` device: no compute, no memory, no weights."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import timm
import torch
import torch.nn as nn
from timm.layers import to_2tuple
from torch.utils.flop_counter import FlopCounterMode, bmm_flop

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from reproduce.base.errors import UserError, first_line
from reproduce.complexity import Complexity
from reproduce.systems import System, timm_names
from reproduce.systems.selection import named

if TYPE_CHECKING:
    from mmengine.config import Config

Size = tuple[int, int]  # height and width in pixels

aten = torch.ops.aten

# What a convolution or a linear layer is by the time it reaches the dispatcher, but for a linear
# layer on a transposed input, which is a `bmm` as attention's products are.
_LAYER_OPERATORS = {aten.mm, aten.addmm, aten.convolution, aten._convolution}


def measure(model: nn.Module, forward: Callable[[nn.Module], Any]) -> Complexity:
    """Count the parameters of `model` and the multiply-adds of `forward(model)`.

    Layer FLOPs are those of convolutions and linear layers, total FLOPs add the two matrix
    products inside every attention. The model is moved to the `meta` device for good; `forward`
    makes its inputs there.
    """
    model.eval()  # OpenMMLab's backbones return nothing
    model.requires_grad_(False).to('meta')
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    by_weight = 0

    def bmm(a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> int:
        nonlocal by_weight
        flops = bmm_flop(a.shape, b.shape)
        if not weights.isdisjoint(t.untyped_storage()._cdata for t in (a, b)):
            by_weight += flops
        return flops

    bmm._get_raw = True  # type: ignore[attr-defined]  # tensors, not their shapes
    with FlopCounterMode(display=False, custom_mapping={aten.bmm: bmm}) as counter:
        forward(model)
    counts = counter.get_flop_counts()['Global']
    layer = sum(n for operator, n in counts.items() if operator in _LAYER_OPERATORS)
    found = (
        sum(p.numel() for p in model.parameters()),
        (layer + by_weight) // 2,
        counter.get_total_flops() // 2,
    )
    return Complexity(*found, *found)


def count_named(name: str, size: Size | None = None) -> Complexity:
    """Count a system, a timm model, a config, or the module that a MODULE:FACTORY returns.

    The image has the height and width that the papers count, unless `size` is given.

    Raises:
        UserError: if there is no such model, or it cannot be built or run at this size.
    """
    try:
        if ':' not in name.replace('::', ''):
            return measure_system(named(name), size)
        module, _, factory = name.partition(':')
        image = torch.empty(1, 3, *size or (224, 224), device='meta')
        return measure(getattr(import_module(module), factory)(), lambda model: model(image))
    except UserError:
        raise
    except Exception as error:  # of a foreign module, or of a network at another size
        raise UserError(f'{name} cannot be counted: {first_line(error)}.') from error


def measure_system(system: System, size: Size | None = None) -> Complexity:
    """Build `system`, which is not only cited, and count what its printed figures count.

    Raises:
        UserError: if a package or a config file that the system needs is missing.
    """
    if system.model is not None:
        fixed = timm_names.size_argument(system.model, size)
        arguments = {**fixed, **system.arguments}
        return count_classifier(system.model, size or system.input_size, **arguments)
    # Imported here: mmdet and mmseg take seconds, and Tables 1-4 do without them.
    from reproduce.openmmlab import configs

    return count_config(configs.load_config(system.config), size)


def count_classifier(name: str, size: int | Size, **arguments: Any) -> Complexity:
    """Build a timm model without weights and count one image of `size` pixels, or a side of it."""
    with torch.device('meta'):
        classifier = timm.create_model(name, **arguments)
        image = torch.empty(1, 3, *to_2tuple(size))
    return measure(classifier, lambda model: model(image))


def count_config(config: 'Config', size: Size | None = None) -> Complexity:
    """Build the detector or segmenter of a config and count what its printed figures count."""
    from reproduce.openmmlab import models

    forward, size = models.published_forward(config), size or models.published_size(config)
    images, model = torch.empty(1, 3, *size, device='meta'), models.build(config)
    own = measure(model.backbone, lambda backbone: backbone(images))
    return replace(
        measure(model, lambda model: forward(model, images)),
        backbone_params=own.params,
        backbone_layer_flops=own.layer_flops,
        backbone_total_flops=own.total_flops,
    )
