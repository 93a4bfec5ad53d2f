"""The configs of the embedded data, also in the test tool that mmdet ships."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS
from PIL import Image
from safetensors.torch import load_file

import model.openmmlab  # noqa: F401
from datasets import shapes

ROOT = Path(__file__).parents[1]


def test_segmentation_configs_of_the_embedded_data_name_and_colour_its_classes(drawn):
    """mmseg's dataset, built from the config alone, reads the maps as they were drawn."""
    config = Config.fromfile(ROOT / 'reproduce/configs/upernet_maformer-micro_shapes.py')
    for loader in ('val_dataloader', 'test_dataloader'):
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
        ROOT / 'reproduce/configs/mask-rcnn_maformer-micro_fpn_shapes.py',
        *(tmp_path / 'weights.pth', '--work-dir', tmp_path / 'work', '--cfg-options'),
        f'test_dataloader.dataset.data_root={data}/',
        f'test_evaluator.ann_file={data / annotations}',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        'model.backbone.init_cfg.checkpoint=None',
    ]
    tool = Path(mmdet.__path__[0]) / '.mim/tools/test.py'
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''}
    options = {'cwd': tmp_path, 'env': environment, 'capture_output': True, 'text': True}
    done = subprocess.run([sys.executable, tool, *command], **options)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout + done.stderr
    scores = dict(re.findall(r'coco/(bbox|segm)_mAP: ([\d.]+)', printed))
    assert float(scores['bbox']) > 0.15 and float(scores['segm']) > 0.15
