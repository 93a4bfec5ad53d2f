"""MAFormer: its parameters, outputs and options, and what torch makes of it."""

import pytest
import timm
import torch

import model.maformer as maformer

# Counted by hand: parameters with the auxiliary head of token labeling (Table 1).
PARAMETERS = {
    'maformer_small': 23_480_760,
    'maformer_small_3383': 22_698_318,
    'maformer_base': 52_059_479,
    'maformer_large': 103_380_759,
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def micro(**kwargs):
    return timm.create_model('maformer_micro', **kwargs).eval()


@pytest.mark.parametrize('name', PARAMETERS)
def test_parameters_are_those_of_the_papers_terms(name):
    with torch.device('meta'):
        model = timm.create_model(name, token_labeling=True)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def golden_outputs():
    """Two channels of each stage's map at its centre, and two logits, of seeded weights."""
    torch.manual_seed(42)
    model = micro(num_classes=2)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.15)
    x = torch.linspace(0, 3000, 3 * 70 * 61).view(1, 3, 70, 61).sin()
    with torch.no_grad():
        _, maps = model.forward_intermediates(x)
        centres = [m[0, :2, m.shape[2] // 2, m.shape[3] // 2] for m in maps]
        return torch.stack([*centres, model(x)[0]])


GOLDEN = [
    [0.75772, -0.10281],
    [0.50443, -0.00835],
    [-1.14822, -0.85250],
    [0.15963, 0.50523],
    [-0.06927, -0.04722],
]


def test_golden_outputs():
    """The network cannot change unnoticed."""
    torch.testing.assert_close(golden_outputs(), torch.tensor(GOLDEN), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['maformer_small_3383', 'maformer_small_3383_conv_global'])
def test_every_parameter_receives_a_gradient(name):
    model = timm.create_model(
        name, depths=(2, 2, 1, 1), num_classes=4, token_labeling=True, drop_path_rate=0.0
    ).train()
    logits, tokens = model(torch.randn(2, 3, 64, 64))
    (logits.square().sum() + tokens.square().sum()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    # Adding a constant to all keys of a query changes no softmax: that gradient is zero.
    zero = [n for n, p in model.named_parameters() if not p.grad.any()]
    assert [n for n in zero if not n.endswith('fusion.k.bias')] == []


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (75, 101)])
def test_any_size_from_32_runs_and_no_pixel_is_lost(size):
    model = micro(num_classes=3)
    x = torch.randn(1, 3, *size, requires_grad=True)
    maps = model.forward_intermediates(x, intermediates_only=True)
    side = list(size)
    for reduction, m in zip((4, 2, 2, 2), maps, strict=True):
        side = [-(-s // reduction) for s in side]
        assert list(m.shape[-2:]) == side
    model(x).sum().backward()
    assert x.grad.abs().sum((0, 1)).min() > 0


def test_inference_in_pieces_equals_the_recorded_pass(monkeypatch):
    model = micro(num_classes=7)
    x = torch.randn(5, 3, 96, 64)
    whole = model(x)
    assert whole.requires_grad
    for workspace in (1, 10_000, 100_000):
        monkeypatch.setattr('model.pyramid.CPU_WORKSPACE', workspace)
        with torch.no_grad():
            torch.testing.assert_close(model(x), whole, rtol=1e-4, atol=1e-5)


def test_token_labeling():
    model = micro(num_classes=6, token_labeling=True)
    x = torch.randn(2, 3, 64, 96)
    logits, tokens = model.train()(x)
    assert logits.shape == (2, 6)
    assert tokens.shape == (2, 2, 3, 6)
    combined = model.eval()(x)
    model.add_token_max = False
    plain = model(x)
    torch.testing.assert_close(combined, plain + 0.5 * tokens.flatten(1, 2).max(1).values)
    assert not any('aux_head' in name for name, _ in micro(num_classes=6).named_parameters())


@pytest.mark.parametrize(
    ('options', 'dtype'), [({}, torch.float16), (maformer.SHIFTED_WINDOW, torch.bfloat16)]
)
def test_autocast(options, dtype):
    model = micro(depths=(1, 2, 1, 1), num_classes=3, **options)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast('cpu', dtype):
        half = model(x)
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), model(x), rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_compile_and_export():
    model = micro(num_classes=3)
    x = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        for other in (compiled, exported):
            torch.testing.assert_close(other(x), model(x), rtol=1e-4, atol=1e-5)
