"""Cascade Mask R-CNN with ResNeXt-101-64x4d and Swin's box heads and schedule, 3x (Table 6)."""

_base_ = './cascade-mask-rcnn_r50_fpn_4conv1fc-ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        type='ResNeXt',
        depth=101,
        groups=64,
        base_width=4,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnext101_64x4d'),
    )
)
