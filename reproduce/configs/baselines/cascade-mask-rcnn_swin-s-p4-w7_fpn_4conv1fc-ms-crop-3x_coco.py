_base_ = './cascade-mask-rcnn_swin-t-p4-w7_fpn_4conv1fc-ms-crop-3x_coco.py'
model = dict(backbone=dict(depths=[2, 2, 18, 2]))
