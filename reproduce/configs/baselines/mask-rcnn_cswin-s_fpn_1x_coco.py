_base_ = './mask-rcnn_cswin-t_fpn_1x_coco.py'
model = dict(backbone=dict(arch='cswin_small', drop_path_rate=0.3))
