"""Released detectors under mmdet's names: ViL's, of Detectron2, and PVT's and Swin's own.

They have the same layers, anchors, order of classes and normalisation of boxes.
"""

import sys
from collections.abc import Mapping

import torch
import torch.nn as nn

from model.checkpoint import renamed, translated

_BACKBONE = 'backbone.bottom_up.'

# Regular expressions of Detectron2's parameter names, and their replacements.
_NAMES = (
    (r'^backbone\.fpn_lateral(\d)\.', lambda m: f'neck.lateral_convs.{int(m[1]) - 2}.conv.'),
    (r'^backbone\.fpn_output(\d)\.', lambda m: f'neck.fpn_convs.{int(m[1]) - 2}.conv.'),
    (r'^proposal_generator\.rpn_head\.conv\.', 'rpn_head.rpn_conv.'),
    (r'^proposal_generator\.rpn_head\.objectness_logits\.', 'rpn_head.rpn_cls.'),
    (r'^proposal_generator\.rpn_head\.anchor_deltas\.', 'rpn_head.rpn_reg.'),
    (r'^roi_heads\.', 'roi_head.'),
    (r'\.box_head\.fc(\d)\.', lambda m: f'.bbox_head.shared_fcs.{int(m[1]) - 1}.'),
    (r'\.box_predictor\.cls_score\.', '.bbox_head.fc_cls.'),
    (r'\.box_predictor\.bbox_pred\.', '.bbox_head.fc_reg.'),
    (r'\.mask_head\.mask_fcn(\d)\.', lambda m: f'.mask_head.convs.{int(m[1]) - 1}.conv.'),
    (r'\.mask_head\.deconv\.', '.mask_head.upsample.'),
    (r'\.mask_head\.predictor\.', '.mask_head.conv_logits.'),
)
_BUFFERS = r'^pixel_(mean|std)$|\.cell_anchors\.\d$'


def renamed_for(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return released parameters under the names of a detector of mmdet; others stay."""
    network = getattr(model.backbone, 'network', None)
    backbone = {n.removeprefix(_BACKBONE): v for n, v in state.items() if n.startswith(_BACKBONE)}
    if network is None or not backbone:
        return _converted(model, dict(state))
    rest = {n: v for n, v in state.items() if not n.startswith(_BACKBONE)}
    backbone = {f'backbone.network.{n}': v for n, v in translated(backbone, network).items()}
    return backbone | renamed(rest, names=_NAMES, without=_BUFFERS)


def _converted(model: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename PVT's and Swin's parameters with the function that mmdet has for their classifiers."""
    module = sys.modules[type(model.backbone).__module__]
    convert = getattr(module, 'pvt_convert', getattr(module, 'swin_converter', None))
    if convert is None or not any('.patch_embed' in n and '.proj.' in n for n in state):
        return state
    own = [name for name in state if name.startswith('backbone.')]
    parts = convert({name.removeprefix('backbone.'): state.pop(name) for name in own})
    return state | {f'backbone.{n.removeprefix("backbone.")}': v for n, v in parts.items()}
