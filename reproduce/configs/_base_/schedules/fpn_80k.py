"""The paper's 80k schedule for Semantic FPN (Table 7), eight GPUs with two images each."""

_base_ = __import__('mmseg').__path__[0] + '/.mim/configs/_base_/schedules/schedule_80k.py'

optim_wrapper = dict(
    # AdamW is what the paper's other recipes use; no decay of the norms: Swin's published configs.
    paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))),
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=1e-4),
)
param_scheduler = [
    # The warm-up's start is that of Swin's UPerNet configs.
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1000),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=1000, end=80000, T_max=79000, eta_min=0.0),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
# mmseg saves ten times in a training, and keeps all of them.
default_hooks = dict(checkpoint=dict(interval=2000, max_keep_ckpts=3))
