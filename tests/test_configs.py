"""Every config file builds and trains, and says what the paper says."""

import mmdet.models  # noqa: F401
import mmseg.models  # noqa: F401
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from reproduce.openmmlab.configs import CONFIGS, load_config

NAMES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    # Those for the embedded data are trained in test_train_openmmlab.py.
    if '_base_' not in path.parts and not path.stem.endswith('_shapes')
)
FAST = (
    'mask-rcnn_maformer-small_fpn_1x_coco.py',
    'fpn_maformer-small_8xb2-80k_ade20k-512x512.py',
)
SIZE = 64  # pixels a side


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
    return MODELS.build(config.model).train()


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


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in NAMES]
)
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


@pytest.mark.parametrize(
    ('name', 'rate', 'weight_decay', 'drop_path', 'length'),
    [
        ('mask-rcnn_maformer-base_fpn_1x_coco', 1e-4, 0.05, 0.3, 12),
        ('cascade-mask-rcnn_maformer-large_fpn_ms-crop-3x_coco', 1e-4, 0.05, 0.4, 36),
        ('fpn_maformer-small_8xb2-80k_ade20k-512x512', 2e-4, 1e-4, None, 80_000),
        ('upernet_maformer-small_8xb2-160k_ade20k-512x512', 6e-5, 0.01, None, 160_000),
    ],
)
def test_says_what_the_paper_says(name, rate, weight_decay, drop_path, length):
    config = load_config(f'{name}.py')
    optimizer, decay = config.optim_wrapper.optimizer, config.param_scheduler[1]
    assert (optimizer.type, optimizer.lr) == ('AdamW', rate)
    assert optimizer.weight_decay == weight_decay
    assert drop_path in (None, config.model.backbone.drop_path_rate)
    schedule = config.train_cfg.get('max_epochs') or config.train_cfg.max_iters
    assert schedule == decay.end == length
    assert config.auto_scale_lr == {'enable': False, 'base_batch_size': 16}
    assert config.train_dataloader.batch_size * 8 == 16
