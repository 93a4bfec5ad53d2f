"""mmdet's default runtime, with fewer checkpoints."""

_base_ = 'mmdet::_base_/default_runtime.py'
# mmdet keeps one of each epoch: 67 GiB of Cascade Mask R-CNN with MAFormer-L.
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
