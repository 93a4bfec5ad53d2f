_base_ = './mask-rcnn_maformer-small_fpn_1x_coco.py'
model = dict(backbone=dict(arch='maformer_base', drop_path_rate=0.3))
