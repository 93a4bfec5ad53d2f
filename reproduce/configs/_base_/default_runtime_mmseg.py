"""mmseg's default runtime."""

# Not 'mmseg::...': mmengine would look for a distribution mmsegmentation, not onedl-mmsegmentation.
_base_ = __import__('mmseg').__path__[0] + '/.mim/configs/_base_/default_runtime.py'
