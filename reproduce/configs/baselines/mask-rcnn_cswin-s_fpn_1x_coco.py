"""Mask R-CNN with CSWin-S, 1x (Table 5)."""

_base_ = './mask-rcnn_cswin-t_fpn_1x_coco.py'

model = dict(backbone=dict(arch='cswin_small', drop_path_rate=0.3))
