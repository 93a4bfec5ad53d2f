"""Semantic FPN with MAFormer-micro for the embedded data: the full config, made small."""

_base_ = ['./fpn_maformer-small_8xb2-80k_ade20k-512x512.py', './_base_/datasets/shapes.py']

model = dict(
    data_preprocessor=dict(size=_base_.map_crop_size),
    backbone=_base_.micro_backbone,
    neck=dict(in_channels=_base_.micro_channels, out_channels=64),
    decode_head=dict(in_channels=[64] * 4, channels=64, num_classes=15),
)

train_dataloader = _base_.map_train_loader
val_dataloader = _base_.map_test_loader
test_dataloader = _base_.map_test_loader

train_cfg = dict(max_iters=3000, val_interval=1000)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
warm_up, cosine = _base_.param_scheduler
param_scheduler = [
    {**warm_up, 'end': 100},
    {**cosine, 'begin': 100, 'end': 3000, 'T_max': 2900},
]
auto_scale_lr = dict(base_batch_size=8)
default_hooks = {**_base_.micro_hooks, 'checkpoint': dict(interval=100, max_keep_ckpts=2)}
