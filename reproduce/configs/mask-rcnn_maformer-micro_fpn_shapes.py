"""Mask R-CNN with MAFormer-micro for the embedded data: the full config, made small."""

_base_ = ['./mask-rcnn_maformer-small_fpn_1x_coco.py', './_base_/datasets/shapes.py']

bbox_head = dict(in_channels=_base_.detector_channels, fc_out_channels=256, num_classes=10)
model = dict(
    **_base_.detector,
    roi_head=dict(**_base_.detector_roi_head, bbox_head=bbox_head),
    train_cfg=dict(**_base_.detector_rpn_training, rcnn=dict(sampler=dict(num=32))),
)

resize = dict(type='Resize', scale=(192, 192), keep_ratio=True)
flip, pack = dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')
train_pipeline = [*_base_.object_loading, resize, flip, pack]
load, annotations = _base_.object_loading
test_pipeline = [load, resize, annotations, _base_.object_packing]
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=9, val_interval=3)
optim_wrapper = _base_.detector_optimizer
warm_up, steps = _base_.param_scheduler
param_scheduler = [{**warm_up, 'end': 100}, {**steps, 'end': 9, 'milestones': [6, 8]}]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = _base_.micro_hooks
