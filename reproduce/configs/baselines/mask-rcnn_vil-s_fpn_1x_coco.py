"""Mask R-CNN with ViL-S, 1x (Table 5), trained as MAFormer-S is.

The backbone is that of ViL's released detectors: sliding windows in every stage, maps that are not
normalised, and the last layers of the classifier, which nothing reads and the row's size counts.
"""

_base_ = '../mask-rcnn_maformer-small_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='ViL',
        arch='vil_small',
        full_attention=(False, False, False, False),
        output_norms=False,
        with_classifier=True,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
