"""The paper's 1x schedule for detectors (Section 4.3), eight GPUs with two images each."""

_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(
    # No decay of the norms, and the betas: Swin's published configs.
    paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))),
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
param_scheduler = [
    # The warm-up of mmdet's Swin configs; the paper is silent, and Swin's own code has 500.
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[8, 11], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
