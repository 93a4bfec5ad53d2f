"""UPerNet with MAFormer-S at depths [3, 3, 8, 3], 160k iterations (Section 4.4, Table 7)."""

_base_ = './upernet_maformer-small_8xb2-160k_ade20k-512x512.py'

model = dict(backbone=dict(arch='maformer_small_3383'))
