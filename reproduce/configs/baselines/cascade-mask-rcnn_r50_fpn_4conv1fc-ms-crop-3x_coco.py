"""Cascade Mask R-CNN with ResNet-50 and Swin's box heads and schedule, 3x (Table 6)."""

_base_ = [
    '../_base_/models/cascade-mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance_ms-crop.py',
    '../_base_/schedules/adamw_3x.py',
    '../_base_/default_runtime_mmdet.py',
]
