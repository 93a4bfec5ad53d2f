"""Mask R-CNN with MixFormer-B4, 1x (Table 5), trained as MAFormer-S is."""

_base_ = '../mask-rcnn_maformer-small_fpn_1x_coco.py'

# One of its batch norms sees one value of each image, and an epoch may end with one image a GPU.
sync_bn = 'torch'
model = dict(
    backbone=dict(type='MixFormer', arch='mixformer_b4'),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
