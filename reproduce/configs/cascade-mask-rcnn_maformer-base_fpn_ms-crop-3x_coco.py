_base_ = './cascade-mask-rcnn_maformer-small_fpn_ms-crop-3x_coco.py'
model = dict(backbone=dict(arch='maformer_base', drop_path_rate=0.3))
