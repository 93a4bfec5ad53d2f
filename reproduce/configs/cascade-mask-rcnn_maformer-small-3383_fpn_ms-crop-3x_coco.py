"""Cascade Mask R-CNN with MAFormer-S at depths [3, 3, 8, 3], 3x (Section 4.3, Table 6)."""

_base_ = './cascade-mask-rcnn_maformer-small_fpn_ms-crop-3x_coco.py'

model = dict(backbone=dict(arch='maformer_small_3383'))
