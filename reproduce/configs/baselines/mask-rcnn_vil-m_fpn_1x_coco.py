"""Mask R-CNN with ViL-M, 1x (Table 5)."""

_base_ = './mask-rcnn_vil-s_fpn_1x_coco.py'

model = dict(backbone=dict(arch='vil_medium'))
