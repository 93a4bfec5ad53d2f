"""Attention and the global branch against slow, independent computations of the same formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock

from model.attention import SelfAttention, ShiftedWindowAttention
from model.global_branch import GLD, AntialiasedResize, ConvGlobalBranch
from model.maformer import FusionAttention


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randomised(module):
    """Random parameters everywhere: zeros and ones hide what a bias or a scale does."""
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return module.eval().double()


def softmax_attention(q, k, v, heads):
    """Image by image and head by head: (B, n, C), (B, m, C), (B, m, C) to (B, n, C)."""
    out = torch.zeros_like(q)
    d = q.shape[-1] // heads
    for b in range(len(q)):
        for s in (slice(h * d, h * d + d) for h in range(heads)):
            scores = q[b, :, s] @ k[b, :, s].T / math.sqrt(d)
            out[b, :, s] = torch.softmax(scores, dim=1) @ v[b, :, s]
    return out


@pytest.mark.parametrize(('size', 'shift_size'), [((14, 14), 0), ((9, 16), 3)])
def test_shifted_window_attention_equals_timms_swin_with_the_same_weights(size, shift_size):
    theirs = randomised(
        SwinTransformerBlock(
            48, size, num_heads=4, window_size=7, shift_size=shift_size, dynamic_mask=True
        )
    )
    ours = ShiftedWindowAttention(48, 4, window_size=7, shift_size=shift_size).double()
    ours.load_state_dict(theirs.attn.state_dict())
    x = torch.randn(2, *size, 48, dtype=torch.double)
    torch.testing.assert_close(ours(x), theirs._attn(x))


def test_self_attention_equals_a_plain_softmax():
    attention = randomised(SelfAttention(32, 4))
    x = torch.randn(2, 3, 5, 32, dtype=torch.double)
    q, k, v = (x @ attention.qkv.weight.T + attention.qkv.bias).flatten(1, 2).split(32, dim=-1)
    out = softmax_attention(q, k, v, 4).view_as(x)
    torch.testing.assert_close(attention(x), out @ attention.proj.weight.T + attention.proj.bias)


def test_self_attention_in_windows_is_that_over_each_window_of_the_padded_map():
    attention = randomised(SelfAttention(32, 4, window_size=4))
    over_all = SelfAttention(32, 4).double()
    over_all.load_state_dict(attention.state_dict())
    x = torch.randn(2, 7, 10, 32, dtype=torch.double)
    padded = F.pad(x, (0, 0, 0, 2, 0, 1))
    rows = [[over_all(window) for window in row.split(4, 2)] for row in padded.split(4, 1)]
    expected = torch.cat([torch.cat(row, 2) for row in rows], 1)[:, :7, :10]
    torch.testing.assert_close(attention(x), expected)
    torch.testing.assert_close(attention(x[:, :4, :3]), over_all(x[:, :4, :3]))  # in one window


def test_fusion_equals_a_plain_softmax():
    """Eqs. 3 and 4, with one projection each for Q, K and V and none for the output."""
    fusion = randomised(FusionAttention(16, 2))
    x_l = torch.randn(2, 4, 6, 16, dtype=torch.double)
    x_g = torch.randn(2, 3, 3, 16, dtype=torch.double)
    projected = ((x_l, fusion.q), (x_g, fusion.k), (x_g, fusion.v))
    q, k, v = (x.flatten(1, 2) @ layer.weight.T + layer.bias for x, layer in projected)
    torch.testing.assert_close(fusion(x_l, x_g), softmax_attention(q, k, v, 2).view_as(x_l))
    assert sum(p.numel() for p in fusion.parameters()) == 3 * (16 * 16 + 16)


def antialiased_weights(size, target):
    """Bilinear resampling of a line: a triangle as wide as the larger of the two pixels."""
    scale = size / target
    support = max(scale, 1.0)
    weights = torch.zeros(target, size, dtype=torch.double)
    for i in range(target):
        centre = (i + 0.5) * scale
        for j in range(size):
            weights[i, j] = max(0.0, 1 - abs(j + 0.5 - centre) / support)
    return weights / weights.sum(1, keepdim=True)


def resized(y, target):
    rows, columns = (antialiased_weights(side, target) for side in y.shape[1:3])
    return torch.einsum('ih,jw,bhwc->bijc', rows, columns, y)


@pytest.mark.parametrize('size', [(56, 56), (33, 9)])
def test_gld_equals_eq_2_written_out(size):
    gld = randomised(GLD(6))
    y = torch.randn(2, *size, 6, dtype=torch.double)
    tokens = resized(y, 14).reshape(2, 196, 6)
    fc = torch.einsum('ot,btc->boc', gld.fc.weight, tokens) + gld.fc.bias[None, :, None]
    expected = resized(y, 7) + fc.view(2, 7, 7, 6)
    torch.testing.assert_close(gld(y), expected)


def interpolated(y, size):
    y = F.interpolate(y.permute(0, 3, 1, 2), [size, size], mode='bilinear', antialias=True)
    return y.permute(0, 2, 3, 1)


@pytest.mark.parametrize('size', [(56, 56), (3, 40)])
def test_the_resize_is_torchs_interpolation(size):
    y = torch.randn(2, *size, 5, requires_grad=True)
    theirs = [interpolated(y, grid) for grid in (14, 7)]
    ours = AntialiasedResize((14, 14), (7, 7))(y)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    weights = [torch.randn_like(map_) for map_ in theirs]
    gradients = [
        torch.autograd.grad(sum((m * w).sum() for m, w in zip(maps, weights, strict=True)), y)
        for maps in (theirs, ours)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=2e-6)


def test_convolution_substitute_has_glds_output():
    branch = randomised(ConvGlobalBranch(6))
    y = torch.randn(2, 28, 20, 6, dtype=torch.double)
    grid = resized(y, 14).permute(0, 3, 1, 2)
    patches = F.unfold(grid, 3, padding=1, stride=2).view(2, 6 * 9, 7, 7)
    expected = torch.einsum('oi,bihw->bhwo', branch.conv.weight.flatten(1), patches)
    expected = expected + branch.conv.bias
    torch.testing.assert_close(branch(y), expected)
