"""The adapter between MAFormer and OpenMMLab, and what builds and counts its models."""

import mmdet.registry
import mmseg.registry
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F

from model.openmmlab import Backbone, CheckpointError
from reproduce.complexity import counts
from reproduce.systems import load_systems

PYRAMID = {'embed_dims': (16, 32, 48, 64), 'depths': (1, 1, 1, 1), 'num_heads': (2, 2, 4, 4)}


def micro(**kwargs):
    torch.manual_seed(0)
    return Backbone('maformer_micro', **kwargs)


def images(size=(70, 93)):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ('package', 'name', 'arch'),
    [(mmdet, 'MAFormer', 'maformer_small'), (mmseg, 'Shuffle', 'shuffle_tiny')],
)
def test_registered_for_mmdet_and_mmseg(package, name, arch):
    backbone = package.registry.MODELS.build({'type': name, 'arch': arch, **PYRAMID})
    assert type(backbone.network).__name__ == name
    maps = backbone(torch.randn(2, 3, 75, 130))
    assert [tuple(m.shape) for m in maps] == [
        (2, 16, 19, 33),
        (2, 32, 10, 17),
        (2, 48, 5, 9),
        (2, 64, 3, 5),
    ]
    sum(m.square().sum() for m in maps).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_outputs_are_normalised_maps_of_the_checkpoint(tmp_path):
    """Of a classifier with another head, whose stages after the last output are not needed."""
    out_indices = (1, 2)
    classifier = timm.create_model('maformer_micro', num_classes=10, token_labeling=True).eval()
    path = tmp_path / 'x.safetensors'
    safetensors.torch.save_file(classifier.state_dict(), path)
    pretrained = {'type': 'Pretrained', 'checkpoint': str(path)}
    backbone = micro(out_indices=out_indices, init_cfg=pretrained).eval()
    backbone.init_weights()
    inputs = images((64, 64))
    with torch.no_grad():
        for norm in backbone.norms:
            norm.weight.uniform_()
            norm.bias.uniform_()
        maps = classifier.forward_intermediates(
            inputs, list(out_indices), intermediates_only=True, output_fmt='NCHW'
        )
        outputs = backbone(inputs)
    assert isinstance(outputs, tuple)
    for norm, output, features in zip(backbone.norms, outputs, maps, strict=True):
        normed = F.layer_norm(
            features.permute(0, 2, 3, 1), features.shape[1:2], norm.weight, norm.bias
        )
        torch.testing.assert_close(output, normed.permute(0, 3, 1, 2))


def load_error(content, tmp_path):
    path = tmp_path / 'model.pth'
    if content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError) as error:
        micro(init_cfg={'type': 'Pretrained', 'checkpoint': str(path)}).init_weights()
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_checkpoint_errors_are_one_line(tmp_path):
    small = timm.create_model('maformer_small').state_dict()
    assert 'is not one of maformer_micro: ' in load_error(small, tmp_path)
    state = timm.create_model('maformer_micro').state_dict()
    del state['stem.proj.bias']
    state['stages.2.extra'] = torch.zeros(2)
    message = load_error(state, tmp_path)
    assert 'stages.2.extra is (2,) in the file and absent in the model' in message
    assert 'stem.proj.bias is absent in the file and (32,) in the model' in message
    assert 'does not exist' in load_error(None, tmp_path / 'nowhere')


# Parameters in millions, layer FLOPs (total ones where so marked) in G multiply-adds: measured on a
# prototype that shares no code with this project, and, for R50 and Swin-T, with their own packages.
EXPECTED = {
    'mask-rcnn_maformer-small_fpn_1x_coco': (42.62, 265.1),
    'mask-rcnn_maformer-small-3383_fpn_1x_coco': (41.84, 254.1),
    'mask-rcnn_maformer-base_fpn_1x_coco': (71.20, 353.3),
    'mask-rcnn_maformer-large_fpn_1x_coco': (122.37, 607.3),
    'cascade-mask-rcnn_maformer-small_fpn_ms-crop-3x_coco': (80.46, 743.4),
    'cascade-mask-rcnn_maformer-small-3383_fpn_ms-crop-3x_coco': (79.68, 732.3),
    'cascade-mask-rcnn_maformer-base_fpn_ms-crop-3x_coco': (109.04, 831.5),
    'cascade-mask-rcnn_maformer-large_fpn_ms-crop-3x_coco': (160.20, 1085.5),
    'fpn_maformer-small_8xb2-80k_ade20k-512x512': (26.72, 183.1),
    'fpn_maformer-small-3383_8xb2-80k_ade20k-512x512': (25.94, 171.8),
    'fpn_maformer-base_8xb2-80k_ade20k-512x512': (55.30, 273.4),
    'upernet_maformer-small_8xb2-160k_ade20k-512x512': (52.94, 939.8),
    'upernet_maformer-small-3383_8xb2-160k_ade20k-512x512': (52.16, 928.4),
    'upernet_maformer-base_8xb2-160k_ade20k-512x512': (81.52, 1030.0),
    'mask-rcnn_r50_fpn_1x_coco': (44.40, 259.3),
    'cascade-mask-rcnn_r50_fpn_4conv1fc-ms-crop-3x_coco': (82.23, 737.6),
    'fpn_r50_4xb4-160k_ade20k-512x512': (28.51, 182.2),
    'mask-rcnn_swin-t-p4-w7_fpn_1x_coco': (47.79, 263.4),
    'cascade-mask-rcnn_swin-t-p4-w7_fpn_4conv1fc-ms-crop-3x_coco': (85.63, 744.8),
    'fpn_swin-t-p4-w7_8xb4-80k_ade20k-512x512': (31.89, 182.5),
    'swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512': (59.94, 944.4),
}


def test_parameters_and_flops(kept_counts):
    """What is kept of them, which is counted again where the code has changed."""
    systems = [system for system in load_systems() if system.name in EXPECTED]
    found = counts.count(systems, kept_counts)
    assert found.keys() == EXPECTED.keys()
    for system in systems:
        params, flops = EXPECTED[system.name]
        complexity = found[system.name]
        assert complexity.params / 1e6 == pytest.approx(params, rel=1e-3)
        assert getattr(complexity, f'{system.flops}_flops') / 1e9 == pytest.approx(flops, rel=1e-3)
