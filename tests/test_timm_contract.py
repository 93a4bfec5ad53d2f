"""The checks of timm's own `tests/test_models.py`, on small versions of the networks.

timm's Swin Transformer passes through the same checks: what it cannot pass is no contract.
"""

import math

import pytest
import timm
import torch
from test_networks import PYRAMID, SMALL
from timm.models._features import FeatureInfo

SWIN = 'swin_tiny_patch4_window7_224'
MODELS = SMALL | {
    SWIN: PYRAMID | {'img_size': 64, 'embed_dim': 16},
}
each_model = pytest.mark.parametrize('name', MODELS)
each_pyramid = pytest.mark.parametrize('name', [name for name in MODELS if 'lvvit' not in name])


def small(name, **kwargs):
    torch.manual_seed(0)
    arguments = MODELS[name] | kwargs
    if name == SWIN:
        arguments.pop('embed_dims')
    return timm.create_model(name, **({'num_classes': 7} | arguments))


def images(n=1):
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def check_maps(maps, info, axes):
    """The maps have the channels that are announced, and the sizes of their strides."""
    channels, height, width = axes
    assert [m.shape[channels] for m in maps] == info.channels()
    for map_, stride in zip(maps, info.reduction(), strict=True):
        assert map_.shape[height] == map_.shape[width] == math.ceil(64 / stride)
        assert map_.isfinite().all()


@each_pyramid
def test_the_description_is_that_of_the_network(name):
    model = small(name).eval()
    features = model.forward_features(images())
    assert model.output_fmt == 'NHWC'
    assert features.shape == (1, 2, 2, model.num_features)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert model(images()).shape == pooled.shape
    model.reset_classifier(0, '')
    assert model(images()).shape == (1, 2, 2, model.head_hidden_size)
    bare = small(name, num_classes=0, global_pool='').eval()
    assert bare(images()).shape == (1, 2, 2, model.head_hidden_size)


@each_model
def test_features_only(name):
    model = small(name, features_only=True).eval()
    axes = (3, 1, 2) if model.output_fmt == 'NHWC' else (1, 2, 3)
    check_maps(model(images()), model.feature_info, axes)


@each_model
def test_intermediates(name):
    model = small(name).eval()
    features, maps = model.forward_intermediates(images(), output_fmt='NCHW')
    check_maps(maps, FeatureInfo(model.feature_info, len(model.feature_info)), (1, 2, 3))
    torch.testing.assert_close(features, model.forward_features(images()))
    model.set_grad_checkpointing()
    again, _ = model.forward_intermediates(images(), output_fmt='NCHW')
    torch.testing.assert_close(again, features, rtol=1e-4, atol=1e-5)


@each_pyramid
def test_intermediates_of_some_stages(name):
    """The final norm has the channels of the last stage, so it goes where that is left out."""
    model = small(name).eval()
    whole = model.forward_intermediates(images(), indices=[1], output_fmt='NCHW')[1]
    last, maps = model.forward_intermediates(images(), indices=[1], stop_early=True)
    torch.testing.assert_close(maps, whole)
    torch.testing.assert_close(last.permute(0, 3, 1, 2), maps[0])
    assert model.prune_intermediate_layers([1]) == [1]
    torch.testing.assert_close(model.forward_intermediates(images(), indices=[1])[1], whole)


@each_model
def test_dropout_of_the_attention(name):
    """It changes the output in training, and nothing afterwards."""
    model = small(name, attn_drop_rate=0.5)
    plain = small(name)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(images()), plain.eval()(images()))
    for m in model.modules():  # batch norms stay as they are
        if not isinstance(m, torch.nn.BatchNorm2d):
            m.training = True
    assert not torch.equal(model(images()), model(images()))


@each_model
def test_vmap_equals_a_loop(name):
    model = small(name).eval()
    batch = images(4).view(2, 2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(model)(batch), torch.stack([model(x) for x in batch]))
