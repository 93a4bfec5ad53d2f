"""Parameters and FLOPs of MAFormer in closed form, in every reading of its block.

The text leaves the block open in several places. A reading has one of `OPTIONS` for each of them.
What a framework has in common for all backbones is not counted. A count is an array (3, ...):
parameters, layer multiply-adds, total multiply-adds.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np

from reproduce.paper import Framework

Dims = Sequence[Any]  # whole numbers, or arrays of them
Reading = Mapping[str, str]  # an option for each name of OPTIONS

# The first of each is the model as built (`model/maformer.py`).
OPTIONS: Mapping[str, tuple[str, ...]] = {
    # Kernels of the convolutions that make tokens of the image, and that merge them.
    'stem': ('4x4', '7x7', '3x3 twice'),
    'merging': ('2x2', '3x3'),
    # The local attention of stages 1 and 2; cross-shaped stripes by their width in each of them.
    'local': (
        *('stripes of 1 and 2', 'stripes of 1 and 7', 'stripes of 2 and 4', 'stripes of 7'),
        'shifted windows of 7',
    ),
    # Where a depthwise convolution of the values is added to what attention makes of them.
    'lepe': ('stages 1 and 2', 'no stage', 'all stages'),
    # Whether each block adds a depthwise convolution of its input.
    'positions': ('none', 'convolution in each block'),
    # Tokens that GLD's layer reads and writes.
    'gld': ('14x14 to 7x7', '14x14 to 98', '7x7 to 24', '28x28 to 14x14', 'all tokens to half'),
    # What a token of stages 3 and 4 attends to.
    'attention': ('all tokens', 'windows of 14', 'windows of 7', 'stripes of 7 in stage 3'),
    # Whether Table 1 counts the head of token labeling.
    'auxiliary head': ('counted', 'not counted'),
}
BUILT: Reading = {name: options[0] for name, options in OPTIONS.items()}
WINDOWS: Reading = {**BUILT, 'attention': 'windows of 14'}  # for dense tasks, no cell excludes it

_CLASSES = 1000


def count(reading: Reading, framework: Framework, dims: Dims, depths: Dims) -> np.ndarray:
    """Return the count (3,) of a reading with these channels and blocks of the four stages.

    Channels may be arrays (N,), which gives counts (3, N).
    """
    parts = (
        part(*(reading[name] for name in names)) * (1 if stage is None else depths[stage])
        for names, part, stage in _parts(framework, dims)
    )
    return reduce(np.add, parts)


def count_all(framework: Framework, dims: Dims, depths: np.ndarray) -> np.ndarray:
    """Return counts (3, readings, D) of all combinations of the options, with D different depths.

    The readings are in the order of `itertools.product` over the options; `depths` is (D, 4).
    """
    shape = [len(options) for options in OPTIONS.values()]
    total = np.zeros([3, *shape, len(depths)])
    for names, part, stage in _parts(framework, dims):
        counts = [part(*chosen) for chosen in product(*(OPTIONS[name] for name in names))]
        of_names = [n if name in names else 1 for name, n in zip(OPTIONS, shape, strict=True)]
        of_part = np.reshape(np.transpose(counts), [3, *of_names, 1])
        total += of_part * (1 if stage is None else depths[:, stage])
    return total.reshape(3, -1, len(depths))


def _parts(
    framework: Framework, dims: Dims
) -> Iterator[tuple[tuple[str, ...], Callable[..., np.ndarray], int | None]]:
    """Yield each part's options, its count as a function of them, and the stage of a block."""
    image = framework.image
    yield ('stem', 'merging'), partial(_stem, dims, image), None
    for stage, C in enumerate(dims):
        of_stage = stage, C, *_size(image, stage)
        if stage < 2:
            yield ('local', 'lepe', 'positions', 'gld'), partial(_maf_block, *of_stage), stage
        else:
            yield ('lepe', 'positions', 'attention'), partial(_vit_block, *of_stage), stage
    yield ('auxiliary head',), partial(_frame, framework.name, dims, image), None


def _size(image: Dims, stage: int) -> tuple[int, ...]:
    """Return height and width of the map of a stage, counted from 0."""
    return tuple(ceil(side / (4 * 2**stage)) for side in image)


def _numbers(option: str) -> tuple[int, ...]:
    """Return the numbers in the name of an option."""
    return tuple(map(int, re.findall(r'\d+', option)))


def _count(params: int = 0, layer: int = 0, products: int = 0) -> np.ndarray:
    return np.stack(np.broadcast_arrays(params, layer, layer + products))


def _linear(inputs: int, outputs: int, tokens: int, bias: bool = True) -> np.ndarray:
    """Count a linear layer, or a convolution with as many inputs for each output."""
    return _count(inputs * outputs + bias * outputs, inputs * outputs * tokens)


def _norm(C: int) -> np.ndarray:
    return _count(2 * C)


def _products(C: int, queries: int, keys: int, windows: int = 1) -> np.ndarray:
    """Count the two matrix products of attention."""
    return _count(products=2 * C * queries * keys * windows)


def _attention(C: int, tokens: int) -> np.ndarray:
    """Count the norm and the projections of an attention layer, without its products."""
    return _norm(C) + _linear(C, 3 * C, tokens) + _linear(C, C, tokens)


def _mlp(C: int, tokens: int) -> np.ndarray:
    return _norm(C) + _linear(C, 4 * C, tokens) + _linear(4 * C, C, tokens)


def _stem(dims: Dims, image: Dims, stem: str, merging: str) -> np.ndarray:
    C, n = dims[0], prod(_size(image, 0))
    if stem == '3x3 twice':
        total = _linear(27, C // 2, 4 * n) + _norm(C // 2) + _linear(9 * C // 2, C, n)
    else:
        total = _linear(3 * prod(_numbers(stem)), C, n)
    for stage in (1, 2, 3):
        inputs = prod(_numbers(merging)) * dims[stage - 1]
        total = total + _linear(inputs, dims[stage], prod(_size(image, stage)))
    return total + sum(map(_norm, dims))


def _maf_block(
    stage: int, C: int, H: int, W: int, local: str, lepe: str, positions: str, gld: str
) -> np.ndarray:
    n = H * W
    total = _attention(C, n) + _mlp(C, n)  # eq. 1
    if local.startswith('stripes'):
        width = (_numbers(local) * 2)[stage]
        for across, along in ((W, H), (H, W)):
            stripes, inside = ceil(across / width), width * along
            total += _products(C // 2, inside, inside, stripes)
            total += _linear(9, C // 2, stripes * inside) * (lepe != 'no stage')
    else:
        total += _products(C, 49, 49, ceil(H / 7) * ceil(W / 7))
        total += _linear(9, C, n) * (lepe != 'no stage')
    # GLD, eq. 2: along the tokens, shared by the channels. A layer over all tokens has their number
    # at 224 x 224, since it has a fixed size.
    read = written = (56 // 2**stage) ** 2
    if gld == 'all tokens to half':
        written //= 2
    else:
        read, written = (prod(_numbers(tokens)) for tokens in gld.split(' to '))
    total += _count(read * written + written, read * written * C)
    # Fusion, eqs. 3 and 4, and its MLP.
    total += _norm(C) * 2 + _linear(C, C, n) + _linear(C, C, written) * 2
    total += _products(C, n, written) + _mlp(C, n)
    return total + _linear(9, C, n) * (positions != 'none')


def _vit_block(
    stage: int, C: int, H: int, W: int, lepe: str, positions: str, attention: str
) -> np.ndarray:
    n = H * W
    total = _attention(C, n) + _mlp(C, n)
    side = _numbers(attention)[0] if attention.startswith('windows') else max(H, W)
    if min(H, W) > side:
        total += _products(C, side**2, side**2, ceil(H / side) * ceil(W / side))
    elif attention == 'stripes of 7 in stage 3' and stage == 2:
        for across, along in ((W, H), (H, W)):
            total += _products(C // 2, 7 * along, 7 * along, ceil(across / 7))
    else:
        total += _products(C, n, n)
    return total + _linear(9, C, n) * ((lepe == 'all stages') + (positions != 'none'))


def _frame(framework: str, dims: Dims, image: Dims, auxiliary_head: str) -> np.ndarray:
    """Count what a framework adds in proportion to the channels of the backbone."""
    tokens = [prod(_size(image, stage)) for stage in range(4)]
    if framework == 'classifier':
        auxiliary = _linear(dims[3], _CLASSES, tokens[3]) * (auxiliary_head == 'counted')
        return _norm(dims[3]) + _linear(dims[3], _CLASSES, 1) + auxiliary
    total = reduce(np.add, map(_norm, dims))
    if framework != 'upernet':
        return total + sum(_linear(C, 256, n) for C, n in zip(dims, tokens, strict=True))
    inputs = [*dims[:3], *[dims[3]] * 4, 9 * dims[3]]  # lateral layers, pooled maps, bottleneck
    outputs = [*tokens[:3], 1, 4, 9, 36, tokens[3]]
    total += sum(_linear(C, 512, n, bias=False) for C, n in zip(inputs, outputs, strict=True))
    return total + _count(9 * dims[2] * 256)  # the auxiliary head, which inference does not run
