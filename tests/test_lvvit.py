"""LV-ViT against its printed figures, its released names, and a slow computation of its own."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F

from model.lvvit import checkpoint_filter_fn
from reproduce.complexity.flops import measure_system
from reproduce.systems import System
from reproduce.weights import parameters

# Channels, depth, heads and stem width of Table 1 of LV-ViT's paper and of its released code.
SIZES = {
    'lvvit_small': (384, 16, 64, 224),
    'lvvit_medium': (512, 20, 64, 224),
    'lvvit_large': (768, 24, 128, 288),
}
TINY = {'embed_dim': 24, 'depth': 3, 'num_heads': 4, 'stem_width': 6, 'img_size': 64}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny(**kwargs):
    arguments = {'num_classes': 5, 'token_labeling': True, **TINY, **kwargs}
    return timm.create_model('lvvit_small', **arguments).eval()


# What Table 4 prints, but for the 16 G of LV-ViT-M, which belong to a wider stem than its 56 M.
@pytest.mark.parametrize(
    ('name', 'arguments', 'params_m', 'flops_g'),
    [
        ('lvvit_small', {}, 26, 6.6),
        ('lvvit_medium', {}, 56, 12.7),
        ('lvvit_medium', {'stem_width': 128}, 58.2, 16.0),
        ('lvvit_large', {}, 150, 59.0),
    ],
)
def test_printed_complexity(name, arguments, params_m, flops_g):
    system = System(
        name=name,
        rows=[],
        model=name,
        arguments={'token_labeling': True, **arguments},
        input_size=SIZES[name][3],
    )
    measured = measure_system(system)
    assert measured.params / 1e6 == pytest.approx(params_m, rel=0.01)
    assert measured.total_flops / 1e9 == pytest.approx(flops_g, rel=0.01)


def released_shapes(dim, depth, width, size, classes=1000):
    """Names and shapes of a released checkpoint, from the architecture's description."""
    shapes = {
        'cls_token': (1, 1, dim),
        'pos_embed': (1, (size // 16) ** 2 + 1, dim),
        'patch_embed.proj.weight': (dim, width, 8, 8),
        'patch_embed.proj.bias': (dim,),
    }
    for i, (inputs, side) in enumerate([(3, 7), (width, 3), (width, 3)], start=1):
        shapes[f'patch_embed.conv{i}.weight'] = (width, inputs, side, side)
        for statistic in ('weight', 'bias', 'running_mean', 'running_var'):
            shapes[f'patch_embed.bn{i}.{statistic}'] = (width,)
        shapes[f'patch_embed.bn{i}.num_batches_tracked'] = ()
    layers = {'norm': (dim,), 'head': (classes, dim), 'aux_head': (classes, dim)}
    for i in range(depth):
        shapes[f'blocks.{i}.attn.qkv.weight'] = (3 * dim, dim)
        layers[f'blocks.{i}.norm1'] = layers[f'blocks.{i}.norm2'] = (dim,)
        layers[f'blocks.{i}.attn.proj'] = (dim, dim)
        layers[f'blocks.{i}.mlp.fc1'] = (3 * dim, dim)
        layers[f'blocks.{i}.mlp.fc2'] = (dim, 3 * dim)
    for name, shape in layers.items():
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = shape, shape[:1]
    return shapes


@pytest.mark.parametrize('name', SIZES)
def test_released_names_cover_every_parameter(name):
    released = {
        name: torch.empty(shape, device='meta')
        for name, shape in released_shapes(*SIZES[name]).items()
    }
    with torch.device('meta'):
        ours = timm.create_model(name, token_labeling=True).state_dict()
    translated = checkpoint_filter_fn(released)
    assert {k: v.shape for k, v in translated.items()} == {k: v.shape for k, v in ours.items()}
    assert list(checkpoint_filter_fn(ours)) == list(ours)


def released():
    """Random weights under the released names, large enough that every one of them shows."""
    shapes = released_shapes(TINY['embed_dim'], TINY['depth'], TINY['stem_width'], 64, classes=5)
    state = {}
    for name, shape in shapes.items():
        scale = (2 / max(math.prod(shape[1:]), 4)) ** 0.5 if len(shape) in (2, 4) else 0.5
        state[name] = torch.randn(shape, dtype=torch.double) * scale
        if name.endswith(('norm.weight', 'norm1.weight', 'norm2.weight', 'running_var')):
            state[name] = 0.5 + state[name].abs()
        if name.endswith('num_batches_tracked'):
            state[name] = torch.tensor(7)
    return state


def slow_lvvit(image, state, heads, skip_lam):
    """(3, H, W) to (logits of the class token, logits of every token (H*W / 256, K))."""
    x = image[None]
    for i, (stride, padding) in enumerate([(2, 3), (1, 1), (1, 1)], start=1):
        x = F.conv2d(x, state[f'patch_embed.conv{i}.weight'], stride=stride, padding=padding)
        bn = f'patch_embed.bn{i}'
        mean, variance, weight, bias = (
            state[f'{bn}.{n}'].view(-1, 1, 1)
            for n in ('running_mean', 'running_var', 'weight', 'bias')
        )
        x = ((x - mean) / (variance + 1e-5).sqrt() * weight + bias).clamp(min=0)

    def linear(x, name):
        return x @ state[f'{name}.weight'].T + state.get(f'{name}.bias', 0)

    def norm(x, name):
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).square().mean(-1, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt()
        return x * state[f'{name}.weight'] + state[f'{name}.bias']

    weight, bias = state['patch_embed.proj.weight'], state['patch_embed.proj.bias']
    tokens = [state['cls_token'][0, 0]]
    for y in range(0, x.shape[2], 8):
        for x_ in range(0, x.shape[3], 8):
            patch = x[0, :, y : y + 8, x_ : x_ + 8]
            tokens.append((weight * patch).sum((1, 2, 3)) + bias)
    x = torch.stack(tokens) + state['pos_embed'][0]
    d = x.shape[1] // heads
    for i in range(TINY['depth']):
        block = f'blocks.{i}'
        q, k, v = linear(norm(x, f'{block}.norm1'), f'{block}.attn.qkv').chunk(3, dim=-1)
        out = torch.zeros_like(x)
        for head in range(heads):
            s = slice(head * d, head * d + d)
            for token in range(len(x)):
                weights = torch.softmax(k[:, s] @ q[token, s] / math.sqrt(d), dim=0)
                out[token, s] = weights @ v[:, s]
        x = x + linear(out, f'{block}.attn.proj') / skip_lam
        y = linear(norm(x, f'{block}.norm2'), f'{block}.mlp.fc1')
        y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
        x = x + linear(y, f'{block}.mlp.fc2') / skip_lam
    x = norm(x, 'norm')
    return linear(x[0], 'head'), linear(x[1:], 'aux_head')


@pytest.mark.parametrize('skip_lam', [2.0, 3.0])
def test_outputs_equal_a_loop_over_heads_and_tokens(skip_lam, tmp_path):
    state = released()
    torch.save({'epoch': 300, 'state_dict_ema': state}, tmp_path / 'lvvit.pth.tar')
    model = tiny(skip_lam=skip_lam).double()
    parameters.load(model, tmp_path / 'lvvit.pth.tar')
    images = torch.randn(2, 3, 64, 64, dtype=torch.double)
    logits, token_logits = slow_lvvit(images[1], state, TINY['num_heads'], skip_lam)
    with torch.no_grad():
        combined = model(images)
        model.add_token_max = False
        plain = model(images)
    torch.testing.assert_close(plain[1], logits)
    torch.testing.assert_close(combined[1], logits + 0.5 * token_logits.max(0).values)


def test_skip_lam_of_the_released_sizes():
    for name, skip_lam in (('lvvit_small', 2), ('lvvit_medium', 2), ('lvvit_large', 3)):
        with torch.device('meta'):
            block = timm.create_model(name, depth=1).blocks[0]
        assert (block.ls1.divisor, block.ls2.divisor) == (skip_lam, skip_lam)


def test_token_labeling():
    model = tiny().train()
    logits, tokens = model(torch.randn(3, 3, 64, 64))
    assert logits.shape == (3, 5)
    assert tokens.shape == (3, 4, 4, 5)
    (logits.square().sum() + tokens.square().sum()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    x = torch.randn(1, 3, 64, 64)
    model.eval().reset_classifier(9)
    assert model(x).shape == (1, 9)
    model.reset_classifier(0)
    assert model(x).shape == (1, 24)
    assert not any('aux_head' in n for n, _ in tiny(token_labeling=False).named_parameters())


def test_the_large_variant_is_built_for_its_image_size():
    with torch.device('meta'):
        assert timm.create_model('lvvit_large').pos_embed.shape == (1, 18 * 18 + 1, 768)
