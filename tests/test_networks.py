"""What timm expects of every network in `model`, whichever it is."""

import math

import pytest
import timm
import torch
from timm.models import FeatureInfo

from model.registration import NETWORKS
from reproduce.complexity import counts
from reproduce.systems import load_systems

PYRAMID = {
    'embed_dims': (16, 32, 48, 64),
    'depths': (1, 1, 2, 1),
    'num_heads': (2, 2, 4, 4),
}
# A small version of each network, made of the smallest variant.
SMALL = {
    'maformer_small': PYRAMID,
    'cswin_tiny': PYRAMID,
    'dsnet_tiny': PYRAMID,
    'focal_tiny': PYRAMID,
    'lvvit_small': {'img_size': 64, 'embed_dim': 24, 'depth': 3, 'num_heads': 2, 'stem_width': 8},
    'mixformer_b4': {**PYRAMID, 'head_width': 40},
    'shuffle_tiny': PYRAMID,
    'vil_tiny': {**PYRAMID, 'img_size': 64},
}


# Those with methods of their own; the others have Pyramid's.
OWN = ('maformer_small', 'vil_tiny', 'mixformer_b4', 'lvvit_small')
of_pyramids = pytest.mark.parametrize('name', OWN[:3])
of_own = pytest.mark.parametrize('name', OWN)
of_all = pytest.mark.parametrize('name', SMALL)


def small(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, **SMALL[name] | {'num_classes': 5} | kwargs).eval()


def images(n=1):
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def check_maps(maps, info):
    """The maps have the channels that are announced, and the sizes of their strides."""
    sides = [math.ceil(64 / stride) for stride in info.reduction()]
    assert [m.shape[1:] for m in maps] == [
        (channels, side, side) for channels, side in zip(info.channels(), sides, strict=True)
    ]


@pytest.mark.parametrize('network', NETWORKS)
def test_every_variant_is_registered(network):
    names = [name for name in timm.list_models() if name.startswith(f'{network.__name__.lower()}_')]
    assert names == sorted(NETWORKS[network])
    for name in names[:2]:
        with torch.device('meta'):
            assert type(timm.create_model(name)) is network


# By system: parameters in millions, total FLOPs in G multiply-adds, and how close they are.
PRINTED = {
    # The papers' tables; CSWin-T's parameters as its released code has them.
    'cswin_tiny': (22.32, 4.32, 0.001),
    'cswin_small': (35, 6.9, 0.015),
    'cswin_base': (78, 15.0, 0.015),
    'shuffle_tiny': (29, 4.6, 0.02),
    'shuffle_small': (50, 8.9, 0.02),
    'shuffle_base': (88, 15.6, 0.02),
    # M of the paper, G of the released code.
    'focal_tiny': (28.9, 4.9, 0.02),
    'focal_small': (51.1, 9.4, 0.02),
    'focal_base': (89.8, 16.4, 0.02),
    # PaddleClas' documentation; it has 8.4 G of B.
    'dsnet_small': (23.0, 3.5, 0.015),
    'dsnet_base': (49.3, 8.3, 0.015),
    # The 3.6 G printed are 3.5 % more than the released code's network needs.
    'mixformer_b4': (35, 3.6, 0.04),
    'lvvit_small': (26, 6.6, 0.01),
    'lvvit_medium': (56, 12.7, 0.01),
    'lvvit_large': (150, 59.0, 0.01),
    # A prototype of the same reading.
    'maformer_small_token_labeling': (23.48, 5.11, 0.006),
    'maformer_small_3383_token_labeling': (22.70, 4.52, 0.006),
    'maformer_base_token_labeling': (52.06, 9.81, 0.006),
    'maformer_large_token_labeling': (103.38, 22.76, 0.006),
}


def test_complexity_is_that_printed(kept_counts):
    """What is kept of it, which is counted again where the code has changed."""
    found = counts.count([s for s in load_systems() if s.name in PRINTED], kept_counts)
    assert found.keys() == PRINTED.keys()
    for name, (params_m, flops_g, tolerance) in PRINTED.items():
        assert found[name].params / 1e6 == pytest.approx(params_m, rel=tolerance)
        assert found[name].total_flops / 1e9 == pytest.approx(flops_g, rel=tolerance)


@pytest.mark.parametrize(
    ('name', 'arguments', 'params_m'),
    [
        # What LV-ViT's paper prints of M belongs to a wider stem.
        ('lvvit_medium', {'token_labeling': True, 'stem_width': 128}, 58.2),
        # The release's README, without the tables of biases that were added to the networks later.
        ('vil_tiny', {}, 6.7),
        ('vil_base', {}, 55.7),
    ],
)
def test_parameters_are_those_printed(name, arguments, params_m):
    with torch.device('meta'):
        model = timm.create_model(name, **arguments)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(params_m, rel=0.015)


@of_all
def test_arguments_of_timm_are_accepted(name):
    model = small(name, in_chans=4, drop_path_rate=0.3)
    assert model(torch.randn(2, 4, 64, 64)).shape == (2, 5)
    rates = [m.drop_prob for m in model.modules() if hasattr(m, 'drop_prob')]
    assert max(rates) == pytest.approx(0.3)
    for key in ('first_conv', 'classifier'):
        assert model.get_submodule(model.default_cfg[key]).weight is not None


@of_own
def test_gradient_checkpointing_changes_nothing(name):
    model = small(name).train()
    model(images(2)).square().sum().backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    model.set_grad_checkpointing()
    model(images(2)).square().sum().backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[n])


@of_own
def test_intermediates(name):
    model = small(name)
    features, maps = model.forward_intermediates(images(), output_fmt='NCHW')
    check_maps(maps, FeatureInfo(model.feature_info, len(model.feature_info)))
    torch.testing.assert_close(features, model.forward_features(images()))


@of_pyramids
def test_intermediates_of_some_stages(name):
    """The final norm has the channels of the last stage, so it goes where that is left out."""
    model = small(name)
    whole = model.forward_intermediates(images(), indices=[1], output_fmt='NCHW')[1]
    last, maps = model.forward_intermediates(images(), indices=[1], stop_early=True)
    torch.testing.assert_close(maps, whole)
    torch.testing.assert_close(last.permute(0, 3, 1, 2), maps[0])
    assert model.prune_intermediate_layers([1]) == [1]
    torch.testing.assert_close(model.forward_intermediates(images(), indices=[1])[1], whole)
