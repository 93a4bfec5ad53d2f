_base_ = [
    './_base_/models/upernet.py',
    './_base_/datasets/ade20k_8xb2.py',
    './_base_/schedules/upernet_160k.py',
    './_base_/default_runtime_mmseg.py',
]
custom_imports = dict(imports=['model.openmmlab'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='MAFormer',
        arch='maformer_small',
        # The paper gives the rates of detectors only; this is the one of Swin's UPerNet configs.
        drop_path_rate=0.3,
        # The ImageNet checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=PATH
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
