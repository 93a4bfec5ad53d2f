"""What timm expects of every network in `model`, whichever it is."""

import pytest
import timm
import torch

from model.registration import NETWORKS

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


def test_the_output_is_the_head_of_the_features(small):
    model = small()
    x = torch.randn(2, 3, 64, 64)
    features = model.forward_features(x)
    torch.testing.assert_close(model.forward_head(features), model(x))
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(model.get_classifier()(pooled), model(x))
    model.reset_classifier(9)
    assert model(x).shape == (2, 9)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)


@pytest.mark.parametrize('name', SMALL)
def test_features_only(name):
    pyramid = SMALL[name] is not SMALL['lvvit_small']
    out_indices = (1, 3) if pyramid else (0, 2)
    model = timm.create_model(name, features_only=True, out_indices=out_indices, **SMALL[name])
    channels, strides = ([32, 64], [8, 32]) if pyramid else ([24, 24], [16, 16])
    assert model.feature_info.channels() == channels
    assert model.feature_info.reduction() == strides
    maps = model.eval()(torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [
        (1, c, 64 // stride, 64 // stride) for c, stride in zip(channels, strides, strict=True)
    ]


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
