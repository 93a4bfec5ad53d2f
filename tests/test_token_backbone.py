"""LV-ViT in mmdet and mmseg; and the configs of the embedded data in their own tools."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mmdet
import mmseg
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS
from PIL import Image
from safetensors.torch import load_file, save_file

import model.openmmlab  # noqa: F401
from datasets import shapes
from reproduce.evaluate.harness import evaluate
from reproduce.openmmlab.configs import load_config
from reproduce.tasks.job import Job

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


@pytest.mark.parametrize('name', ['fpn', 'upernet'])
def test_segmentation_configs_of_the_embedded_data_name_and_colour_its_classes(name, drawn):
    """mmseg's dataset, built from the config alone, reads the maps as they were drawn."""
    config = Config.fromfile(ROOT / f'reproduce/configs/{name}_maformer-micro_shapes.py')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        settings = config[loader].dataset
        settings.data_root = str(drawn / 'ade20k/ADEChallengeData2016')
        with DefaultScope.overwrite_default_scope('mmseg'):
            dataset = DATASETS.build(settings)
        assert dataset.metainfo['classes'] == (*shapes.CLASSES, *shapes.GROUNDS)
        palette = dataset.metainfo['palette']
        assert len(palette) == len(set(map(tuple, palette))) == len(dataset.metainfo['classes'])
        info = dataset.get_data_info(0)
        drawn_map = np.asarray(Image.open(info['seg_map_path'])).astype(np.int64)
        labels = LoadAnnotations(reduce_zero_label=True)(info)['gt_seg_map']
        assert (labels == np.where(drawn_map == 0, 255, drawn_map - 1)).all()


@pytest.mark.slow
def test_mmsegs_own_tools_take_the_config(drawn, tmp_path):
    """Its test tool scores what this project does; its train tool takes a step of its own."""
    root = drawn / 'ade20k/ADEChallengeData2016'
    released = ROOT / 'reproduce/weights/released/sem_fpn_maformer_micro_shapes.safetensors'
    name = 'fpn_maformer-micro_shapes.py'
    torch.save({'state_dict': load_file(released), 'meta': {}}, tmp_path / 'weights.pth')
    loader = ('num_workers=0', 'persistent_workers=False', f'dataset.data_root={root}')
    command = [
        *('test.py', ROOT / 'reproduce/configs' / name, tmp_path / 'weights.pth'),
        *('--work-dir', tmp_path / 'tested', '--cfg-options'),
        *(f'test_dataloader.{setting}' for setting in loader),
        'model.backbone.init_cfg.checkpoint=None',
    ]
    printed = run_tool(mmseg, command, tmp_path)
    job = Job('ade20k', str(ROOT / 'reproduce/configs' / name), released, drawn, workers=0)
    ours = evaluate(job).evaluation.metrics['miou']
    assert float(re.search(r'mIoU: ([\d.]+)', printed).group(1)) == pytest.approx(ours, abs=0.006)
    command = [
        *('train.py', ROOT / 'reproduce/configs' / name, '--work-dir', tmp_path / 'trained'),
        *('--cfg-options', 'train_cfg.max_iters=1', 'train_dataloader.batch_size=2'),
        *(f'train_dataloader.{setting}' for setting in loader),
        *('val_cfg=None', 'val_dataloader=None', 'val_evaluator=None'),
    ]
    run_tool(mmseg, command, tmp_path)
    assert (tmp_path / 'trained/iter_1.pth').exists()


def run_tool(package, command, folder):
    """Run a script that mmdet or mmseg ships, and return what it prints."""
    tool, *arguments = map(str, command)
    done = subprocess.run(
        [sys.executable, Path(package.__path__[0]) / '.mim/tools' / tool, *arguments],
        cwd=folder,
        env=os.environ | {'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp('drawn')
    shapes.write(root, train=8, val=30)
    return root


@pytest.mark.slow
def test_mmdets_own_test_tool_takes_the_config(drawn, tmp_path):
    """It scores what this project's released Mask R-CNN scores on the same images."""
    data = drawn / 'coco'
    annotations = 'annotations/instances_val2017.json'
    released = ROOT / 'reproduce/weights/released/mask_rcnn_maformer_micro_shapes.safetensors'
    torch.save({'state_dict': load_file(released), 'meta': {}}, tmp_path / 'weights.pth')
    command = [
        'test.py',
        ROOT / 'reproduce/configs/mask-rcnn_maformer-micro_fpn_shapes.py',
        *(tmp_path / 'weights.pth', '--work-dir', tmp_path / 'work', '--cfg-options'),
        f'test_dataloader.dataset.data_root={data}/',
        f'test_evaluator.ann_file={data / annotations}',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        'model.backbone.init_cfg.checkpoint=None',
    ]
    printed = run_tool(mmdet, command, tmp_path)
    scores = dict(re.findall(r'coco/(bbox|segm)_mAP: ([\d.]+)', printed))
    assert float(scores['bbox']) > 0.15 and float(scores['segm']) > 0.15
