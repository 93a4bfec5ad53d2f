"""Parameters and FLOPs, counted on the `meta` device: no compute, no memory, no weights."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
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
from reproduce.systems.selection import factory, named

if TYPE_CHECKING:
    from mmengine.config import Config

Size = tuple[int, int]  # height and width in pixels
Forward = Callable[[nn.Module], Any]
Count = Callable[[nn.Module, Forward], Any]

aten = torch.ops.aten

# What a convolution or a linear layer is by the time it reaches the dispatcher, but for a linear
# layer on a transposed input, which is a `bmm` as attention's products are.
_LAYER_OPERATORS = {aten.mm, aten.addmm, aten.convolution, aten._convolution}


def measure(model: nn.Module, forward: Forward) -> Complexity:
    """Count the parameters of `model` and the multiply-adds of `forward(model)`.

    Layer FLOPs are those of convolutions and linear layers, total FLOPs add the two matrix
    products inside every attention. The model is moved to the `meta` device for good; `forward`
    makes its inputs there.
    """
    model.eval()  # OpenMMLab's backbones return nothing
    model.requires_grad_(False).to('meta')
    weights = {p.untyped_storage() for p in model.parameters()}
    by_weight = 0

    def bmm(a: torch.Tensor, b: torch.Tensor, *_: Any, **__: Any) -> int:
        nonlocal by_weight
        flops = bmm_flop(a.shape, b.shape)
        if not weights.isdisjoint(t.untyped_storage() for t in (a, b)):
            by_weight += flops
        return flops

    bmm._get_raw = True  # type: ignore[attr-defined]  # tensors, not their shapes
    with FlopCounterMode(display=False, custom_mapping={aten.bmm: bmm}) as counter:
        forward(model)
    counts = counter.get_flop_counts().get('Global', {})
    layer = sum(n for operator, n in counts.items() if operator in _LAYER_OPERATORS)
    found = (
        sum(p.numel() for p in model.parameters()),
        (layer + by_weight) // 2,
        counter.get_total_flops() // 2,
    )
    return Complexity(*found, *found)


def measure_parts(model: nn.Module, forward: Forward) -> dict[str, Complexity]:
    """Count a model, under '', and its parts, by name, as `measure` does.

    Parts are the stages that timm names in `feature_info`, and the modules beside them; of other
    models their children, or what is called in a child that is not called itself.
    """
    calls = defaultdict(list)
    hooks = [
        module.register_forward_pre_hook(
            lambda module, *inputs: calls[module].append(inputs), with_kwargs=True
        )
        for module in model.modules()
    ]
    counted = {'': measure(model, forward)}
    for hook in hooks:
        hook.remove()
    stages = [info.get('module', '') for info in getattr(model, 'feature_info', ())]

    def again(module: nn.Module) -> None:
        for args, kwargs in calls.get(module, ()):
            module(*args, **kwargs)

    def add(of: nn.Module, prefix: str = '') -> None:
        for child, module in of.named_children():
            name = prefix + child
            has_stages = any(stage.startswith(f'{name}.') for stage in stages)
            if has_stages or (module not in calls and any(m in calls for m in module.modules())):
                add(module, f'{name}.')
            else:
                counted[name] = measure(module, again)

    add(model)
    return counted


def count_named(name: str, size: Size | None = None, count: Count = measure) -> Any:
    """Count a system, a timm model, a config, or the module that a MODULE:FACTORY returns.

    The image has the height and width that the papers count, unless `size` is given.

    Returns:
        what `count` returns, which is `measure` or `measure_parts`.

    Raises:
        UserError: if there is no such model, or it cannot be built or run at this size.
    """
    make = factory(name)
    try:
        if make is None:
            return measure_system(named(name), size, count)
        image = torch.empty(1, 3, *size or (224, 224), device='meta')
        return count(make(), lambda model: model(image))
    except UserError:
        raise
    except Exception as error:  # of a foreign module, or of a network at another size
        raise UserError(f'{name} cannot be counted: {first_line(error)}.') from error


def measure_system(system: System, size: Size | None = None, count: Count = measure) -> Any:
    """Build `system`, which is not only cited, and count what its printed figures count.

    Raises:
        UserError: if a package or a config file that the system needs is missing.
    """
    if system.model is not None:
        fixed = timm_names.size_argument(system.model, size)
        arguments = {**fixed, **system.arguments}
        return count_classifier(system.model, size or system.input_size, count, **arguments)
    # Imported here: mmdet and mmseg take seconds, and Tables 1-4 do without them.
    from reproduce.openmmlab import configs

    return count_config(configs.load_config(system.config), size, count)


def count_classifier(name: str, size: int | Size, count: Count = measure, **arguments: Any) -> Any:
    """Build a timm model without weights and count one image of `size` pixels, or a side of it."""
    with torch.device('meta'):
        classifier = timm.create_model(name, **arguments)
        image = torch.empty(1, 3, *to_2tuple(size))
    return count(classifier, lambda model: model(image))


def count_config(config: 'Config', size: Size | None = None, count: Count = measure) -> Any:
    """Build the detector or segmenter of a config and count what its printed figures count."""
    from reproduce.openmmlab import models

    forward, size = models.published_forward(config), size or models.published_size(config)
    images, model = torch.empty(1, 3, *size, device='meta'), models.build(config)
    counted = count(model, lambda model: forward(model, images))
    if count is not measure:
        return counted
    own = measure(model.backbone, lambda backbone: backbone(images))
    return replace(
        counted,
        backbone_params=own.params,
        backbone_layer_flops=own.layer_flops,
        backbone_total_flops=own.total_flops,
    )
