"""DS-Net against its released names and a slow computation."""

import math
import pickle

import pytest
import torch
from slow_layers import (
    Shapes,
    batch_norm,
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

from model.dsnet import checkpoint_filter_fn
from reproduce.base.errors import UserError
from reproduce.weights import parameters

TINY = {'dims': (8, 16, 24, 32), 'depths': (1, 2, 1, 1), 'heads': (1, 2, 3, 4)}


def tiny():
    return small_network('dsnet_tiny', TINY)


def released_shapes(dims, depths, classes=1000):
    shapes = Shapes()
    for stage, dim in enumerate(dims, start=1):
        before, patch = (dims[stage - 2], 2) if stage > 1 else (3, 4)
        shapes.layer(f'patch_embed{stage}.proj', (dim, before, patch, patch))
        half = dim // 2
        for i in range(depths[stage - 1]):
            block = f'blocks{stage}.{i}'
            shapes.layer(f'{block}.pos_embed', (dim, 1, 3, 3))
            for name, c in (('norm1', dim), ('norm2', dim), ('norm_conv1', half)):
                shapes.batch_norm(f'{block}.{name}', c)
            shapes.batch_norm(f'{block}.norm_conv2', half)
            shapes.layer(f'{block}.conv1', (dim, dim, 1, 1))
            shapes.layer(f'{block}.conv2', (dim, dim, 1, 1))
            shapes.layer(f'{block}.conv', (half, 1, 3, 3))
            shapes.layer(f'{block}.norm_sa1', (half,))
            shapes.layer(f'{block}.norm_sa2', (half,))
            shapes.layer(f'{block}.channel_up', (3 * half, half))
            shapes.layer(f'{block}.cross_channel_up_conv', (3 * half, half, 1, 1))
            shapes.layer(f'{block}.cross_channel_up_sa', (3 * half, half))
            shapes.layer(f'{block}.fuse_channel_conv', (half, half))
            shapes.layer(f'{block}.fuse_channel_sa', (half, half))
            shapes.layer(f'{block}.mlp.fc1', (4 * dim, dim, 1, 1))
            shapes.layer(f'{block}.mlp.fc2', (dim, 4 * dim, 1, 1))
    shapes.batch_norm('norm', dims[3])
    shapes.layer('head', (classes, dims[3]))
    return shapes


def test_released_names_cover_every_parameter():
    shapes = released_shapes((64, 128, 320, 512), (3, 4, 28, 3))
    check_names(shapes, checkpoint_filter_fn, 'dsnet_base')


def released():
    return released_shapes(TINY['dims'], TINY['depths'], classes=5).random()


def of_paddle(state):
    """The same weights as PaddlePaddle keeps them: (inputs, outputs) in linear layers."""
    paddle = {}
    for name, value in state.items():
        if name.endswith('.num_batches_tracked'):
            continue
        name = name.replace('.running_mean', '._mean').replace('.running_var', '._variance')
        paddle[name] = (f'tensor_{name}', (value.T if value.dim() == 2 else value).numpy())
    return paddle | {'StructuredToParameterName@@': {name: name for name in paddle}}


def test_paddles_release_is_the_same_network(tmp_path):
    state = released()
    with (tmp_path / 'dsnet.pdparams').open('wb') as file:
        pickle.dump(of_paddle(state), file, 2)
    model = tiny().double()
    parameters.load(model, tmp_path / 'dsnet.pdparams')
    for name, value in checkpoint_filter_fn(state).items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_a_file_of_paddle_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / 'dsnet.pdparams'
    path.write_bytes(b"cbuiltins\nprint\n(S'run'\ntR.")
    with pytest.raises(UserError, match=r'would run code'):
        parameters.load(tiny(), path)
    path.write_bytes(pickle.dumps({'norm.weight': 'text'}))
    with pytest.raises(UserError, match='truncated or damaged'):
        parameters.load(tiny(), path)


def resized(x, height, width):
    """Bilinear interpolation between the centres of pixels, without antialiasing."""
    H, W, C = x.shape

    def neighbours(i, size, before):
        position = max((i + 0.5) * before / size - 0.5, 0)
        low = min(math.floor(position), before - 1)
        return low, min(low + 1, before - 1), position - low

    out = x.new_zeros(height, width, C)
    for i in range(height):
        top, bottom, dy = neighbours(i, height, H)
        for j in range(width):
            left, right, dx = neighbours(j, width, W)
            upper = x[top, left] * (1 - dx) + x[top, right] * dx
            lower = x[bottom, left] * (1 - dx) + x[bottom, right] * dx
            out[i, j] = upper * (1 - dy) + lower * dy
    return out


def attention(queries, keys, values, heads):
    """Query by query, head by head: (N, c), (M, c), (M, c) to (N, c)."""
    c = queries.shape[-1]
    d = c // heads
    out = torch.zeros_like(queries)
    for head in range(heads):
        s = slice(head * d, head * d + d)
        for n, query in enumerate(queries):
            scores = torch.stack([query[s] @ key[s] for key in keys]) / math.sqrt(d)
            out[n, s] = torch.softmax(scores, dim=0) @ values[:, s]
    return out


def block(x, state, name, heads, reduction):
    H, W, C = x.shape
    c = C // 2
    x = x + convolution(x, state, f'{name}.pos_embed', padding=1)
    y = convolution(batch_norm(x, state, f'{name}.norm1'), state, f'{name}.conv1')
    whole, local = y[..., :c], y[..., c:]
    normed = batch_norm(local, state, f'{name}.norm_conv1')
    local = local + convolution(normed, state, f'{name}.conv', padding=1)

    h, w = max(H // reduction, 1), max(W // reduction, 1)
    tokens = resized(whole, h, w).reshape(-1, c)
    qkv = linear(layer_norm(tokens, state, f'{name}.norm_sa1'), state, f'{name}.channel_up')
    tokens = tokens + attention(*qkv.split(c, -1), heads)

    normed = batch_norm(local, state, f'{name}.norm_conv2')
    qkv = convolution(normed, state, f'{name}.cross_channel_up_conv').reshape(-1, 3 * c)
    ql, kl, vl = qkv.split(c, -1)
    normed = layer_norm(tokens, state, f'{name}.norm_sa2')
    qg, kg, vg = linear(normed, state, f'{name}.cross_channel_up_sa').split(c, -1)
    to_local = linear(attention(ql, kg, vg, heads), state, f'{name}.fuse_channel_conv')
    local = local + to_local.view(H, W, c)
    tokens = tokens + linear(attention(qg, kl, vl, heads), state, f'{name}.fuse_channel_sa')

    z = torch.cat([local, resized(tokens.view(h, w, c), H, W)], dim=-1)
    x = x + convolution(z, state, f'{name}.conv2')
    y = convolution(batch_norm(x, state, f'{name}.norm2'), state, f'{name}.mlp.fc1')
    return x + convolution(gelu(y), state, f'{name}.mlp.fc2')


def slow_dsnet(image, state):
    """(3, H, W) to the maps of the stages and the logits."""
    x = image.permute(1, 2, 0)
    maps = []
    for stage, reduction in enumerate((8, 4, 2, 2), start=1):
        patch = 4 if stage == 1 else 2
        x = convolution(padded(x, patch), state, f'patch_embed{stage}.proj', patch)
        for i in range(TINY['depths'][stage - 1]):
            x = block(x, state, f'blocks{stage}.{i}', TINY['heads'][stage - 1], reduction)
        maps.append(x)
    return maps, linear(batch_norm(x, state, 'norm').mean((0, 1)), state, 'head')


@pytest.mark.parametrize('size', [(45, 70), pytest.param((64, 96), marks=pytest.mark.slow)])
def test_outputs_equal_a_loop_over_queries_and_pixels(size, tmp_path):
    state = released()
    model = load_release(tiny(), {'model': state}, tmp_path / 'dsnet.pth')
    check_outputs(model, size, lambda image: slow_dsnet(image, state))
