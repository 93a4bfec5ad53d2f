"""UPerNet with Shuffle-T, 160k (Table 7), trained as MAFormer-S is.

Shuffle Transformer's segmentation code was not released; its drop path rate here is that of the
MAFormer rows.
"""

_base_ = '../upernet_maformer-small_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(type='Shuffle', arch='shuffle_tiny'),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
