"""Mask R-CNN with PVT-S, 1x (Table 5): mmdet's backbone, and the optimiser of its RetinaNet."""

_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x.py',
    '../_base_/default_runtime_mmdet.py',
]
model = dict(
    backbone=dict(_delete_=True, type='PyramidVisionTransformer', num_layers=[3, 4, 6, 3]),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
