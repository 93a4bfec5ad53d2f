"""Classifiers in formats that run without timm: ONNX and torch.export."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn as nn

from model.global_branch import AntialiasedResize
from model.maformer import MAFormer
from reproduce.base.errors import UserError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# Pixels of which the sides of images are multiples, where they are free in an exported network.
STRIDE = 32

# Outputs of an ONNX file and of the network differ by less, relative to the largest of them.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ExchangeFormat:
    """A format.

    Attributes:
        file: the name of the file.
        description: how the file is used.
        packages: those that are needed to write and check the file, besides torch.
    """

    file: str
    description: str
    packages: tuple[str, ...] = ()


FORMATS = {
    'onnx': ExchangeFormat(
        'model.onnx',
        'run it with onnxruntime; input `images`, output `logits`.',
        ('onnx', 'onnxscript', 'onnxruntime'),
    ),
    'torch-export': ExchangeFormat(
        'model.pt2', 'load it with `torch.export.load(FILE).module()`; it needs torch alone.'
    ),
}


def check(name: str) -> None:
    """Check that the packages that a format needs are installed.

    Raises:
        UserError: if they are not, or there is no such format.
    """
    if name not in FORMATS:
        raise UserError(f"there is no format '{name}': expected {' or '.join(FORMATS)}.")
    packages = FORMATS[name].packages
    if missing := [package for package in packages if find_spec(package) is None]:
        raise UserError(
            f'exporting as {name} takes {", ".join(missing)}, which is not installed: run '
            f'`pip install {" ".join(packages)}`.'
        )


def free_from(network: nn.Module, size: Sequence[int]) -> int | None:
    """Return the least side of images, in pixels, from which a network is exported for every size.

    None stands for a network that is exported for one size: any but MAFormer, whose stripes,
    windows or position tables are laid out for it; and a MAFormer for images so small that its maps
    are smaller than the grid they are resized to, which is another computation.

    Args:
        size: height and width of the images that it was measured with.
    """
    if not isinstance(network, MAFormer):
        return None
    grids = [g for m in network.modules() if isinstance(m, AntialiasedResize) for g in m.heights]
    stride_of_stage_2 = network.feature_info[1]['reduction']
    least = STRIDE * math.ceil(stride_of_stage_2 * max(grids, default=1) / STRIDE)
    return least if min(size) >= least and not any(side % STRIDE for side in size) else None


def input_sizes(network: nn.Module, size: Sequence[int]) -> str:
    """Return which images an exported network takes, as a phrase.

    Args:
        size: height and width of the images that it was measured with.
    """
    if (least := free_from(network, size)) is None:
        return f'batches of any size, images of {size[0]} x {size[1]} pixels'
    return (
        f'batches of any size, images whose height and width are {least} pixels or more and '
        f'multiples of {STRIDE}'
    )


def write(name: str, network: nn.Module, example: torch.Tensor, folder: Path) -> None:
    """Write a network in a format, after its outputs were compared with the network's.

    Args:
        network: a classifier in evaluation mode.
        example: images (B, 3, H, W), normalised.

    Raises:
        UserError: if the network cannot be exported, or what was exported computes something else.
    """
    path = folder / FORMATS[name].file
    try:
        program = _program(network, example)
        compute = _onnx(program, path) if name == 'onnx' else _saved(program, path)
    except Exception as error:  # whatever torch's exporter cannot do with a foreign network
        reason = str(error).strip().partition('\n')[0]
        raise UserError(
            f'{type(network).__name__} cannot be exported as {name} with torch {torch.__version__} '
            f'({type(error).__name__}: {reason}): leave out --{name}.'
        ) from error
    for images in _trials(network, example):
        with torch.inference_mode():
            expected = network(images)
            found = compute(images)
        if (found - expected).abs().max() > _TOLERANCE * expected.abs().max():
            raise UserError(
                f'{path.name} computes other outputs than the network for images of '
                f'{tuple(images.shape[2:])} pixels: leave out --{name}.'
            )


def _program(network: nn.Module, example: torch.Tensor) -> 'ExportedProgram':
    from torch.export import Dim, export

    shapes: dict[int, object] = {0: Dim('batch')}
    if (least := free_from(network, example.shape[2:])) is not None:
        for axis, name in ((2, 'h'), (3, 'w')):
            shapes[axis] = STRIDE * Dim(name, min=least // STRIDE, max=128)
    with torch.no_grad():
        return export(network, (example,), dynamic_shapes=(shapes,), strict=False)


def _trials(network: nn.Module, example: torch.Tensor) -> list[torch.Tensor]:
    """Return images to compare outputs with: of the example's size, and of another if need be."""
    _, channels, height, width = example.shape
    if free_from(network, (height, width)) is None:
        return [example, example[:1]]
    generator = torch.Generator().manual_seed(1)
    other = (1, channels, height + STRIDE, width + 2 * STRIDE)
    return [example, torch.randn(other, generator=generator)]


def _saved(program: 'ExportedProgram', path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    from torch.export import load, save

    save(program, path)
    return load(path).module()


def _onnx(program: 'ExportedProgram', path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    # Imported here: it is not among the packages that the suite needs.
    import onnxruntime

    names = {'input_names': ['images'], 'output_names': ['logits']}
    torch.onnx.export(program, dynamo=True, verbose=False, **names).save(path)
    session = onnxruntime.InferenceSession(path)
    return lambda images: torch.from_numpy(session.run(None, {'images': images.numpy()})[0])
