"""Mask R-CNN with Twins-PCPVT-S, 1x (Table 5): mmseg's backbone, trained as PVT is."""

_base_ = './mask-rcnn_pvt-s_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg.PCPVT',
        embed_dims=[64, 128, 320, 512],
        num_heads=[1, 2, 5, 8],
        mlp_ratios=[8, 8, 4, 4],
        depths=[3, 4, 6, 3],
        sr_ratios=[8, 4, 2, 1],
        qkv_bias=True,
        drop_path_rate=0.2,
    )
)
