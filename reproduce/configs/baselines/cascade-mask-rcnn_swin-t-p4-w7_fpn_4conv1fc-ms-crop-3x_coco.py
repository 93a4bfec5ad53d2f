"""Cascade Mask R-CNN with Swin-T, 3x (Table 6); mmdet ships it with other detectors only."""

_base_ = './cascade-mask-rcnn_r50_fpn_4conv1fc-ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        drop_path_rate=0.2,
        convert_weights=True,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0)))
)
