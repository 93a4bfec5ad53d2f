"""Mask R-CNN with MAFormer-micro for the embedded data: the full config, made small."""

_base_ = ['./mask-rcnn_maformer-small_fpn_1x_coco.py', './_base_/datasets/shapes.py']

channels = 48
model = dict(
    backbone=dict(
        arch='maformer_micro',
        drop_path_rate=0.0,
        init_cfg=dict(
            checkpoint='{{fileDirname}}/../weights/released/maformer_micro_shapes.safetensors'
        ),
    ),
    neck=dict(in_channels=[32, 64, 96, 128], out_channels=channels),
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(
            num_convs=2, in_channels=channels, conv_out_channels=channels, num_classes=10
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
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
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[6, 8], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=2))
