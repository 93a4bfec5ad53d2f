"""A replacement of `mmcv._ext` for an mmcv that was installed without its compiled operators.

`nms` and `roi_align` call torchvision, on CPU and CUDA; Mask R-CNN and its cascade need no others.
Every other operator can be looked up, so that `mmcv.ops` and everything built on it can be
imported, and raises `NotImplementedError` when it is called.

Where mmcv was built with its operators, `mmcv/_ext.*.so` lies in the same folder and is imported
instead: Python's file finder prefers extension modules to source files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn

import torch
import torchvision
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the boxes that greedy non-maximum suppression keeps: (K,) by falling scores.

    `boxes` are (N, 4), as x1, y1, x2, y2 in pixels. One is removed if its IoU with a kept one is
    larger than `iou_threshold`. The side of a box is x2 - x1 + `offset`, 0 or 1.
    """
    # torchvision expects one dtype; under autocast mmdet passes fp32 boxes and fp16 scores.
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    if offset:
        # Areas and overlaps depend only on differences of x2 and x1, so that adding the offset to
        # x2 is enough.
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the RoIAlign of `input` (N, C, H, W) into `output`; the argument names are mmcv's.

    `rois` are (K, 5), as image index, x1, y1, x2, y2. Pooling by the maximum, `pool_mode` 0, is not
    implemented.
    """
    if pool_mode != 1:
        _missing("roi_align_forward with pool_mode='max'")
    size, rois = (aligned_height, aligned_width), rois.to(input.dtype)
    pooled = torchvision.ops.roi_align(input, rois, size, spatial_scale, sampling_ratio, aligned)
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient of `roi_align_forward` with respect to `input` into `grad_input`."""
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad_output,
            rois.to(grad_output.dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def get_compiler_version() -> str:
    """Return what mmcv's environment report prints as the compiler of its operators."""
    return 'none (torchvision stand-in)'


get_compiling_cuda_version = get_compiler_version


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith('__'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    return partial(_missing, name)


def _missing(name: str, *args: object, **kwargs: object) -> NoReturn:
    # mmcv compiles its operators only if its build finds torch, which build isolation would hide.
    raise NotImplementedError(
        f"mmcv's operator {name} is not here: this mmcv has no compiled operators. Build it with "
        'them where torch is installed: pip install --force-reinstall --no-deps '
        '--no-build-isolation --no-binary onedl-mmcv onedl-mmcv'
    )
