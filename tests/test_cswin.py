"""CSWin against its released names and a slow computation."""

import math

import pytest
import torch
from slow_layers import (
    Shapes,
    check_names,
    check_outputs,
    convolution,
    gelu,
    layer_norm,
    linear,
    load_release,
    small_network,
)

from model.cswin import checkpoint_filter_fn

TINY = {'dims': (8, 16, 32, 64), 'depths': (1, 1, 2, 1), 'heads': (2, 4, 4, 8)}


def tiny():
    return small_network('cswin_tiny', TINY)


def released_shapes(dims, depths, classes=1000):
    shapes = Shapes()
    shapes.layer('stage1_conv_embed.0', (dims[0], 3, 7, 7))
    shapes.layer('stage1_conv_embed.2', (dims[0],))
    for stage, (c, depth) in enumerate(zip(dims, depths, strict=True), start=1):
        if stage > 1:
            shapes.layer(f'merge{stage - 1}.conv', (c, dims[stage - 2], 3, 3))
            shapes.layer(f'merge{stage - 1}.norm', (c,))
        branches = 1 if stage == 4 else 2
        for i in range(depth):
            block = f'stage{stage}.{i}'
            shapes.layer(f'{block}.qkv', (3 * c, c))
            shapes.layer(f'{block}.proj', (c, c))
            shapes.layer(f'{block}.norm1', (c,))
            shapes.layer(f'{block}.norm2', (c,))
            shapes.layer(f'{block}.mlp.fc1', (4 * c, c))
            shapes.layer(f'{block}.mlp.fc2', (c, 4 * c))
            for branch in range(branches):
                shapes.layer(f'{block}.attns.{branch}.get_v', (c // branches, 1, 3, 3))
    shapes.layer('norm', (dims[3],))
    shapes.layer('head', (classes, dims[3]))
    return shapes


def test_released_names_cover_every_parameter():
    shapes = released_shapes([96, 192, 384, 768], (2, 4, 32, 2))
    check_names(shapes, checkpoint_filter_fn, 'cswin_base')


def released():
    return released_shapes(TINY['dims'], TINY['depths'], classes=5).random()


def lines(side, width):
    """Groups of `width` neighbouring lines; those beyond the map, on both ends, pad it."""
    before = (-side % width) // 2
    return [range(start, start + width) for start in range(-before, side, width)]


def stripe_attention(q, k, v, stripe, weight, bias):
    """One head in one stripe, a list of pixels with None for padding: what it adds where."""
    pixels = [p for p in stripe if p is not None]
    padding = len(stripe) - len(pixels)
    out = {}
    for y, x in pixels:
        scores = torch.stack([q[y, x] @ k[p] for p in pixels]) / math.sqrt(q.shape[-1])
        weights = scores.exp()
        total = weights.sum() + padding  # a zero key's score is 0, and its value adds nothing
        attended = sum(w * v[p] for w, p in zip(weights, pixels, strict=True)) / total
        position = bias.clone()
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (y + dy, x + dx) in pixels:
                    position += weight[:, 0, 1 + dy, 1 + dx] * v[y + dy, x + dx]
        out[y, x] = attended + position
    return out


def attention(x, state, block, heads, width):
    """Cross-shaped attention, or over all tokens where `width` is None."""
    H, W, C = x.shape
    q, k, v = linear(x, state, f'{block}.qkv').split(C, -1)
    d = C // heads
    everywhere = [[(y, x_) for y in range(H) for x_ in range(W)]]
    out = torch.zeros_like(x)
    for head in range(heads):
        branch, first = 0, 0
        if width is None:
            stripes = everywhere
        elif head < heads // 2:
            stripes = [
                [(y, x_) if 0 <= x_ < W else None for y in range(H) for x_ in group]
                for group in lines(W, width)
            ]
        else:
            branch, first = 1, C // 2
            stripes = [
                [(y, x_) if 0 <= y < H else None for y in group for x_ in range(W)]
                for group in lines(H, width)
            ]
        channels = slice(head * d, head * d + d)
        kernel = slice(head * d - first, head * d + d - first)
        lepe = f'{block}.attns.{branch}.get_v'
        weight, bias = state[f'{lepe}.weight'][kernel], state[f'{lepe}.bias'][kernel]
        for stripe in stripes:
            added = stripe_attention(
                q[..., channels], k[..., channels], v[..., channels], stripe, weight, bias
            )
            for (y, x_), value in added.items():
                out[y, x_, channels] = value
    return linear(out, state, f'{block}.proj')


def slow_cswin(image, state):
    """(3, H, W) to the maps of the stages and the logits."""
    x = convolution(image.permute(1, 2, 0), state, 'stage1_conv_embed.0', 4, 2)
    x = layer_norm(x, state, 'stage1_conv_embed.2')
    maps = []
    for stage, width in enumerate((1, 2, 7, None)):
        if stage:
            x = convolution(x, state, f'merge{stage}.conv', 2, 1)
            x = layer_norm(x, state, f'merge{stage}.norm')
        for i in range(TINY['depths'][stage]):
            block = f'stage{stage + 1}.{i}'
            y = layer_norm(x, state, f'{block}.norm1')
            x = x + attention(y, state, block, TINY['heads'][stage], width)
            y = gelu(linear(layer_norm(x, state, f'{block}.norm2'), state, f'{block}.mlp.fc1'))
            x = x + linear(y, state, f'{block}.mlp.fc2')
        maps.append(x)
    return maps, linear(layer_norm(x, state, 'norm').mean((0, 1)), state, 'head')


@pytest.mark.parametrize('size', [(61, 83), pytest.param((32, 50), marks=pytest.mark.slow)])
def test_outputs_equal_a_loop_over_stripes_heads_and_pixels(size, tmp_path):
    state = released()
    model = load_release(tiny(), {'epoch': 300, 'state_dict_ema': state}, tmp_path / 'cswin.pth')
    check_outputs(model, size, lambda image: slow_cswin(image, state))
