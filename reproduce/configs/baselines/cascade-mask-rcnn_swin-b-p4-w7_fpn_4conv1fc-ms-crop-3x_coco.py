_base_ = './cascade-mask-rcnn_swin-s-p4-w7_fpn_4conv1fc-ms-crop-3x_coco.py'
model = dict(
    backbone=dict(embed_dims=128, num_heads=[4, 8, 16, 32]),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
