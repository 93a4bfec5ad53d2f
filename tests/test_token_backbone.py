"""LV-ViT in mmdet and mmseg; and the configs of the embedded data in mmdet's own tools."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
import timm
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from safetensors.torch import load_file, save_file

import model.openmmlab  # noqa: F401
from datasets import shapes
from reproduce.openmmlab.configs import load_config

ROOT = Path(__file__).parents[1]
TINY = {'embed_dim': 24, 'depth': 4, 'num_heads': 2, 'stem_width': 8, 'img_size': 64}


def test_lvvit_gives_maps_of_stride_16(tmp_path):
    torch.manual_seed(0)
    classifier = timm.create_model('lvvit_small', token_labeling=True, **TINY).eval()
    save_file(classifier.state_dict(), tmp_path / 'lvvit.safetensors')
    pretrained = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'lvvit.safetensors')}
    settings = {'type': 'LVViT', 'arch': 'lvvit_small', 'init_cfg': pretrained, **TINY}
    backbone = MODELS.build(settings | {'out_indices': (1, 2)}).eval()
    backbone.init_weights()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = backbone(images)
        expected = classifier.forward_intermediates(images, [1, 2], intermediates_only=True)
    assert len(backbone.network.blocks) == 3
    for ours, theirs in zip(maps, expected, strict=True):
        normed = F.layer_norm(theirs.permute(0, 2, 3, 1), (24,)).permute(0, 3, 1, 2)
        torch.testing.assert_close(ours, normed)
    sizes = [tuple(m.shape) for m in MODELS.build(settings)(torch.randn(1, 3, 75, 130))]
    assert sizes == [(1, 24, 5, 9)] * 4  # of all four blocks, sides rounded up


def test_frozen_blocks_stay_frozen():
    backbone = MODELS.build({'type': 'LVViT', 'arch': 'lvvit_small', 'frozen_stages': 2, **TINY})
    backbone.train()
    assert [b.training for b in backbone.network.blocks] == [False, False, True, True]
    backbone(torch.randn(1, 3, 64, 64))[-1].mean().backward()
    frozen = {n for n, p in backbone.named_parameters() if not p.requires_grad}
    assert {n for n in frozen if 'blocks' in n} == {
        n for n, _ in backbone.named_parameters() if re.search(r'blocks\.[01]\.', n)
    }


@pytest.mark.parametrize('name', ['mask-rcnn', 'cascade-mask-rcnn'])
def test_configs_of_the_embedded_data_name_its_classes(name):
    config = load_config(f'{name}_maformer-micro_fpn_shapes.py')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert tuple(config[loader].dataset.metainfo.classes) == tuple(shapes.CLASSES)


@pytest.mark.slow
def test_mmdets_own_test_tool_takes_the_config(tmp_path):
    """It scores what this project's released Mask R-CNN scores on the same images."""
    shapes.write(tmp_path, train=0, val=30)
    data = tmp_path / 'coco'
    annotations = 'annotations/instances_val2017.json'
    tool = Path(mmdet.__path__[0]) / '.mim/tools/test.py'
    released = ROOT / 'reproduce/weights/released/mask_rcnn_maformer_micro_shapes.safetensors'
    torch.save({'state_dict': load_file(released), 'meta': {}}, tmp_path / 'weights.pth')
    command = [
        *(sys.executable, tool),
        ROOT / 'reproduce/configs/mask-rcnn_maformer-micro_fpn_shapes.py',
        *(tmp_path / 'weights.pth', '--work-dir', tmp_path / 'work', '--cfg-options'),
        f'test_dataloader.dataset.data_root={data}/',
        f'test_evaluator.ann_file={data / annotations}',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        'model.backbone.init_cfg.checkpoint=None',
    ]
    done = subprocess.run(
        list(map(str, command)),
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scores = dict(re.findall(r'coco/(bbox|segm)_mAP: ([\d.]+)', done.stdout + done.stderr))
    assert float(scores['bbox']) > 0.15 and float(scores['segm']) > 0.15
