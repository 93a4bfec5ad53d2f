_base_ = './upernet_maformer-small_8xb2-160k_ade20k-512x512.py'
model = dict(backbone=dict(arch='maformer_small_3383'))
