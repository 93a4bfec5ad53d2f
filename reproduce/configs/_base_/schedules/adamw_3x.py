"""The paper's 3x schedule for detectors (Section 4.3): the 1x schedule, three times as long."""

_base_ = './adamw_1x.py'

max_epochs = 36
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    # The warm-up of mmdet's Swin configs; the paper is silent, and Swin's own code has 500.
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(
        type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[27, 33], gamma=0.1
    ),
]
