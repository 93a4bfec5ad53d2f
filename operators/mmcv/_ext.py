"""`mmcv._ext` for an mmcv that was installed without its compiled operators.

`nms` and `roi_align` are torchvision's, on CPU and CUDA: all that Mask R-CNN and its cascade call.
Every other operator can be looked up, so that `mmcv.ops` and all that is built on it imports, and
raises `NotImplementedError` when it is called.

Where mmcv was built with its operators, `mmcv/_ext.*.so` lies in the same folder and is the one
that is imported: Python's file finder tries extension modules before source files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn

import torch
import torchvision
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression with mmcv's convention for a box's size.

    Args:
        boxes: (N, 4), as x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: a box goes when it overlaps a kept one by more than this.
        offset: 0, or 1 for pixel coordinates: a side is x2 - x1 + offset.

    Returns:
        (K,) int64, the kept boxes by falling score.
    """
    # torchvision wants one dtype; under autocast mmdet hands over fp32 boxes and fp16 scores.
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    if offset:
        # Unions and intersections are differences of x2 and x1, so the offset may go into x2.
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
    """Write RoIAlign by averages into `output`; the names are mmcv's.

    Args:
        input: (N, C, H, W).
        rois: (K, 5), as image index, x1, y1, x2, y2.
        output: (K, C, aligned_height, aligned_width).
        argmax_y, argmax_x: unused, for pooling by the maximum.
        spatial_scale: pixels of `input` per pixel of `rois`.
        sampling_ratio: samples along each side of a bin, 0 for one per pixel of `input`.
        pool_mode: 1, averages.
        aligned: whether a pixel's value is that of its centre.

    Raises:
        NotImplementedError: for pooling by the maximum.
    """
    if pool_mode != 1:
        _missing("roi_align_forward with pool_mode='max'")
    size = (aligned_height, aligned_width)
    output.copy_(
        torchvision.ops.roi_align(
            input, rois.to(input.dtype), size, spatial_scale, sampling_ratio, aligned
        )
    )


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
    """Write the gradient of `roi_align_forward` for its `input` into `grad_input`."""
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
    """What mmcv's environment report prints as the compiler of its operators."""
    return 'none (torchvision stand-in)'


def get_compiling_cuda_version() -> str:
    """What mmcv's environment report prints as the CUDA version of its operators."""
    return 'none (torchvision stand-in)'


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith('__'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    return partial(_missing, name)


def _missing(name: str, *args: object, **kwargs: object) -> NoReturn:
    # mmcv's build compiles its operators if it finds torch, which build isolation would hide.
    raise NotImplementedError(
        f"mmcv's operator {name} is not here: this mmcv has no compiled operators. Build it with "
        'them where torch is installed: pip install --force-reinstall --no-deps '
        '--no-build-isolation --no-binary onedl-mmcv onedl-mmcv'
    )
