_base_ = [
    './_base_/models/cascade-mask-rcnn_fpn.py',
    './_base_/datasets/coco_instance_ms-crop.py',
    './_base_/schedules/adamw_3x.py',
    './_base_/default_runtime_mmdet.py',
]
custom_imports = dict(imports=['model.openmmlab'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='MAFormer',
        arch='maformer_small',
        drop_path_rate=0.2,
        # The ImageNet checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=PATH
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
