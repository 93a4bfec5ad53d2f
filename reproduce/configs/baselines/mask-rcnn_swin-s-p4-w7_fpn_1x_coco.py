"""Mask R-CNN with Swin-S, 1x (Table 5); mmdet ships Swin-T with this schedule."""

_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'

model = dict(backbone=dict(depths=[2, 2, 18, 2], init_cfg=None))
