"""Mask R-CNN with Twins-SVT-S, 1x (Table 5): mmseg's backbone, trained as PVT is."""

_base_ = './mask-rcnn_twins-pcpvt-s_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg.SVT',
        embed_dims=[64, 128, 256, 512],
        num_heads=[2, 4, 8, 16],
        mlp_ratios=[4, 4, 4, 4],
        depths=[2, 2, 10, 4],
        sr_ratios=[8, 4, 2, 1],
        windiow_sizes=[7, 7, 7, 7],  # mmseg's spelling
        norm_after_stage=True,
        qkv_bias=True,
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
