_base_ = './mask-rcnn_twins-svt-s_fpn_1x_coco.py'
model = dict(
    backbone=dict(embed_dims=[96, 192, 384, 768], num_heads=[3, 6, 12, 24], depths=[2, 2, 18, 2]),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
