"""ADE20K at 512x512, two images on each of eight GPUs."""

# Not 'mmseg::...': mmengine would look for a distribution mmsegmentation, not onedl-mmsegmentation.
_base_ = __import__('mmseg').__path__[0] + '/.mim/configs/_base_/datasets/ade20k.py'

train_dataloader = dict(batch_size=2)
