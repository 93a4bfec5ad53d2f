_base_ = './mask-rcnn_maformer-small_fpn_1x_coco.py'
model = dict(
    backbone=dict(arch='maformer_large', drop_path_rate=0.3),
    neck=dict(in_channels=[128, 192, 448, 640]),
)
