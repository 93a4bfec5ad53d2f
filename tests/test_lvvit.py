"""LV-ViT against its released names, and a slow computation."""

import math

import pytest
import timm
import torch
from slow_layers import (
    Shapes,
    batch_norm,
    check_names,
    convolution,
    gelu,
    layer_norm,
    linear,
    load_release,
)

from model.lvvit import checkpoint_filter_fn

# Channels, depth, heads and stem width of Table 1 of LV-ViT's paper and of its released code.
SIZES = {
    'lvvit_small': (384, 16, 64, 224),
    'lvvit_medium': (512, 20, 64, 224),
    'lvvit_large': (768, 24, 128, 288),
}
TINY = {'embed_dim': 24, 'depth': 3, 'num_heads': 4, 'stem_width': 6, 'img_size': 64}


def tiny(**kwargs):
    arguments = {'num_classes': 5, 'token_labeling': True, **TINY, **kwargs}
    return timm.create_model('lvvit_small', **arguments).eval()


def released_shapes(dim, depth, width, size, classes=1000):
    shapes = Shapes(cls_token=(1, 1, dim), pos_embed=(1, (size // 16) ** 2 + 1, dim))
    shapes.layer('patch_embed.proj', (dim, width, 8, 8))
    for i, (inputs, side) in enumerate([(3, 7), (width, 3), (width, 3)], start=1):
        shapes.layer(f'patch_embed.conv{i}', (width, inputs, side, side), bias=False)
        shapes.batch_norm(f'patch_embed.bn{i}', width)
    for i in range(depth):
        shapes.layer(f'blocks.{i}.norm1', (dim,))
        shapes.layer(f'blocks.{i}.norm2', (dim,))
        shapes.layer(f'blocks.{i}.attn.qkv', (3 * dim, dim), bias=False)
        shapes.layer(f'blocks.{i}.attn.proj', (dim, dim))
        shapes.layer(f'blocks.{i}.mlp.fc1', (3 * dim, dim))
        shapes.layer(f'blocks.{i}.mlp.fc2', (dim, 3 * dim))
    for name, shape in {'norm': (dim,), 'head': (classes, dim), 'aux_head': (classes, dim)}.items():
        shapes.layer(name, shape)
    return shapes


@pytest.mark.parametrize('name', SIZES)
def test_released_names_cover_every_parameter(name):
    check_names(released_shapes(*SIZES[name]), checkpoint_filter_fn, name, token_labeling=True)


def slow_lvvit(image, state, heads, skip_lam):
    """(3, H, W) to (logits of the class token, logits of every token (H*W / 256, K))."""
    x = image.permute(1, 2, 0)
    for i, (stride, padding) in enumerate([(2, 3), (1, 1), (1, 1)], start=1):
        x = convolution(x, state, f'patch_embed.conv{i}', stride, padding)
        x = batch_norm(x, state, f'patch_embed.bn{i}').clamp(min=0)
    x = convolution(x, state, 'patch_embed.proj', 8).flatten(0, 1)
    x = torch.cat([state['cls_token'][0], x]) + state['pos_embed'][0]
    d = x.shape[1] // heads
    for i in range(TINY['depth']):
        block = f'blocks.{i}'
        y = layer_norm(x, state, f'{block}.norm1')
        q, k, v = linear(y, state, f'{block}.attn.qkv').chunk(3, dim=-1)
        out = torch.zeros_like(x)
        for head in range(heads):
            s = slice(head * d, head * d + d)
            for token in range(len(x)):
                weights = torch.softmax(k[:, s] @ q[token, s] / math.sqrt(d), dim=0)
                out[token, s] = weights @ v[:, s]
        x = x + linear(out, state, f'{block}.attn.proj') / skip_lam
        y = gelu(linear(layer_norm(x, state, f'{block}.norm2'), state, f'{block}.mlp.fc1'))
        x = x + linear(y, state, f'{block}.mlp.fc2') / skip_lam
    x = layer_norm(x, state, 'norm')
    return linear(x[0], state, 'head'), linear(x[1:], state, 'aux_head')


@pytest.mark.parametrize('skip_lam', [2.0, 3.0])
def test_outputs_equal_a_loop_over_heads_and_tokens(skip_lam, tmp_path):
    shapes = released_shapes(TINY['embed_dim'], TINY['depth'], TINY['stem_width'], 64, classes=5)
    state = shapes.random()
    content = {'epoch': 300, 'state_dict_ema': state}
    model = load_release(tiny(skip_lam=skip_lam), content, tmp_path / 'lvvit.pth.tar')
    images = torch.randn(2, 3, 64, 64, dtype=torch.double)
    logits, token_logits = slow_lvvit(images[1], state, TINY['num_heads'], skip_lam)
    with torch.no_grad():
        combined = model(images)
        model.add_token_max = False
        plain = model(images)
    torch.testing.assert_close(plain[1], logits)
    torch.testing.assert_close(combined[1], logits + 0.5 * token_logits.max(0).values)


def test_token_labeling():
    model = tiny().train()
    logits, tokens = model(torch.randn(3, 3, 64, 64))
    assert logits.shape == (3, 5)
    assert tokens.shape == (3, 4, 4, 5)
    (logits.square().sum() + tokens.square().sum()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert not any('aux_head' in n for n, _ in tiny(token_labeling=False).named_parameters())
