"""mmseg's UPerNet for ADE20K, for any backbone that replaces its Swin-T."""

_base_ = __import__('mmseg').__path__[0] + '/.mim/configs/_base_/models/upernet_swin.py'

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
