"""Semantic FPN with MAFormer-micro for the embedded data: the full config, made small."""

_base_ = ['./fpn_maformer-small_8xb2-80k_ade20k-512x512.py', './_base_/datasets/shapes.py']

channels = 64
crop_size = (128, 128)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        arch='maformer_micro',
        drop_path_rate=0.0,
        init_cfg=dict(
            checkpoint='{{fileDirname}}/../weights/released/maformer_micro_shapes.safetensors'
        ),
    ),
    neck=dict(in_channels=[32, 64, 96, 128], out_channels=channels),
    decode_head=dict(in_channels=[channels] * 4, channels=channels, num_classes=15),
)

scale = (640, 160)  # the shorter side is 160
# Without PhotoMetricDistortion: here hues tell classes apart.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.95),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
dataset = _base_.map_dataset
train_dataloader = dict(
    batch_size=8, num_workers=1, dataset=dict(**dataset, pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=1, dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader

max_iters = 3000
train_cfg = dict(max_iters=max_iters, val_interval=1000)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=100,
        end=max_iters,
        T_max=max_iters - 100,
        eta_min=0.0,
    ),
]
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=100, max_keep_ckpts=2))
