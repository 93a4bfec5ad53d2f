"""mmseg's Semantic FPN for ADE20K, for any backbone that replaces its ResNet-50."""

_base_ = __import__('mmseg').__path__[0] + '/.mim/configs/_base_/models/fpn_r50.py'

model = dict(
    data_preprocessor=dict(size=(512, 512)), pretrained=None, decode_head=dict(num_classes=150)
)
