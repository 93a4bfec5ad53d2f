"""Semantic FPN with Swin-T, 80k iterations (Table 7).

The row is the Twins paper's, which trained Swin as its own models: mmseg's configs of those.
"""

_base_ = (
    __import__('mmseg').__path__[0]
    + '/.mim/configs/twins/twins_pcpvt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py'
)

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
auto_scale_lr = dict(enable=False, base_batch_size=32)
