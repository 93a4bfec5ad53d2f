"""Semantic FPN with MAFormer-B, 80k iterations (Section 4.4, Table 7)."""

_base_ = './fpn_maformer-small_8xb2-80k_ade20k-512x512.py'

model = dict(backbone=dict(arch='maformer_base', drop_path_rate=0.3))
