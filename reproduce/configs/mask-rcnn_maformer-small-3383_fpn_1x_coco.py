"""Mask R-CNN with MAFormer-S at depths [3, 3, 8, 3], 1x (Section 4.3, Table 5)."""

_base_ = './mask-rcnn_maformer-small_fpn_1x_coco.py'

model = dict(backbone=dict(arch='maformer_small_3383'))
