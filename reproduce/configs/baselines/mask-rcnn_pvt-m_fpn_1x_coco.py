_base_ = './mask-rcnn_pvt-s_fpn_1x_coco.py'
model = dict(backbone=dict(num_layers=[3, 4, 18, 3]))
