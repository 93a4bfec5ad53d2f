"""Semantic FPN with ResNet-101, 80k iterations (Table 7).

mmseg's own `sem_fpn/fpn_r101_4xb4-160k_ade20k-512x512.py` assigns `model` twice, which loses its
depth: it builds ResNet-50.
"""

_base_ = [
    '../_base_/models/fpn.py',
    __import__('mmseg').__path__[0] + '/.mim/configs/_base_/datasets/ade20k.py',
    __import__('mmseg').__path__[0] + '/.mim/configs/_base_/schedules/schedule_80k.py',
    '../_base_/default_runtime_mmseg.py',
]
model = dict(pretrained='open-mmlab://resnet101_v1c', backbone=dict(depth=101))
auto_scale_lr = dict(enable=False, base_batch_size=16)
