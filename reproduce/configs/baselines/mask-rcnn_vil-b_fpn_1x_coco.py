_base_ = './mask-rcnn_vil-s_fpn_1x_coco.py'
model = dict(backbone=dict(arch='vil_base', drop_path_rate=0.3))
