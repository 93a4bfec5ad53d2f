_base_ = './cascade-mask-rcnn_x101-32x4d_fpn_4conv1fc-ms-crop-3x_coco.py'

init_cfg = dict(checkpoint='open-mmlab://resnext101_64x4d')
model = dict(backbone=dict(groups=64, init_cfg=init_cfg))
