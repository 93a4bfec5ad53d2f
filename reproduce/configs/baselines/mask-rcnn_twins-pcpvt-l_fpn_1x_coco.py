"""Mask R-CNN with Twins-PCPVT-L, 1x (Table 5)."""

_base_ = './mask-rcnn_twins-pcpvt-s_fpn_1x_coco.py'

model = dict(backbone=dict(depths=[3, 8, 27, 3]))
