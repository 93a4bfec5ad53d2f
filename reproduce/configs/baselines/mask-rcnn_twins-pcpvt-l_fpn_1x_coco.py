_base_ = './mask-rcnn_twins-pcpvt-s_fpn_1x_coco.py'
model = dict(backbone=dict(depths=[3, 8, 27, 3]))
