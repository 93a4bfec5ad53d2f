_base_ = './mask-rcnn_maformer-small_fpn_1x_coco.py'
model = dict(backbone=dict(arch='maformer_small_3383'))
