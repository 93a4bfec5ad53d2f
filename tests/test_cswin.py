"""CSWin against its printed figures, its released names, and a slow computation of its own."""

import math

import pytest
import timm
import torch

from model.cswin import checkpoint_filter_fn
from reproduce.base.errors import UserError
from reproduce.complexity.flops import measure_system
from reproduce.systems import System
from reproduce.weights import parameters

TINY = {'dims': (8, 16, 32, 64), 'depths': (1, 1, 2, 1), 'heads': (2, 4, 4, 8)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny(**kwargs):
    return timm.create_model(
        'cswin_tiny',
        embed_dims=TINY['dims'],
        depths=TINY['depths'],
        num_heads=TINY['heads'],
        **{'num_classes': 5, **kwargs},
    ).eval()


# Table 1 and Section 4 of CSWin's paper: 23 M and 4.3 G, 35 M and 6.9 G, 78 M and 15.0 G; the
# parameters of the tiny one to two digits more from its released code.
@pytest.mark.parametrize(
    ('name', 'params_m', 'flops_g'),
    [('cswin_tiny', 22.32, 4.3), ('cswin_small', 35, 6.9), ('cswin_base', 78, 15.0)],
)
def test_printed_complexity(name, params_m, flops_g):
    measured = measure_system(System(name=name, rows=[], model=name))
    assert measured.params / 1e6 == pytest.approx(params_m, rel=0.011)
    assert measured.total_flops / 1e9 == pytest.approx(flops_g, rel=0.015)
    if name == 'cswin_tiny':
        assert round(measured.params / 1e6, 2) == 22.32
        assert round(measured.total_flops / 1e9, 2) == 4.32


def released_shapes(dims, depths, classes=1000):
    """Names and shapes of a released checkpoint, from the architecture's description."""
    shapes = {
        'stage1_conv_embed.0.weight': (dims[0], 3, 7, 7),
        'stage1_conv_embed.0.bias': (dims[0],),
        'norm.weight': (dims[3],),
        'norm.bias': (dims[3],),
        'head.weight': (classes, dims[3]),
        'head.bias': (classes,),
    }

    def layer(name, weight):
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = weight, weight[:1]

    layer('stage1_conv_embed.2', (dims[0],))
    for stage, (c, depth) in enumerate(zip(dims, depths, strict=True), start=1):
        if stage > 1:
            layer(f'merge{stage - 1}.conv', (c, dims[stage - 2], 3, 3))
            layer(f'merge{stage - 1}.norm', (c,))
        branches = 1 if stage == 4 else 2
        for i in range(depth):
            block = f'stage{stage}.{i}'
            layer(f'{block}.qkv', (3 * c, c))
            layer(f'{block}.proj', (c, c))
            layer(f'{block}.norm1', (c,))
            layer(f'{block}.norm2', (c,))
            layer(f'{block}.mlp.fc1', (4 * c, c))
            layer(f'{block}.mlp.fc2', (c, 4 * c))
            for branch in range(branches):
                layer(f'{block}.attns.{branch}.get_v', (c // branches, 1, 3, 3))
    return shapes


@pytest.mark.parametrize(
    ('name', 'dims', 'depths'),
    [
        ('cswin_tiny', (64, 128, 256, 512), (1, 2, 21, 1)),
        ('cswin_small', (64, 128, 256, 512), (2, 4, 32, 2)),
        ('cswin_base', (96, 192, 384, 768), (2, 4, 32, 2)),
    ],
)
def test_released_names_cover_every_parameter(name, dims, depths):
    released = {
        name: torch.empty(shape, device='meta')
        for name, shape in released_shapes(dims, depths).items()
    }
    with torch.device('meta'):
        ours = timm.create_model(name).state_dict()
    translated = checkpoint_filter_fn(released)
    assert {k: v.shape for k, v in translated.items()} == {k: v.shape for k, v in ours.items()}
    assert list(checkpoint_filter_fn(ours)) == list(ours)


def released(classes=5):
    """Random weights under the released names, large enough that every one of them shows."""
    shapes = released_shapes(TINY['dims'], TINY['depths'], classes)
    state = {}
    for name, shape in shapes.items():
        fan_in = math.prod(shape[1:])
        state[name] = torch.randn(shape, dtype=torch.double) * (2 / max(fan_in, 4)) ** 0.5
        if 'norm' in name and name.endswith('weight'):
            state[name] += 1
    return state


@pytest.mark.parametrize('key', ['state_dict', 'state_dict_ema'])
def test_a_released_checkpoint_loads_from_its_file(key, tmp_path):
    state = released()
    torch.save({'epoch': 300, key: state}, tmp_path / 'cswin.pth')
    model = tiny().double()
    parameters.load(model, tmp_path / 'cswin.pth')
    loaded = model.state_dict()
    assert torch.equal(loaded['stages.2.blocks.1.attention.lepe.1.weight'], state[LEPE])
    assert len(loaded) == len(state)
    assert sum(v.sum() for v in loaded.values()).item() == pytest.approx(
        sum(v.sum() for v in state.values()).item()
    )


LEPE = 'stage3.1.attns.1.get_v.weight'


def test_a_checkpoint_of_another_size_is_refused_by_name(tmp_path):
    state = released()
    state[LEPE] = state[LEPE][:8]
    torch.save(state, tmp_path / 'cswin.pth')
    with pytest.raises(UserError, match='is not one of cswin_tiny'):
        parameters.load(tiny(), tmp_path / 'cswin.pth')


# An implementation of its own: released names, loops over heads, stripes and pixels.


def linear(x, state, name):
    return x @ state[f'{name}.weight'].T + state[f'{name}.bias']


def norm(x, state, name):
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    x = (x - mean) / (variance + 1e-5).sqrt()
    return x * state[f'{name}.weight'] + state[f'{name}.bias']


def convolution(x, state, name, stride, padding):
    """(H, W, C) to (h, w, C'), pixel by pixel."""
    weight, bias = state[f'{name}.weight'], state[f'{name}.bias']
    H, W, C = x.shape
    k = weight.shape[-1]
    padded = x.new_zeros(H + 2 * padding, W + 2 * padding, C)
    padded[padding : padding + H, padding : padding + W] = x
    rows = range(0, H + 2 * padding - k + 1, stride)
    columns = range(0, W + 2 * padding - k + 1, stride)
    return torch.stack(
        [
            torch.stack(
                [
                    torch.einsum('yxc,ocyx->o', padded[y : y + k, x_ : x_ + k], weight) + bias
                    for x_ in columns
                ]
            )
            for y in rows
        ]
    )


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


def slow_cswin(image, state, depths, heads, widths):
    """(3, H, W) to the maps of the stages and the logits."""
    x = convolution(image.permute(1, 2, 0), state, 'stage1_conv_embed.0', 4, 2)
    x = norm(x, state, 'stage1_conv_embed.2')
    maps = []
    for stage in range(4):
        if stage:
            x = convolution(x, state, f'merge{stage}.conv', 2, 1)
            x = norm(x, state, f'merge{stage}.norm')
        for i in range(depths[stage]):
            block = f'stage{stage + 1}.{i}'
            y = norm(x, state, f'{block}.norm1')
            x = x + attention(y, state, block, heads[stage], widths[stage])
            y = linear(norm(x, state, f'{block}.norm2'), state, f'{block}.mlp.fc1')
            y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
            x = x + linear(y, state, f'{block}.mlp.fc2')
        maps.append(x)
    pooled = norm(x, state, 'norm').mean((0, 1))
    return maps, linear(pooled, state, 'head')


@pytest.mark.parametrize('size', [(64, 64), (61, 83), (32, 50)])
def test_outputs_equal_a_loop_over_stripes_heads_and_pixels(size):
    state = released()
    model = tiny().double()
    model.load_state_dict(checkpoint_filter_fn(state))
    images = torch.randn(2, 3, *size, dtype=torch.double)
    with torch.no_grad():
        maps = model.forward_intermediates(images, intermediates_only=True, output_fmt='NHWC')
        logits = model(images)
        expected, expected_logits = slow_cswin(
            images[1], state, TINY['depths'], TINY['heads'], (1, 2, 7, None)
        )
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours[1], theirs)
    torch.testing.assert_close(logits[1], expected_logits)


def test_backbone_of_mmdet_and_mmseg(tmp_path):
    mmdet = pytest.importorskip('mmdet.registry')
    mmseg = pytest.importorskip('mmseg.registry')
    from model.openmmlab import PyramidBackbone

    state = {name: value.float() for name, value in released().items()}
    torch.save({'state_dict_ema': state}, tmp_path / 'cswin.pth')
    settings = {
        'type': 'CSWin',
        'arch': 'cswin_tiny',
        'embed_dims': TINY['dims'],
        'depths': TINY['depths'],
        'num_heads': TINY['heads'],
        'out_indices': (0, 1, 2),
        'init_cfg': {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'cswin.pth')},
    }
    for registry in (mmdet.MODELS, mmseg.MODELS):
        backbone = registry.build(settings)
        assert isinstance(backbone, PyramidBackbone)
        backbone.init_weights()
        loaded = backbone.network.state_dict()
        assert torch.equal(loaded['stages.2.blocks.1.attention.lepe.1.weight'], state[LEPE])
        maps = backbone(torch.randn(1, 3, 64, 96))
        shapes = [(1, 8, 16, 24), (1, 16, 8, 12), (1, 32, 4, 6)]
        assert [tuple(m.shape) for m in maps] == shapes
        assert maps[0].mean(1).abs().max() < 1e-5  # normalised
    with pytest.raises(ValueError, match=r"'maformer_small' is not a CSWin; .* cswin_small"):
        mmdet.MODELS.build({'type': 'CSWin', 'arch': 'maformer_small'})
