"""What timm expects of every network in `model`, whichever it is."""

import pytest
import timm
import torch

from model.registration import NETWORKS
from reproduce.complexity.flops import measure_system
from reproduce.systems import System

PYRAMID = {
    'embed_dims': (16, 32, 48, 64),
    'depths': (1, 1, 2, 1),
    'num_heads': (2, 2, 4, 4),
}
# A small version of each network, made of the smallest variant.
SMALL = {
    'maformer_small': PYRAMID,
    'cswin_tiny': PYRAMID,
    'dsnet_tiny': {**PYRAMID, 'attn_drop_rate': 0.0},  # else two passes would differ
    'focal_tiny': PYRAMID,
    'lvvit_small': {'img_size': 64, 'embed_dim': 24, 'depth': 3, 'num_heads': 2, 'stem_width': 8},
    'mixformer_b4': {**PYRAMID, 'head_width': 40},
    'shuffle_tiny': PYRAMID,
    'vil_tiny': PYRAMID,
}


@pytest.fixture(params=SMALL)
def small(request):
    """Return a function that builds a small version of the network with other arguments."""

    def build(**kwargs):
        torch.manual_seed(0)
        arguments = SMALL[request.param] | {'num_classes': 5} | kwargs
        return timm.create_model(request.param, **arguments).eval()

    return build


@pytest.mark.parametrize('network', NETWORKS)
def test_every_variant_is_registered(network):
    names = [name for name in timm.list_models() if name.startswith(f'{network.__name__.lower()}_')]
    assert names == sorted(NETWORKS[network])
    for name in names:
        with torch.device('meta'):
            assert type(timm.create_model(name)) is network


LABELED = {'token_labeling': True}


@pytest.mark.parametrize(
    ('name', 'arguments', 'params_m', 'flops_g', 'tolerance'),
    [
        # The papers' tables; CSWin-T's parameters as its released code has them.
        ('cswin_tiny', {}, 22.32, 4.32, 0.001),
        ('cswin_base', {}, 78, 15.0, 0.015),
        ('shuffle_tiny', {}, 29, 4.6, 0.02),
        ('shuffle_base', {}, 88, 15.6, 0.02),
        # M of the paper, G of the released code.
        ('focal_tiny', {}, 28.9, 4.9, 0.02),
        ('focal_base', {}, 89.8, 16.4, 0.02),
        # PaddleClas' documentation; it has 8.4 G of B.
        ('dsnet_tiny', {}, 10.5, 1.8, 0.02),
        ('dsnet_base', {}, 49.3, 8.3, 0.015),
        # The 3.6 G printed are 3.5 % more than the released code's network needs.
        ('mixformer_b4', {}, 35, 3.6, 0.04),
        # What the paper prints, but for the 16 G of LV-ViT-M, which belong to a wider stem.
        ('lvvit_small', LABELED, 26, 6.6, 0.01),
        ('lvvit_medium', LABELED, 56, 12.7, 0.01),
        ('lvvit_medium', {**LABELED, 'stem_width': 128}, 58.2, 16.0, 0.01),
        ('lvvit_large', LABELED, 150, 59.0, 0.01),
        # The release's README, without the tables of biases that were added to the networks later.
        ('vil_tiny', {}, 6.7, None, 0.015),
        ('vil_medium', {}, 39.7, None, 0.01),
        ('vil_base', {}, 55.7, None, 0.01),
        # A prototype of the same reading.
        ('maformer_small', LABELED, 23.48, 5.11, 0.006),
        ('maformer_base', LABELED, 52.06, 9.81, 0.006),
        ('maformer_large', LABELED, 103.38, 22.76, 0.006),
    ],
)
def test_complexity_is_that_printed(name, arguments, params_m, flops_g, tolerance):
    size = 288 if name == 'lvvit_large' else 224
    system = System(name=name, rows=[], model=name, arguments=arguments, input_size=size)
    measured = measure_system(system)
    assert measured.params / 1e6 == pytest.approx(params_m, rel=tolerance)
    assert flops_g is None or measured.total_flops / 1e9 == pytest.approx(flops_g, rel=tolerance)


def test_arguments_of_timm_are_accepted(small):
    model = small(in_chans=4, drop_path_rate=0.3)
    assert model(torch.randn(2, 4, 64, 64)).shape == (2, 5)
    rates = [m.drop_prob for m in model.modules() if hasattr(m, 'drop_prob')]
    # DS-Net counts its blocks from 0 again in every stage: here the second of five is its last.
    assert max(rates) == pytest.approx(
        0.3 / 4 if model.default_cfg['architecture'] == 'dsnet_tiny' else 0.3
    )
    for key in ('first_conv', 'classifier'):
        assert model.get_submodule(model.default_cfg[key]).weight is not None
    with pytest.raises(TypeError, match='no_such_argument'):
        small(no_such_argument=1)


def test_gradient_checkpointing_changes_nothing(small):
    model = small().train()
    x = torch.randn(2, 3, 64, 64)
    model(x).square().sum().backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])
