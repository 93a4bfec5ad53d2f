"""Every config file builds and trains, and says what the paper says."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from reproduce.openmmlab.configs import CONFIGS, load_config
from reproduce.openmmlab.models import build

NAMES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    # Those for the embedded data are trained in test_train_openmmlab.py.
    if '_base_' not in path.parts and not path.stem.endswith('_shapes')
)
MAFORMER = [name for name in NAMES if 'maformer' in name]
FRAMEWORKS = (
    'mask-rcnn_maformer-small_fpn_1x_coco.py',
    'cascade-mask-rcnn_maformer-small_fpn_ms-crop-3x_coco.py',
    'fpn_maformer-small_8xb2-80k_ade20k-512x512.py',
    'upernet_maformer-small_8xb2-160k_ade20k-512x512.py',
)
SIZE = 64  # pixels a side


def marked(names, fast):
    return [pytest.param(n, marks=() if n in fast else pytest.mark.slow) for n in names]


def is_detector(config):
    return config.default_scope == 'mmdet'


def load_small(name):
    """The config with fewer RoIs and a small crop; the model is the one of the file."""
    config = load_config(name)
    if not is_detector(config):
        config.model.data_preprocessor.size = (SIZE, SIZE)
        return config
    train = config.model.train_cfg
    train.rpn_proposal.max_per_img = 8
    for stage in train.rcnn if isinstance(train.rcnn, list) else [train.rcnn]:
        stage.sampler.num = 8
    return config


def build_for_training(config):
    torch.manual_seed(0)
    return build(config, 'cpu').requires_grad_(True).train()


def batch(config):
    """What the data loader would hand over: images with two objects, or two classes, each."""
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randint(256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        for _ in range(2)
    ]
    return {'inputs': inputs, 'data_samples': [sample(is_detector(config)) for _ in inputs]}


def sample(detection):
    meta = {'img_shape': (SIZE, SIZE), 'ori_shape': (SIZE, SIZE), 'img_id': 0}
    meta['scale_factor'] = (1.0, 1.0)
    half = SIZE // 2
    if detection:
        masks = np.zeros((2, SIZE, SIZE), np.uint8)
        masks[0, :half, :half] = masks[1, half:, half:] = 1
        boxes = torch.tensor([[0, 0, half, half], [half, half, SIZE, SIZE]]).float()
        data = DetDataSample(metainfo=meta)
        data.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.tensor([3, 70]), masks=BitmapMasks(masks, SIZE, SIZE)
        )
        return data
    labels = torch.zeros(1, SIZE, SIZE, dtype=torch.long)
    labels[:, half:] = 149
    labels[:, :4] = 255
    data = SegDataSample(metainfo=meta)
    data.gt_sem_seg = PixelData(data=labels)
    return data


@pytest.mark.parametrize('name', marked(NAMES, FRAMEWORKS[::2]))
def test_builds_and_trains(name):
    config = load_small(name)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = build_for_training(config)
        optimizer = build_optim_wrapper(model, config.optim_wrapper)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        without_gradient = set(trained)
        for key, parameter in trained.items():
            parameter.register_post_accumulate_grad_hook(
                lambda _, key=key: without_gradient.discard(key)
            )
        losses = model.train_step(batch(config), optimizer)
    assert losses['loss'].isfinite()
    # What sees no gradient stops distributed training.
    assert without_gradient == set()


@pytest.mark.parametrize('name', marked(MAFORMER, FRAMEWORKS))
def test_says_what_the_paper_says(name):
    config = load_config(name)
    size = name.split('maformer-')[1].split('_')[0].split('-')[0]
    optimizer = config.optim_wrapper.optimizer
    warm_up, decay = config.param_scheduler
    backbone = config.model.backbone
    assert config.auto_scale_lr == {'enable': False, 'base_batch_size': 16}
    assert config.train_dataloader.batch_size * 8 == config.auto_scale_lr.base_batch_size
    assert optimizer.type == 'AdamW'
    assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': None}
    if is_detector(config):
        cascade = name.startswith('cascade')
        large = 0.4 if cascade else 0.3
        assert backbone.drop_path_rate == {'small': 0.2, 'base': 0.3, 'large': large}[size]
        assert (optimizer.lr, optimizer.weight_decay) == (1e-4, 0.05)
        assert config.train_cfg.max_epochs == decay.end == (36 if cascade else 12)
        assert decay.milestones == ([27, 33] if cascade else [8, 11])
        assert decay.gamma == 0.1
        scales = set(_scales(config.train_dataloader.dataset.pipeline))
        assert max(scales) == (800, 1333)
        assert min(scales) == ((400, 1333) if cascade else (800, 1333))
        assert set(_scales(config.test_dataloader.dataset.pipeline)) == {(800, 1333)}
    elif name.startswith('fpn'):
        assert (optimizer.lr, optimizer.weight_decay) == (2e-4, 1e-4)
        assert config.train_cfg.max_iters == decay.end == 80000
        assert (warm_up.end, decay.type, decay.T_max) == (1000, 'CosineAnnealingLR', 79000)
    else:
        assert (optimizer.lr, optimizer.weight_decay) == (6e-5, 0.01)
        assert config.train_cfg.max_iters == decay.end == 160000
        assert (warm_up.end, decay.type, decay.power) == (1500, 'PolyLR', 1.0)


def _scales(pipeline):
    """The (shorter, longer) sides of every resize in a pipeline."""
    for step in pipeline:
        if step.type == 'Resize':
            yield tuple(sorted(step.scale))
        elif step.type == 'RandomChoiceResize':
            yield from (tuple(sorted(scale)) for scale in step.scales)
        elif step.type == 'RandomChoice':
            for choice in step.transforms:
                yield from _scales(choice)
