"""UPerNet with MAFormer-B, 160k iterations (Section 4.4, Table 7)."""

_base_ = './upernet_maformer-small_8xb2-160k_ade20k-512x512.py'

model = dict(backbone=dict(arch='maformer_base'))
