"""Classifiers in formats that run without timm: ONNX and torch.export."""

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn as nn

from model.global_branch import AntialiasedResize
from model.maformer import MAFormer
from reproduce.base.errors import UserError

# The file of each format, and how it is used.
FORMATS = {
    'onnx': ('model.onnx', 'run it with onnxruntime; input `images`, output `logits`.'),
    'torch-export': (
        'model.pt2',
        'load it with `torch.export.load(FILE).module()`; it needs torch alone.',
    ),
}
_ONNX_PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')

# Pixels of which the sides of images are multiples, where an exported network takes several sizes.
_STRIDE = 32

# Outputs of an exported network and of the original differ by less, relative to the largest.
_TOLERANCE = 1e-4


def check(name: str) -> None:
    """Check that the packages that a format needs are installed.

    Raises:
        UserError: if they are not.
    """
    missing = [p for p in _ONNX_PACKAGES if find_spec(p) is None] if name == 'onnx' else []
    if missing:
        raise UserError(
            f'exporting as {name} takes {", ".join(missing)}, which is not installed: run '
            f'`pip install {" ".join(_ONNX_PACKAGES)}`.'
        )


def smallest_size(network: nn.Module, size: Sequence[int]) -> int | None:
    """Return the smallest side of images, in pixels, if a network is exported for several sizes.

    None stands for one size: for any network but MAFormer, whose stripes, windows or position
    tables are laid out for it; and for a MAFormer with images so small that its maps are smaller
    than the grid that they are resized to, which is another computation.

    Args:
        size: height and width of the images that it was measured with.
    """
    if not isinstance(network, MAFormer):
        return None
    grids = [g for m in network.modules() if isinstance(m, AntialiasedResize) for g in m.heights]
    stride_of_stage_2 = network.feature_info[1]['reduction']
    least = _STRIDE * math.ceil(stride_of_stage_2 * max(grids, default=1) / _STRIDE)
    return least if min(size) >= least and not any(side % _STRIDE for side in size) else None


def input_sizes(network: nn.Module, size: Sequence[int]) -> str:
    """Return which images an exported network takes, as a phrase; `size` as in smallest_size."""
    if (least := smallest_size(network, size)) is None:
        return f'batches of any size, images of {size[0]} x {size[1]} pixels'
    return (
        f'batches of any size, images whose height and width are {least} pixels or more and '
        f'multiples of {_STRIDE}'
    )


def write(name: str, network: nn.Module, example: torch.Tensor, folder: Path) -> None:
    """Write a network in a format, after its outputs were compared with the network's.

    Args:
        network: a classifier in evaluation mode.
        example: images (B, 3, H, W), normalised.

    Raises:
        UserError: if the network cannot be exported, or what was exported computes something else.
    """
    path = folder / FORMATS[name][0]
    least = smallest_size(network, example.shape[2:])
    try:
        compute = _written(name, network, example, least, path)
    except Exception as error:  # whatever torch's exporter cannot do with a foreign network
        reason = str(error).strip().partition('\n')[0]
        raise UserError(
            f'{type(network).__name__} cannot be exported as {name} with torch {torch.__version__} '
            f'({type(error).__name__}: {reason}): leave out --{name}.'
        ) from error
    others = example[:1]  # a batch of another size, and images of another if that is possible
    if least is not None:
        others = nn.functional.pad(others, (0, 2 * _STRIDE, 0, _STRIDE))
    for images in (example, others):
        with torch.inference_mode():
            expected, found = network(images), compute(images)
        if (found - expected).abs().max() > _TOLERANCE * expected.abs().max():
            raise UserError(
                f'{path.name} computes other outputs than the network for images of '
                f'{tuple(images.shape[2:])} pixels: leave out --{name}.'
            )


def _written(
    name: str, network: nn.Module, example: torch.Tensor, least: int | None, path: Path
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Write the file of a format, and return what is read from it."""
    shapes: dict[int, object] = {0: torch.export.Dim('batch')}
    if least is not None:
        for axis, side in ((2, 'h'), (3, 'w')):
            shapes[axis] = _STRIDE * torch.export.Dim(side, min=least // _STRIDE, max=128)
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=(shapes,), strict=False)
    if name == 'torch-export':
        torch.export.save(program, path)
        return torch.export.load(path).module()
    # Imported here: it is not among the packages that the suite needs.
    import onnxruntime

    names = {'input_names': ['images'], 'output_names': ['logits']}
    torch.onnx.export(program, dynamo=True, verbose=False, **names).save(path)
    session = onnxruntime.InferenceSession(path)
    return lambda images: torch.from_numpy(session.run(None, {'images': images.numpy()})[0])
