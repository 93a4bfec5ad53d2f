"""Mask R-CNN with MAFormer-micro for the embedded data: the full config, made small."""

_base_ = ['./mask-rcnn_maformer-small_fpn_1x_coco.py', './_base_/datasets/shapes.py']

channels = _base_.detector_channels
model = dict(
    backbone=_base_.micro_backbone,
    neck=_base_.micro_neck,
    rpn_head=_base_.micro_rpn_head,
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=_base_.micro_mask_head,
    ),
    train_cfg=dict(**_base_.micro_rpn_training, rcnn=dict(sampler=dict(num=32))),
    test_cfg=_base_.micro_rpn_testing,
)

scale = (192, 192)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=4, num_workers=1, dataset=dict(metainfo=_base_.metainfo, pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=1, dataset=dict(metainfo=_base_.metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader

max_epochs = 9
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
optim_wrapper = _base_.detector_optimizer
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[6, 8], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = _base_.detector_hooks
