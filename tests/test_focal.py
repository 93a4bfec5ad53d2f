"""Focal Transformer against its printed figures, its released names, and a slow computation."""

import math

import pytest
import timm
import torch

from model.focal import checkpoint_filter_fn
from reproduce.complexity.flops import measure_system
from reproduce.systems import System
from reproduce.weights import parameters

TINY = {'dims': (8, 16, 24, 32), 'depths': (1, 1, 2, 1), 'heads': (2, 4, 2, 4)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny(**kwargs):
    return timm.create_model(
        'focal_tiny',
        embed_dims=TINY['dims'],
        depths=TINY['depths'],
        num_heads=TINY['heads'],
        **{'num_classes': 5, **kwargs},
    ).eval()


@pytest.mark.parametrize(  # M as in Table 4, one digit more; G of the released code
    ('name', 'params_m', 'flops_g'),
    [('focal_tiny', 28.9, 4.9), ('focal_small', 51.1, 9.4), ('focal_base', 89.8, 16.4)],
)
def test_printed_complexity(name, params_m, flops_g):
    measured = measure_system(System(name=name, rows=[], model=name))
    assert measured.params / 1e6 == pytest.approx(params_m, abs=0.05)
    assert measured.total_flops / 1e9 == pytest.approx(flops_g, rel=0.02)


def released_shapes(dims, depths, heads, window, expand, windows, classes=1000):
    """Names and shapes of a released checkpoint, from the architecture's description."""
    shapes = {}

    def layer(name, weight):
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = weight, weight[:1]

    layer('patch_embed.proj', (dims[0], 3, 4, 4))
    layer('patch_embed.norm', (dims[0],))
    for i, c in enumerate(dims):
        f, e = windows[i], expand[i]
        for j in range(depths[i]):
            block = f'layers.{i}.blocks.{j}'
            layer(f'{block}.norm1', (c,))
            layer(f'{block}.norm2', (c,))
            layer(f'{block}.mlp.fc1', (4 * c, c))
            layer(f'{block}.mlp.fc2', (c, 4 * c))
            layer(f'{block}.pool_layers.0', (1, window**2))
            layer(f'{block}.attn.qkv', (3 * c, c))
            layer(f'{block}.attn.proj', (c, c))
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
            layer(f'layers.{i}.downsample.proj', (dims[i + 1], c, 2, 2))
            layer(f'layers.{i}.downsample.norm', (dims[i + 1],))
    layer('norm', (dims[3],))
    layer('head', (classes, dims[3]))
    return shapes


@pytest.mark.parametrize(
    ('name', 'dim', 'depths'),
    [
        ('focal_tiny', 96, (2, 2, 6, 2)),
        ('focal_small', 96, (2, 2, 18, 2)),
        ('focal_base', 128, (2, 2, 18, 2)),
    ],
)
def test_released_names_cover_every_parameter(name, dim, depths):
    dims = [dim * 2**i for i in range(4)]
    heads = [c // 32 for c in dims]
    shapes = released_shapes(dims, depths, heads, 7, (3, 3, 3, 0), (7, 5, 3, 1))
    released = {name: torch.empty(shape, device='meta') for name, shape in shapes.items()}
    with torch.device('meta'):
        ours = timm.create_model(name).state_dict()
    translated = checkpoint_filter_fn(released)
    assert {k: v.shape for k, v in translated.items()} == {k: v.shape for k, v in ours.items()}
    assert list(checkpoint_filter_fn(ours)) == list(ours)


def released(window, expand, windows):
    """Random weights under the released names, large enough that every one of them shows."""
    shapes = released_shapes(**TINY, window=window, expand=expand, windows=windows, classes=5)
    state = {}
    for name, shape in shapes.items():
        matrix = len(shape) > 1 and 'table' not in name
        scale = (2 / max(math.prod(shape[1:]), 4)) ** 0.5 if matrix else 0.5
        state[name] = torch.randn(shape, dtype=torch.double) * scale
        if 'norm' in name and name.endswith('weight'):
            state[name] += 1
    return state


# An implementation of its own on channels-last maps: released names, query by query.


def linear(x, state, name):
    return x @ state[f'{name}.weight'].T + state[f'{name}.bias']


def norm(x, state, name):
    mean = x.mean(-1, keepdim=True)
    x = (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return x * state[f'{name}.weight'] + state[f'{name}.bias']


def padded(x, multiple):
    H, W, C = x.shape
    out = x.new_zeros(H + -H % multiple, W + -W % multiple, C)
    out[:H, :W] = x
    return out


def patches(x, state, name, side):
    """The convolution of `side` x `side` patches, and its norm."""
    x = padded(x, side)
    weight, bias = state[f'{name}.proj.weight'], state[f'{name}.proj.bias']
    out = [
        [
            torch.einsum('yxc,ocyx->o', x[y : y + side, x_ : x_ + side], weight) + bias
            for x_ in range(0, x.shape[1], side)
        ]
        for y in range(0, x.shape[0], side)
    ]
    return norm(torch.stack([torch.stack(row) for row in out]), state, f'{name}.norm')


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
                        for n, (y, x_) in enumerate(around):  # the map goes on at its other end
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


def slow_focal(image, state, window, expand, windows):
    """(3, H, W) to the maps of the stages and the logits."""
    x = patches(image.permute(1, 2, 0), state, 'patch_embed', 4)
    maps = []
    for i, heads in enumerate(TINY['heads']):
        if i:
            x = patches(x, state, f'layers.{i - 1}.downsample', 2)
        for j in range(TINY['depths'][i]):
            block = f'layers.{i}.blocks.{j}'
            y = norm(x, state, f'{block}.norm1')
            x = x + attention(y, state, block, heads, window, expand[i], windows[i])
            y = linear(norm(x, state, f'{block}.norm2'), state, f'{block}.mlp.fc1')
            y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
            x = x + linear(y, state, f'{block}.mlp.fc2')
        maps.append(x)
    return maps, linear(norm(x, state, 'norm').mean((0, 1)), state, 'head')


@pytest.mark.parametrize(
    ('size', 'window', 'expand', 'windows'),
    [
        ((48, 64), 4, (2, 1, 2, 0), (3, 5, 3, 1)),
        ((45, 70), 3, (1, 1, 1, 1), (5, 3, 1, 3)),
    ],
)
def test_outputs_equal_a_loop_over_queries(size, window, expand, windows, tmp_path):
    state = released(window, expand, windows)
    torch.save({'model': state}, tmp_path / 'focal.pth')
    model = tiny(window_size=window, expand_sizes=expand, focal_windows=windows).double()
    parameters.load(model, tmp_path / 'focal.pth')
    images = torch.randn(2, 3, *size, dtype=torch.double)
    with torch.no_grad():
        maps = model.forward_intermediates(images, intermediates_only=True, output_fmt='NHWC')
        logits = model(images)
        expected, expected_logits = slow_focal(images[1], state, window, expand, windows)
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours[1], theirs)
    torch.testing.assert_close(logits[1], expected_logits)


def test_bias_tables_have_no_weight_decay():
    assert len(tiny().no_weight_decay()) == 3 * 4 + 2  # stage 4 has no neighbours to look at
