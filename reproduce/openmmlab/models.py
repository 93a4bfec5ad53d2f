"""mmdet's detectors and mmseg's segmenters, built from config files, and what their FLOPs count."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
from torch.overrides import TorchFunctionMode

from reproduce.base.tensors import in_fp32
from reproduce.paper import DETECTION_SIZE, SEGMENTATION_SIZE

if TYPE_CHECKING:
    from mmengine.config import Config

# RoIs per image, of the FLOPs that papers print.
BOX_PROPOSALS, MASK_PROPOSALS = 1000, 100


def build(config: 'Config', device: str | torch.device = 'meta') -> nn.Module:
    """Return the model of `config` in evaluation mode, without gradients; no weights are loaded.

    On the `meta` device, the default, it has shapes but no numbers: no time, no memory.
    """
    # Imported here, so that Tables 1-4 do not wait for them.
    import mmdet.models  # noqa: F401
    import mmseg.models  # noqa: F401
    from mmengine.registry import MODELS, DefaultScope

    scope = DefaultScope.overwrite_default_scope(config.default_scope)
    with torch.device(device), _LinspaceOnCpu(), scope:
        model = MODELS.build(config.model)
    return model.eval().requires_grad_(False).to(device)


def find_regions_in_fp32(model: nn.Module) -> None:
    """Let a detector propose regions and cut them out in fp32 under autocast, as in Swin's code.

    mmdet rounds their corners to the type of the RPN's output, and again to that of the feature
    maps: in fp16 to half a pixel or one, in bf16 to up to eight.
    """
    from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor

    for name, module in model.named_modules():
        if isinstance(module, BaseRoIExtractor):
            module.register_forward_pre_hook(lambda _, inputs: in_fp32(inputs))
        elif name == 'rpn_head':
            module.register_forward_hook(lambda _, inputs, outputs: in_fp32(outputs))


def published_size(config: 'Config') -> tuple[int, int]:
    """Return the height and width of the image whose FLOPs are published of such a model."""
    return DETECTION_SIZE if 'roi_head' in config.model else SEGMENTATION_SIZE


def published_forward(config: 'Config') -> Callable[[nn.Module, torch.Tensor], None]:
    """Return the forward pass that the published FLOPs of such a model count, of images.

    A detector's is its backbone, neck and RPN head, every box head on 1000 and every mask head on
    100 RoIs of each image. A segmenter's is its backbone, neck and decode head: the auxiliary head
    exists for training, and is in the parameters but not in the FLOPs.
    """
    if 'roi_head' in config.model:
        return _detector_forward
    return lambda model, images: model.decode_head(model.extract_feat(images))


def _detector_forward(model: nn.Module, images: torch.Tensor) -> None:
    maps = model.extract_feat(images)
    model.rpn_head(maps)
    roi_head = model.roi_head
    for extractors, heads, rois in (
        (roi_head.bbox_roi_extractor, roi_head.bbox_head, BOX_PROPOSALS),
        (roi_head.mask_roi_extractor, roi_head.mask_head, MASK_PROPOSALS),
    ):
        # Which RoI reads which map depends on numbers that `meta` has not. Cropping costs no
        # multiply-adds of layers, so the heads get what it would give them.
        for extractor, head in zip(_stages(extractors), _stages(heads), strict=True):
            size = extractor.roi_layers[0].output_size
            head(maps[0].new_zeros(len(images) * rois, extractor.out_channels, *size))


def _stages(module: nn.Module) -> list[nn.Module]:
    """Return the modules of all stages: a cascade has a list where others have one module."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]


class _LinspaceOnCpu(TorchFunctionMode):
    """Keeps `torch.linspace` on the CPU: constructors read its numbers, their drop path rates."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        defaults = {'device': 'cpu'} if func is torch.linspace else {}
        return func(*args, **(defaults | (kwargs or {})))
