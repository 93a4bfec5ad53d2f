"""mmseg's default runtime."""

_base_ = __import__('mmseg').__path__[0] + '/.mim/configs/_base_/default_runtime.py'
