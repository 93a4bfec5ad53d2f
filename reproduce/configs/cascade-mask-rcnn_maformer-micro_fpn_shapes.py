"""Cascade Mask R-CNN with MAFormer-micro for the embedded data: the full config, made small."""

_base_ = [
    './cascade-mask-rcnn_maformer-small_fpn_ms-crop-3x_coco.py',
    './_base_/datasets/shapes.py',
]

channels = _base_.detector_channels
small_head = dict(
    in_channels=channels, conv_out_channels=channels, fc_out_channels=128, num_classes=10
)
model = dict(
    backbone=_base_.micro_backbone,
    neck=_base_.micro_neck,
    rpn_head=_base_.micro_rpn_head,
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=[{**head, **small_head} for head in _base_.model.roi_head.bbox_head],
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=_base_.micro_mask_head,
    ),
    train_cfg=dict(
        **_base_.micro_rpn_training,
        rcnn=[
            {**stage, 'sampler': {**stage['sampler'], 'num': 32, 'pos_fraction': 0.25}}
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
    test_cfg=_base_.micro_rpn_testing,
)

scales = [(side, 256) for side in (128, 144, 160, 176)]
resize = dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [resize],
            [
                dict(
                    type='RandomChoiceResize',
                    scales=[(128, 256), (160, 256), (192, 256)],
                    keep_ratio=True,
                ),
                dict(
                    type='RandomCrop',
                    crop_type='absolute_range',
                    crop_size=(96, 144),
                    allow_negative_crop=True,
                ),
                resize,
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 160), keep_ratio=True),
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

max_epochs = 8
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = _base_.detector_optimizer
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[5, 7], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = _base_.detector_hooks
