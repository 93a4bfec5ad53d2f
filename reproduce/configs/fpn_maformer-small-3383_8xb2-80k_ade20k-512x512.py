"""Semantic FPN with MAFormer-S at depths [3, 3, 8, 3], 80k iterations (Section 4.4, Table 7)."""

_base_ = './fpn_maformer-small_8xb2-80k_ade20k-512x512.py'

model = dict(backbone=dict(arch='maformer_small_3383'))
