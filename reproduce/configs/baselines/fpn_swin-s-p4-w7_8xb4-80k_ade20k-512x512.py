_base_ = './fpn_swin-t-p4-w7_8xb4-80k_ade20k-512x512.py'
model = dict(backbone=dict(depths=[2, 2, 18, 2]))
