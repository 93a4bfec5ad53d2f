"""UPerNet with Focal-T, 160k (Table 7), trained as MAFormer-S is.

Focal Transformer's segmentation code was not released; its drop path rate here is that of the
MAFormer rows. Windows in stage 4, which are more than one here, have neighbours as in the others.
"""

_base_ = '../upernet_maformer-small_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(type='Focal', arch='focal_tiny', expand_sizes=(3, 3, 3, 3)),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
