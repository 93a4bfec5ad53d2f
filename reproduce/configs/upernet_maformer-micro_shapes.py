"""UPerNet with MAFormer-micro for the embedded data: the full config, made small."""

_base_ = ['./upernet_maformer-small_8xb2-160k_ade20k-512x512.py', './_base_/datasets/shapes.py']

channels = 64
model = dict(
    data_preprocessor=dict(size=_base_.map_crop_size),
    backbone=_base_.micro_backbone,
    decode_head=dict(in_channels=_base_.micro_channels, channels=channels, num_classes=15),
    auxiliary_head=dict(in_channels=_base_.micro_channels[2], channels=channels, num_classes=15),
)

train_dataloader = _base_.map_train_loader
val_dataloader = _base_.map_test_loader
test_dataloader = _base_.map_test_loader

train_cfg = dict(max_iters=_base_.map_iterations, val_interval=1000)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=100),
    dict(
        type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=100, end=_base_.map_iterations
    ),
]
auto_scale_lr = dict(base_batch_size=8)
default_hooks = _base_.map_hooks
