"""COCO 2017 with the multi-scale training of DETR and Sparse R-CNN, which the paper refers to.

The shorter side is 480-800, the longer at most 1333 (Section 4.3). That half of the images is
cropped before is part of the strategy in both of those and in Swin's published configs.
"""

_base_ = 'mmdet::_base_/datasets/coco_instance.py'

resize = dict(
    type='RandomChoiceResize',
    scales=[(side, 1333) for side in range(480, 801, 32)],
    keep_ratio=True,
)
resize_before = {**resize, 'scales': [(400, 1333), (500, 1333), (600, 1333)]}
crop = dict(
    type='RandomCrop',
    crop_type='absolute_range',
    crop_size=(384, 600),
    allow_negative_crop=True,
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[[resize], [resize_before, crop, resize]]),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
