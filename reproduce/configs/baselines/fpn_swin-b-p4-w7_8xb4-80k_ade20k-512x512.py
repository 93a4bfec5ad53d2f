_base_ = './fpn_swin-s-p4-w7_8xb4-80k_ade20k-512x512.py'
model = dict(
    backbone=dict(embed_dims=128, num_heads=[4, 8, 16, 32]),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
