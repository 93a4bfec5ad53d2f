"""Shuffle Transformer against its released names and a slow computation."""

import math

import pytest
import torch
from slow_layers import (
    Shapes,
    batch_norm,
    check_names,
    check_outputs,
    convolution,
    load_release,
    padded,
    small_network,
)

from model.shuffle import checkpoint_filter_fn

TINY = {'dims': (8, 16, 24, 32), 'depths': (2, 2, 2, 2), 'heads': (2, 4, 2, 4)}


def tiny(window=3, **kwargs):
    return small_network('shuffle_tiny', TINY, window_size=window, stem_width=6, **kwargs)


def released_shapes(dims, depths, heads, window=7, stem=32, classes=1000):
    shapes = Shapes()
    shapes.layer('to_token.conv1.0', (stem, 3, 3, 3))
    shapes.batch_norm('to_token.conv1.1', stem)
    shapes.layer('to_token.conv2.0', (dims[0], stem, 3, 3))
    shapes.batch_norm('to_token.conv2.1', dims[0])
    shapes.layer('to_token.conv3', (dims[0], dims[0], 1, 1))
    for stage, c in enumerate(dims, start=1):
        if stage > 1:
            shapes.batch_norm(f'stage{stage}.patch_partition.norm', dims[stage - 2])
            shapes.layer(
                f'stage{stage}.patch_partition.reduction', (c, dims[stage - 2], 2, 2), False
            )
        for i in range(depths[stage - 1]):
            block = f'stage{stage}.layers.{i // 2}.{i % 2}'
            for n in (1, 2, 3):
                shapes.batch_norm(f'{block}.norm{n}', c)
            shapes.layer(f'{block}.attn.to_qkv', (3 * c, c, 1, 1), False)
            shapes.layer(f'{block}.attn.proj', (c, c, 1, 1))
            table = ((2 * window - 1) ** 2, heads[stage - 1])
            shapes[f'{block}.attn.relative_position_bias_table'] = table
            shapes[f'{block}.attn.relative_position_index'] = (window**2, window**2)
            shapes.layer(f'{block}.local', (c, 1, window, window))
            shapes.layer(f'{block}.mlp.fc1', (4 * c, c, 1, 1))
            shapes.layer(f'{block}.mlp.fc2', (c, 4 * c, 1, 1))
    shapes.layer('head', (classes, dims[3]))
    return shapes


def test_released_names_cover_every_parameter():
    shapes = released_shapes([128, 256, 512, 1024], (2, 2, 18, 2), (4, 8, 16, 32))
    check_names(shapes, checkpoint_filter_fn, 'shuffle_base')


def attention(x, state, block, heads, window, shuffled):
    H, W, C = x.shape
    q, k, v = (x @ state[f'{block}.attn.to_qkv.weight'][:, :, 0, 0].T).split(C, dim=-1)
    table = state[f'{block}.attn.relative_position_bias_table']
    d = C // heads
    rows, columns = -(-H // window), -(-W // window)
    zero = x.new_zeros(d)
    out = torch.zeros_like(x)
    for row in range(rows):
        for column in range(columns):
            # Shuffled, a window has every `rows`-th row and every `columns`-th column.
            pixels = [
                (row + i * rows, column + j * columns)
                if shuffled
                else (row * window + i, column * window + j)
                for i in range(window)
                for j in range(window)
            ]
            inside = {(y, x_) for y, x_ in pixels if y < H and x_ < W}
            for head in range(heads):
                s = slice(head * d, head * d + d)
                keys = torch.stack([k[p][s] if p in inside else zero for p in pixels])
                values = torch.stack([v[p][s] if p in inside else zero for p in pixels])
                for n, pixel in enumerate(pixels):
                    if pixel not in inside:
                        continue
                    side = 2 * window - 1  # of the table of differences
                    entries = [
                        (n // window - m // window + window - 1) * side
                        + (n % window - m % window + window - 1)
                        for m in range(window**2)
                    ]
                    bias = table[entries, head]
                    scores = keys @ q[pixel][s] / math.sqrt(d) + bias
                    out[pixel][s] = torch.softmax(scores, dim=0) @ values
    return convolution(out, state, f'{block}.attn.proj')


def slow_shuffle(image, state, window):
    """(3, H, W) to the maps of the stages and the logits."""
    x = image.permute(1, 2, 0)
    for i in (1, 2):
        x = convolution(x, state, f'to_token.conv{i}.0', 2, 1)
        x = batch_norm(x, state, f'to_token.conv{i}.1').clamp(0, 6)
    x = convolution(x, state, 'to_token.conv3')
    maps = []
    for stage in range(1, 5):
        if stage > 1:
            x = batch_norm(x, state, f'stage{stage}.patch_partition.norm')
            x = convolution(padded(x, 2), state, f'stage{stage}.patch_partition.reduction', 2)
        for i in range(TINY['depths'][stage - 1]):
            block = f'stage{stage}.layers.{i // 2}.{i % 2}'
            heads = TINY['heads'][stage - 1]
            y = batch_norm(x, state, f'{block}.norm1')
            x = x + attention(y, state, block, heads, window, i % 2 == 1)
            y = batch_norm(x, state, f'{block}.norm2')
            x = x + convolution(y, state, f'{block}.local', padding=window // 2)
            y = batch_norm(x, state, f'{block}.norm3')
            y = convolution(y, state, f'{block}.mlp.fc1').clamp(0, 6)
            x = x + convolution(y, state, f'{block}.mlp.fc2')
        maps.append(x)
    return maps, state['head.weight'] @ x.mean((0, 1)) + state['head.bias']


@pytest.mark.parametrize(
    ('size', 'window'), [((40, 33), 5), pytest.param((48, 96), 3, marks=pytest.mark.slow)]
)
def test_outputs_equal_a_loop_over_windows_and_pixels(size, window, tmp_path):
    state = released_shapes(**TINY, window=window, stem=6, classes=5).random()
    model = load_release(tiny(window), {'model': state}, tmp_path / 'shuffle.pth')
    check_outputs(model, size, lambda image: slow_shuffle(image, state, window))
