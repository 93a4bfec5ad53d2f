_base_ = './mask-rcnn_pvt-s_fpn_1x_coco.py'
model = dict(backbone=dict(num_layers=[3, 8, 27, 3]))
