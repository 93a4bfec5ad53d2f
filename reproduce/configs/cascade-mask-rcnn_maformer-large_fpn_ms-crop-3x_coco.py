_base_ = './cascade-mask-rcnn_maformer-small_fpn_ms-crop-3x_coco.py'
model = dict(
    backbone=dict(arch='maformer_large', drop_path_rate=0.4),
    neck=dict(in_channels=[128, 192, 448, 640]),
)
