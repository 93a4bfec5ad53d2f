"""Cascade Mask R-CNN with CSWin-T, 3x (Table 6), trained as MAFormer-S is.

CSWin's detection code was not released; its drop path rates here are those of the MAFormer rows.
"""

_base_ = '../cascade-mask-rcnn_maformer-small_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(type='CSWin', arch='cswin_tiny'),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
