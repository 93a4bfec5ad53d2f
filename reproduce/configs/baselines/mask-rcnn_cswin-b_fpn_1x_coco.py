_base_ = './mask-rcnn_cswin-t_fpn_1x_coco.py'
model = dict(
    backbone=dict(arch='cswin_base', drop_path_rate=0.3),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
