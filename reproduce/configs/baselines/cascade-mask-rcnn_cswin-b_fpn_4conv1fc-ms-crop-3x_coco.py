_base_ = './cascade-mask-rcnn_cswin-t_fpn_4conv1fc-ms-crop-3x_coco.py'
model = dict(
    backbone=dict(arch='cswin_base', drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
