"""MixFormer against a slow computation."""

import math

import pytest
import timm
import torch
from slow_layers import (
    batch_norm,
    check_outputs,
    convolution,
    gelu,
    layer_norm,
    linear,
    padded,
)

DEPTHS, HEADS = (1, 2, 1, 1), (2, 2, 4, 2)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny(**kwargs):
    return timm.create_model(
        'mixformer_b4',
        embed_dims=(16, 32, 48, 64),
        depths=DEPTHS,
        num_heads=HEADS,
        window_size=3,
        head_width=20,
        **{'num_classes': 5, **kwargs},
    ).eval()


def randomised(model):
    """Random parameters and statistics everywhere: zeros and ones hide what a term does."""
    for p in model.parameters():
        torch.nn.init.normal_(p, std=max(p[0].numel(), 4) ** -0.5 if p.ndim > 1 else 0.5)
    for name, b in model.named_buffers():
        if name.endswith('running_var'):
            b.uniform_(0.5, 2)
        elif name.endswith('running_mean'):
            b.normal_()
    return model.double()


# An implementation of its own on channels-last maps: loops over windows, heads and tokens.


def slow_mixformer(image, state):
    """(3, H, W) to the maps of the stages and the logits."""

    def attention(x, name, heads, of_channels):
        q, k, v = linear(x, state, f'{name}.qkv').chunk(3, dim=-1)
        v = v * of_channels
        table = state[f'{name}.relative_position_bias_table']
        d = x.shape[-1] // heads
        out = torch.zeros_like(x)
        offsets = [(i, j) for i in range(3) for j in range(3)]
        for top in range(0, x.shape[0], 3):
            for left in range(0, x.shape[1], 3):
                for head in range(heads):
                    s = slice(head * d, head * d + d)
                    for qy, qx in offsets:
                        scores = [
                            q[top + qy, left + qx, s] @ k[top + ky, left + kx, s] / math.sqrt(d)
                            + table[(qy - ky + 2) * 5 + qx - kx + 2, head]
                            for ky, kx in offsets
                        ]
                        weights = torch.softmax(torch.stack(scores), dim=0)
                        out[top + qy, left + qx, s] = sum(
                            w * v[top + ky, left + kx, s]
                            for w, (ky, kx) in zip(weights, offsets, strict=True)
                        )
        return out

    def mixing(x, name, heads):
        H, W, _ = x.shape
        x = padded(x, 3)
        conv = layer_norm(
            linear(x, state, f'{name}.convolution_in.0'), state, f'{name}.convolution_in.1'
        )
        conv = convolution(conv, state, f'{name}.convolution.0', padding=1)
        conv = gelu(batch_norm(conv, state, f'{name}.convolution.1'))
        channels = linear(conv.mean((0, 1)), state, f'{name}.channel_interaction.1')
        channels = gelu(batch_norm(channels, state, f'{name}.channel_interaction.2'))
        channels = torch.sigmoid(linear(channels, state, f'{name}.channel_interaction.4'))
        half = layer_norm(
            linear(x, state, f'{name}.attention_in.0'), state, f'{name}.attention_in.1'
        )
        attended = attention(half, name, heads, channels)
        tokens = linear(attended, state, f'{name}.spatial_interaction.0')
        tokens = gelu(batch_norm(tokens, state, f'{name}.spatial_interaction.1'))
        tokens = torch.sigmoid(linear(tokens, state, f'{name}.spatial_interaction.3'))
        conv = linear(conv, state, f'{name}.convolution_out') * tokens
        conv = batch_norm(conv, state, f'{name}.convolution_norm')
        both = torch.cat([layer_norm(attended, state, f'{name}.attention_norm'), conv], -1)
        return linear(both, state, f'{name}.proj')[:H, :W]

    x = padded(image.permute(1, 2, 0), 4)
    for i, stride in enumerate((2, 1, 1)):
        x = convolution(x, state, f'stem.convs.{3 * i}', stride, 1)
        x = gelu(batch_norm(x, state, f'stem.convs.{3 * i + 1}'))
    x = layer_norm(convolution(x, state, 'stem.proj', 2), state, 'stem.norm')
    maps = []
    for stage, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        if stage:
            merging = f'stages.{stage}.downsample'
            x = padded(batch_norm(x, state, f'{merging}.norm'), 2)
            x = convolution(x, state, f'{merging}.reduction', 2)
        for i in range(depth):
            block = f'stages.{stage}.blocks.{i}'
            x = x + mixing(layer_norm(x, state, f'{block}.norm'), f'{block}.attention', heads)
            y = gelu(linear(layer_norm(x, state, f'{block}.mlp.norm'), state, f'{block}.mlp.fc1'))
            x = x + linear(y, state, f'{block}.mlp.fc2')
        maps.append(x)
    x = gelu(linear(layer_norm(x, state, 'norm'), state, 'last_proj')).mean((0, 1))
    return maps, linear(x, state, 'head.fc')


@pytest.mark.parametrize('size', [(43, 70), pytest.param((48, 96), marks=pytest.mark.slow)])
def test_outputs_equal_a_loop_over_windows_heads_and_tokens(size):
    model = randomised(tiny())
    check_outputs(model, size, lambda image: slow_mixformer(image, model.state_dict()))
