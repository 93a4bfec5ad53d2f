"""Focal Transformer against its released names and a slow computation."""

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
    padded,
    small_network,
)

from model.focal import checkpoint_filter_fn

TINY = {'dims': (8, 16, 24, 32), 'depths': (1, 1, 2, 1), 'heads': (2, 4, 2, 4)}


def tiny(**kwargs):
    return small_network('focal_tiny', TINY, **kwargs)


def released_shapes(dims, depths, heads, window, expand, windows, classes=1000):
    shapes = Shapes()
    shapes.layer('patch_embed.proj', (dims[0], 3, 4, 4))
    shapes.layer('patch_embed.norm', (dims[0],))
    for i, c in enumerate(dims):
        f, e = windows[i], expand[i]
        for j in range(depths[i]):
            block = f'layers.{i}.blocks.{j}'
            shapes.layer(f'{block}.norm1', (c,))
            shapes.layer(f'{block}.norm2', (c,))
            shapes.layer(f'{block}.mlp.fc1', (4 * c, c))
            shapes.layer(f'{block}.mlp.fc2', (c, 4 * c))
            shapes.layer(f'{block}.pool_layers.0', (1, window**2))
            shapes.layer(f'{block}.attn.qkv', (3 * c, c))
            shapes.layer(f'{block}.attn.proj', (c, c))
            table = f'{block}.attn.relative_position_bias_table'
            shapes[table] = ((2 * window - 1) ** 2, heads[i])
            shapes[f'{table}_to_windows.0'] = (heads[i], (window + f - 1) ** 2)
            shapes[f'{block}.attn.relative_position_index'] = (window**2, window**2)
            shapes[f'{block}.attn.relative_position_index_0'] = (window**2, f**2)
            if e:
                around = 4 * (window**2 - (window - e) ** 2)
                shapes[f'{table}_to_neighbors'] = (1, heads[i], window**2, around)
                shapes[f'{block}.attn.valid_ind_rolled'] = (around,)
        if i < 3:
            shapes.layer(f'layers.{i}.downsample.proj', (dims[i + 1], c, 2, 2))
            shapes.layer(f'layers.{i}.downsample.norm', (dims[i + 1],))
    shapes.layer('norm', (dims[3],))
    shapes.layer('head', (classes, dims[3]))
    return shapes


def test_released_names_cover_every_parameter():
    sizes = [128, 256, 512, 1024], (2, 2, 18, 2), (4, 8, 16, 32)
    shapes = released_shapes(*sizes, 7, (3, 3, 3, 0), (7, 5, 3, 1))
    check_names(shapes, checkpoint_filter_fn, 'focal_base')


def attention(x, state, block, heads, w, e, f):
    H, W, C = x.shape
    x = padded(x, w)
    rows, columns, d = x.shape[0] // w, x.shape[1] // w, C // heads
    q, k, v = linear(x, state, f'{block}.attn.qkv').split(C, -1)
    pool = state[f'{block}.pool_layers.0.weight'].view(w, w, 1)
    pooled = torch.stack(
        [
            torch.stack(
                [
                    (x[r * w : r * w + w, c * w : c * w + w] * pool).sum((0, 1))
                    + state[f'{block}.pool_layers.0.bias']
                    for c in range(columns)
                ]
            )
            for r in range(rows)
        ]
    )
    _, pooled_k, pooled_v = linear(pooled, state, f'{block}.attn.qkv').split(C, -1)
    name = f'{block}.attn.relative_position_bias_table'
    table, to_windows = state[name], state[f'{name}_to_windows.0']
    to_neighbors = state.get(f'{name}_to_neighbors')
    around = []  # offsets from the window's corner of what the four shifted maps add
    for dy in (e, -e) if e else ():
        for dx in (e, -e):
            for i in range(w):
                for j in range(w):
                    if not (0 <= i + dy < w and 0 <= j + dx < w):
                        around.append((i + dy, j + dx))
    out = torch.zeros_like(x)
    for r in range(rows):
        for c in range(columns):
            for i in range(w):
                for j in range(w):
                    for head in range(heads):
                        s = slice(head * d, head * d + d)
                        query = q[r * w + i, c * w + j, s] / math.sqrt(d)
                        scores, values = [], []
                        for y in range(w):
                            for x_ in range(w):
                                bias = table[(i - y + w - 1) * (2 * w - 1) + j - x_ + w - 1, head]
                                scores.append(query @ k[r * w + y, c * w + x_, s] + bias)
                                values.append(v[r * w + y, c * w + x_, s])
                        for n, (y, x_) in enumerate(around):  # the map wraps around
                            pixel = (r * w + y) % x.shape[0], (c * w + x_) % x.shape[1]
                            bias = to_neighbors[0, head, i * w + j, n]
                            scores.append(query @ k[pixel][s] + bias)
                            values.append(v[pixel][s])
                        for y in range(f):
                            for x_ in range(f):
                                window = r + y - f // 2, c + x_ - f // 2
                                if 0 <= window[0] < rows and 0 <= window[1] < columns:
                                    entry = (i - y + f - 1) * (w + f - 1) + j - x_ + f - 1
                                    bias = to_windows[head, entry]
                                    scores.append(query @ pooled_k[window][s] + bias)
                                    values.append(pooled_v[window][s])
                        weights = torch.softmax(torch.stack(scores), dim=0)
                        out[r * w + i, c * w + j, s] = weights @ torch.stack(values)
    return linear(out[:H, :W], state, f'{block}.attn.proj')


def patches(x, state, name, side):
    """The convolution of `side` x `side` patches, and its norm."""
    x = convolution(padded(x, side), state, f'{name}.proj', side)
    return layer_norm(x, state, f'{name}.norm')


def slow_focal(image, state, window, expand, windows):
    """(3, H, W) to the maps of the stages and the logits."""
    x = patches(image.permute(1, 2, 0), state, 'patch_embed', 4)
    maps = []
    for i, heads in enumerate(TINY['heads']):
        if i:
            x = patches(x, state, f'layers.{i - 1}.downsample', 2)
        for j in range(TINY['depths'][i]):
            block = f'layers.{i}.blocks.{j}'
            y = layer_norm(x, state, f'{block}.norm1')
            x = x + attention(y, state, block, heads, window, expand[i], windows[i])
            y = gelu(linear(layer_norm(x, state, f'{block}.norm2'), state, f'{block}.mlp.fc1'))
            x = x + linear(y, state, f'{block}.mlp.fc2')
        maps.append(x)
    return maps, linear(layer_norm(x, state, 'norm').mean((0, 1)), state, 'head')


@pytest.mark.parametrize(
    ('size', 'window', 'expand', 'windows'),
    [
        ((45, 50), 4, (2, 1, 2, 0), (3, 5, 3, 1)),
        pytest.param((45, 70), 3, (1, 1, 1, 1), (5, 3, 1, 3), marks=pytest.mark.slow),
    ],
)
def test_outputs_equal_a_loop_over_queries(size, window, expand, windows, tmp_path):
    state = released_shapes(
        **TINY, window=window, expand=expand, windows=windows, classes=5
    ).random()
    model = tiny(window_size=window, expand_sizes=expand, focal_windows=windows)
    model = load_release(model, {'model': state}, tmp_path / 'focal.pth')
    check_outputs(model, size, lambda image: slow_focal(image, state, window, expand, windows))
