"""Shuffle Transformer against its printed figures, its released names, and a slow computation."""

import math

import pytest
import timm
import torch

from model.shuffle import checkpoint_filter_fn
from reproduce.complexity.flops import measure_system
from reproduce.systems import System
from reproduce.weights import parameters

TINY = {'dims': (8, 16, 24, 32), 'depths': (2, 2, 2, 2), 'heads': (2, 4, 2, 4)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny(window=3, **kwargs):
    return timm.create_model(
        'shuffle_tiny',
        embed_dims=TINY['dims'],
        depths=TINY['depths'],
        num_heads=TINY['heads'],
        window_size=window,
        stem_width=6,
        **{'num_classes': 5, **kwargs},
    ).eval()


@pytest.mark.parametrize(  # Table 4
    ('name', 'params_m', 'flops_g'),
    [('shuffle_tiny', 29, 4.6), ('shuffle_small', 50, 8.9), ('shuffle_base', 88, 15.6)],
)
def test_printed_complexity(name, params_m, flops_g):
    measured = measure_system(System(name=name, rows=[], model=name))
    assert measured.params / 1e6 == pytest.approx(params_m, rel=0.02)
    assert measured.total_flops / 1e9 == pytest.approx(flops_g, rel=0.02)


def released_shapes(dims, depths, heads, window=7, stem=32, classes=1000):
    """Names and shapes of a released checkpoint, from the architecture's description."""
    shapes = {}

    def layer(name, weight, bias=True):
        shapes[f'{name}.weight'] = weight
        if bias:
            shapes[f'{name}.bias'] = weight[:1]

    def batch_norm(name, c):
        layer(name, (c,))
        shapes[f'{name}.running_mean'] = shapes[f'{name}.running_var'] = (c,)
        shapes[f'{name}.num_batches_tracked'] = ()

    layer('to_token.conv1.0', (stem, 3, 3, 3))
    batch_norm('to_token.conv1.1', stem)
    layer('to_token.conv2.0', (dims[0], stem, 3, 3))
    batch_norm('to_token.conv2.1', dims[0])
    layer('to_token.conv3', (dims[0], dims[0], 1, 1))
    for stage, c in enumerate(dims, start=1):
        if stage > 1:
            batch_norm(f'stage{stage}.patch_partition.norm', dims[stage - 2])
            layer(f'stage{stage}.patch_partition.reduction', (c, dims[stage - 2], 2, 2), False)
        for i in range(depths[stage - 1]):
            block = f'stage{stage}.layers.{i // 2}.{i % 2}'
            for n in (1, 2, 3):
                batch_norm(f'{block}.norm{n}', c)
            layer(f'{block}.attn.to_qkv', (3 * c, c, 1, 1), False)
            layer(f'{block}.attn.proj', (c, c, 1, 1))
            table = ((2 * window - 1) ** 2, heads[stage - 1])
            shapes[f'{block}.attn.relative_position_bias_table'] = table
            shapes[f'{block}.attn.relative_position_index'] = (window**2, window**2)
            layer(f'{block}.local', (c, 1, window, window), False)
            layer(f'{block}.mlp.fc1', (4 * c, c, 1, 1))
            layer(f'{block}.mlp.fc2', (c, 4 * c, 1, 1))
    layer('head', (classes, dims[3]))
    return shapes


@pytest.mark.parametrize(
    ('name', 'dim', 'depths'),
    [
        ('shuffle_tiny', 96, (2, 2, 6, 2)),
        ('shuffle_small', 96, (2, 2, 18, 2)),
        ('shuffle_base', 128, (2, 2, 18, 2)),
    ],
)
def test_released_names_cover_every_parameter(name, dim, depths):
    dims = [dim * 2**i for i in range(4)]
    released = {
        name: torch.empty(shape, device='meta')
        for name, shape in released_shapes(dims, depths, [c // 32 for c in dims]).items()
    }
    with torch.device('meta'):
        ours = timm.create_model(name).state_dict()
    translated = checkpoint_filter_fn(released)
    assert {k: v.shape for k, v in translated.items()} == {k: v.shape for k, v in ours.items()}
    assert list(checkpoint_filter_fn(ours)) == list(ours)


def released(window=3):
    """Random weights under the released names, large enough that every one of them shows."""
    state = {}
    for name, shape in released_shapes(**TINY, window=window, stem=6, classes=5).items():
        scale = (2 / max(math.prod(shape[1:]), 4)) ** 0.5 if len(shape) > 1 else 0.5
        state[name] = torch.randn(shape, dtype=torch.double) * scale
        if name.endswith('running_var'):
            state[name] = 0.5 + state[name].abs()
        if name.endswith(('num_batches_tracked', 'relative_position_index')):
            state[name] = torch.zeros(shape, dtype=torch.long)
    return state


# An implementation of its own on channels-last maps: released names, loops over windows and pixels.


def convolution(x, state, name, stride=1, padding=0):
    """(H, W, C) to (h, w, C'), pixel by pixel; a kernel of one input channel is depthwise."""
    weight, bias = state[f'{name}.weight'], state.get(f'{name}.bias', 0)
    H, W, C = x.shape
    k = weight.shape[-1]
    equation = 'yxo,oyx->o' if weight.shape[1] == 1 else 'yxc,ocyx->o'
    weight = weight[:, 0] if weight.shape[1] == 1 else weight
    padded = x.new_zeros(H + 2 * padding, W + 2 * padding, C)
    padded[padding : padding + H, padding : padding + W] = x
    return torch.stack(
        [
            torch.stack(
                [
                    torch.einsum(equation, padded[y : y + k, x_ : x_ + k], weight) + bias
                    for x_ in range(0, W + 2 * padding - k + 1, stride)
                ]
            )
            for y in range(0, H + 2 * padding - k + 1, stride)
        ]
    )


def batch_norm(x, state, name):
    x = (x - state[f'{name}.running_mean']) / (state[f'{name}.running_var'] + 1e-5).sqrt()
    return x * state[f'{name}.weight'] + state[f'{name}.bias']


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
            if shuffled:  # every `rows`-th row and every `columns`-th column
                pixels = [
                    (row + i * rows, column + j * columns)
                    for i in range(window)
                    for j in range(window)
                ]
            else:
                pixels = [
                    (row * window + i, column * window + j)
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
                    bias = torch.stack(
                        [
                            table[
                                (n // window - m // window + window - 1) * (2 * window - 1)
                                + n % window
                                - m % window
                                + window
                                - 1,
                                head,
                            ]
                            for m in range(window**2)
                        ]
                    )
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
            H, W, C = x.shape
            even = x.new_zeros(H + H % 2, W + W % 2, C)
            even[:H, :W] = x
            x = convolution(even, state, f'stage{stage}.patch_partition.reduction', 2)
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


@pytest.mark.parametrize(('size', 'window'), [((48, 96), 3), ((45, 70), 3), ((40, 33), 5)])
def test_outputs_equal_a_loop_over_windows_and_pixels(size, window, tmp_path):
    state = released(window)
    torch.save({'model': state}, tmp_path / 'shuffle.pth')
    model = tiny(window).double()
    parameters.load(model, tmp_path / 'shuffle.pth')
    images = torch.randn(2, 3, *size, dtype=torch.double)
    with torch.no_grad():
        maps = model.forward_intermediates(images, intermediates_only=True, output_fmt='NHWC')
        logits = model(images)
        expected, expected_logits = slow_shuffle(images[1], state, window)
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours[1], theirs)
    torch.testing.assert_close(logits[1], expected_logits)


def test_all_blocks_of_a_stage_have_the_same_stochastic_depth():
    model = tiny(drop_path_rate=0.3)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3])
