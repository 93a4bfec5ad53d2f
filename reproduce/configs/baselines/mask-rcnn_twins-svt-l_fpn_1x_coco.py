_base_ = './mask-rcnn_twins-svt-b_fpn_1x_coco.py'
model = dict(
    backbone=dict(embed_dims=[128, 256, 512, 1024], num_heads=[4, 8, 16, 32]),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
