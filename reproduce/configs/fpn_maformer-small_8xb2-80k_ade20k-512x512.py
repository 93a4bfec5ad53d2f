_base_ = [
    './_base_/models/fpn.py',
    './_base_/datasets/ade20k_8xb2.py',
    './_base_/schedules/fpn_80k.py',
    './_base_/default_runtime_mmseg.py',
]
custom_imports = dict(imports=['model.openmmlab'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='MAFormer',
        arch='maformer_small',
        # The paper gives the rates of detectors only; these are its Mask R-CNN's.
        drop_path_rate=0.2,
        # The ImageNet checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=PATH
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
