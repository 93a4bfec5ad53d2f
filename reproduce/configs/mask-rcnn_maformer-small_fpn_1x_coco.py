_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    './_base_/schedules/adamw_1x.py',
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
