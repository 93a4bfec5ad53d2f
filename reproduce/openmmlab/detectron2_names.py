"""Detectron2's Mask R-CNN under mmdet's names: ViL's detectors were released as such.

Both have the same layers, anchors, order of classes and normalisation of boxes.
"""

import sys
from collections.abc import Mapping

import torch
import torch.nn as nn

from model.checkpoint import renamed
from model.pyramid import Pyramid

_BACKBONE = 'backbone.bottom_up.'

# Regular expressions of Detectron2's parameter names, and their replacements.
_NAMES = (
    (r'^backbone\.fpn_lateral(\d)\.', lambda m: f'neck.lateral_convs.{int(m[1]) - 2}.conv.'),
    (r'^backbone\.fpn_output(\d)\.', lambda m: f'neck.fpn_convs.{int(m[1]) - 2}.conv.'),
    (r'^proposal_generator\.rpn_head\.conv\.', 'rpn_head.rpn_conv.'),
    (r'^proposal_generator\.rpn_head\.objectness_logits\.', 'rpn_head.rpn_cls.'),
    (r'^proposal_generator\.rpn_head\.anchor_deltas\.', 'rpn_head.rpn_reg.'),
    (
        r'^roi_heads\.box_head\.fc(\d)\.',
        lambda m: f'roi_head.bbox_head.shared_fcs.{int(m[1]) - 1}.',
    ),
    (r'^roi_heads\.box_predictor\.cls_score\.', 'roi_head.bbox_head.fc_cls.'),
    (r'^roi_heads\.box_predictor\.bbox_pred\.', 'roi_head.bbox_head.fc_reg.'),
    (
        r'^roi_heads\.mask_head\.mask_fcn(\d)\.',
        lambda m: f'roi_head.mask_head.convs.{int(m[1]) - 1}.conv.',
    ),
    (r'^roi_heads\.mask_head\.deconv\.', 'roi_head.mask_head.upsample.'),
    (r'^roi_heads\.mask_head\.predictor\.', 'roi_head.mask_head.conv_logits.'),
)
_BUFFERS = r'^pixel_(mean|std)$|\.cell_anchors\.\d$'


def renamed_for(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return Detectron2's parameters under the names of a detector of mmdet; others stay.

    Args:
        model: a detector; its backbone's own release names are those of the network's module.
        state: the parameters of a checkpoint.
    """
    network = getattr(model.backbone, 'network', None)
    if not isinstance(network, Pyramid) or not any(n.startswith(_BACKBONE) for n in state):
        return dict(state)
    backbone = {n.removeprefix(_BACKBONE): v for n, v in state.items() if n.startswith(_BACKBONE)}
    translate = getattr(sys.modules[type(network).__module__], 'checkpoint_filter_fn', None)
    if translate is not None:
        backbone = translate(backbone, network)
    rest = {n: v for n, v in state.items() if not n.startswith(_BACKBONE)}
    return {
        **{f'backbone.network.{name}': value for name, value in backbone.items()},
        **renamed(rest, _NAMES, without=_BUFFERS),
    }
