"""Cascade Mask R-CNN with MAFormer-micro for the embedded data: the full config, made small."""

_base_ = [
    './cascade-mask-rcnn_maformer-small_fpn_ms-crop-3x_coco.py',
    './_base_/datasets/shapes.py',
]

channels = _base_.detector_channels
small_head = dict(
    in_channels=channels, conv_out_channels=channels, fc_out_channels=128, num_classes=10
)
bbox_heads = [{**head, **small_head} for head in _base_.model.roi_head.bbox_head]
model = dict(
    **_base_.detector,
    roi_head=dict(**_base_.detector_roi_head, bbox_head=bbox_heads),
    train_cfg=dict(
        **_base_.detector_rpn_training,
        rcnn=[
            {**stage, 'sampler': {**stage['sampler'], 'num': 32, 'pos_fraction': 0.25}}
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
)

resize = {**_base_.resize, 'scales': [(side, 256) for side in (128, 144, 160, 176)]}
resize_before = {**_base_.resize, 'scales': [(side, 256) for side in (128, 160, 192)]}
crop = {**_base_.crop, 'crop_size': (96, 144)}
train_pipeline = [
    *_base_.object_loading,
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[[resize], [resize_before, crop, resize]]),
    dict(type='PackDetInputs'),
]
load, annotations = _base_.object_loading
test_resize = dict(type='Resize', scale=(256, 160), keep_ratio=True)
test_pipeline = [load, test_resize, annotations, _base_.object_packing]
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=8, val_interval=4)
optim_wrapper = _base_.detector_optimizer
warm_up, steps = _base_.param_scheduler
param_scheduler = [{**warm_up, 'end': 100}, {**steps, 'end': 8, 'milestones': [5, 7]}]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = _base_.micro_hooks
