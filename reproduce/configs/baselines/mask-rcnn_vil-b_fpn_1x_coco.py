"""Mask R-CNN with ViL-B, 1x (Table 5)."""

_base_ = './mask-rcnn_vil-s_fpn_1x_coco.py'

model = dict(backbone=dict(arch='vil_base', drop_path_rate=0.3))
