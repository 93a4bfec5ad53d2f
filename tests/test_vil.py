"""ViL against its released names and a slow computation."""

import math

import pytest
import torch
from slow_layers import (
    Shapes,
    check_names,
    check_outputs,
    convolution,
    gelu,
    layer_norm,
    linear,
    load_release,
    padded,
    small_network,
)

from model import openmmlab
from model.vil import checkpoint_filter_fn
from reproduce.openmmlab import configs, models
from reproduce.openmmlab.detectron2_names import renamed_for

TINY = {'dims': (8, 16, 24, 32), 'depths': (1, 2, 1, 1), 'heads': (2, 2, 3, 4)}
GLOBAL = (1, 1, 1, 0)
CLASSIFIER, DETECTOR = (False, False, True, True), (False,) * 4
WINDOW = 3  # 7 in the variants


def tiny(full_attention):
    arguments = {'full_attention': full_attention, 'window_size': WINDOW, 'img_size': 64}
    return small_network('vil_tiny', TINY, **arguments)


def released_shapes(dims, depths, heads, full, window=7, image=224, classes=1000):
    shapes = Shapes()
    for i, dim in enumerate(dims):
        before, patch = (dims[i - 1], 2) if i else (3, 4)
        shapes.layer(f'layer{i + 1}.0.proj', (dim, before, patch, patch))
        shapes.layer(f'layer{i + 1}.0.norm_embed', (dim,))
        if GLOBAL[i]:
            shapes[f'layer{i + 1}.0.cls_token'] = (1, GLOBAL[i], dim)
        side = image // (4 * 2**i) if full[i] else 2 * window
        for j in range(depths[i]):
            attn, mlp = f'layer{i + 1}.{2 * j + 1}', f'layer{i + 1}.{2 * j + 2}'
            shapes.layer(f'{attn}.norm', (dim,))
            shapes.layer(f'{mlp}.norm', (dim,))
            for name, factor in (('qkv', 3),) if full[i] else (('query', 1), ('kv', 2)):
                shapes.layer(f'{attn}.attn.{name}', (factor * dim, dim))
            shapes.layer(f'{attn}.attn.proj', (dim, dim))
            table = ((2 * side - 1) ** 2, heads[i])
            shapes[f'{attn}.attn.local_relative_position_bias_table'] = table
            index = (side**2, side**2) if full[i] else (window**2, 9 * window**2)
            shapes[f'{attn}.attn.relative_position_index'] = index
            if g := GLOBAL[i]:
                shapes[f'{attn}.attn.g2l_relative_position_bias'] = (2, heads[i], g)
                shapes[f'{attn}.attn.g2g_relative_position_bias'] = (heads[i], g, g)
            shapes.layer(f'{mlp}.mlp.fc1', (4 * dim, dim))
            shapes.layer(f'{mlp}.mlp.fc2', (dim, 4 * dim))
    shapes.layer('norm', (dims[3],))
    shapes.layer('head', (classes, dims[3]))
    return shapes


@pytest.mark.parametrize('full', [CLASSIFIER, DETECTOR])
def test_released_names_cover_every_parameter(full):
    shapes = released_shapes([96, 192, 384, 768], (1, 8, 24, 1), (3, 3, 6, 12), full)
    check_names(shapes, checkpoint_filter_fn, 'vil_base', full_attention=full)


def norm(x, state, name):
    return layer_norm(x, state, name, eps=1e-6)


def patches(x, state, name, side):
    """The convolution of `side` x `side` patches, and its norm."""
    x = convolution(padded(x, side), state, f'{name}.proj', side)
    return norm(x, state, f'{name}.norm_embed')


def projections(tokens, state, attn):
    """Queries, keys and values (N, C) of both kinds of attention."""
    if f'{attn}.qkv.weight' in state:
        return linear(tokens, state, f'{attn}.qkv').chunk(3, -1)
    return linear(tokens, state, f'{attn}.query'), *linear(tokens, state, f'{attn}.kv').chunk(2, -1)


def attention(tokens, size, state, attn, heads, g, full):
    """(g + H*W, C) to the same shape: a query sees the keys in sight, and the global ones."""
    H, W = size
    C = tokens.shape[-1]
    d = C // heads
    q, k, v = projections(tokens, state, attn)
    table = state[f'{attn}.local_relative_position_bias_table']
    span = (math.isqrt(len(table)) + 1) // 2
    g2l = state.get(f'{attn}.g2l_relative_position_bias')
    g2g = state.get(f'{attn}.g2g_relative_position_bias')
    position = [None] * g + [(y, x) for y in range(H) for x in range(W)]
    out = torch.zeros_like(tokens)
    for head in range(heads):
        s = slice(head * d, head * d + d)
        for n, at in enumerate(position):
            scores, values = [], []
            for m, to in enumerate(position):
                if at is None:
                    bias = g2g[head, n, m] if to is None else g2l[0, head, n]
                elif to is None:
                    bias = g2l[1, head, m]
                else:
                    chunks = zip(at, to, strict=True)
                    if not full and any(abs(a // WINDOW - b // WINDOW) > 1 for a, b in chunks):
                        continue
                    dy, dx = at[0] - to[0] + span - 1, at[1] - to[1] + span - 1
                    bias = table[dy * (2 * span - 1) + dx, head]
                scores.append(q[n, s] @ k[m, s] / math.sqrt(d) + bias)
                values.append(v[m, s])
            out[n, s] = torch.softmax(torch.stack(scores), dim=0) @ torch.stack(values)
    return linear(out, state, f'{attn}.proj')


def slow_vil(image, state, full):
    """(3, H, W) to the maps of the stages and the logits."""
    x = image.permute(1, 2, 0)
    maps = []
    for i, heads in enumerate(TINY['heads']):
        x = patches(x, state, f'layer{i + 1}.0', 2 if i else 4)
        H, W, C = x.shape
        tokens, g = x.reshape(-1, C), GLOBAL[i]
        if g:
            tokens = torch.cat([state[f'layer{i + 1}.0.cls_token'][0], tokens])
        for j in range(TINY['depths'][i]):
            attn, mlp = f'layer{i + 1}.{2 * j + 1}', f'layer{i + 1}.{2 * j + 2}'
            y = norm(tokens, state, f'{attn}.norm')
            tokens = tokens + attention(y, (H, W), state, f'{attn}.attn', heads, g, full[i])
            y = gelu(linear(norm(tokens, state, f'{mlp}.norm'), state, f'{mlp}.mlp.fc1'))
            tokens = tokens + linear(y, state, f'{mlp}.mlp.fc2')
        x = tokens[g:].view(H, W, C)
        maps.append(x)
    return maps, linear(norm(x, state, 'norm').mean((0, 1)), state, 'head')


@pytest.mark.parametrize(
    ('full', 'size'),
    [
        (CLASSIFIER, (64, 64)),
        (DETECTOR, (50, 72)),  # 13 x 18, ...; the map of stage 4 is 2 x 3
    ],
)
def test_outputs_equal_a_loop_over_queries_and_keys(full, size, tmp_path):
    state = released_shapes(**TINY, full=full, window=WINDOW, image=64, classes=5).random()
    content = {'net': {f'module.{k}': v for k, v in state.items()}}
    model = load_release(tiny(full), content, tmp_path / 'vil.pth')
    check_outputs(model, size, lambda image: slow_vil(image, state, full))


def test_a_detector_keeps_the_last_layers_of_the_classifier_frozen():
    with torch.device('meta'):
        backbone = openmmlab.Backbone(
            'vil_small', full_attention=DETECTOR, output_norms=False, with_classifier=True
        )
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    parts = ('network.norm', 'network.head.fc')
    assert frozen == {f'{part}.{kind}' for part in parts for kind in ('weight', 'bias')}


# Layers of Detectron2's Mask R-CNN, and the same ones of mmdet's.
HEADS = {
    **{f'backbone.fpn_lateral{i + 2}': f'neck.lateral_convs.{i}.conv' for i in range(4)},
    **{f'backbone.fpn_output{i + 2}': f'neck.fpn_convs.{i}.conv' for i in range(4)},
    'proposal_generator.rpn_head.conv': 'rpn_head.rpn_conv',
    'proposal_generator.rpn_head.objectness_logits': 'rpn_head.rpn_cls',
    'proposal_generator.rpn_head.anchor_deltas': 'rpn_head.rpn_reg',
    'roi_heads.box_head.fc1': 'roi_head.bbox_head.shared_fcs.0',
    'roi_heads.box_head.fc2': 'roi_head.bbox_head.shared_fcs.1',
    'roi_heads.box_predictor.cls_score': 'roi_head.bbox_head.fc_cls',
    'roi_heads.box_predictor.bbox_pred': 'roi_head.bbox_head.fc_reg',
    **{
        f'roi_heads.mask_head.mask_fcn{i + 1}': f'roi_head.mask_head.convs.{i}.conv'
        for i in range(4)
    },
    'roi_heads.mask_head.deconv': 'roi_head.mask_head.upsample',
    'roi_heads.mask_head.predictor': 'roi_head.mask_head.conv_logits',
}


def test_a_released_detector_has_mmdets_names():
    """Each of Detectron2's names becomes mmdet's of the same layer, and none is left."""
    config = configs.load_config('baselines/mask-rcnn_vil-s_fpn_1x_coco.py')
    detector = models.build(config, 'meta')
    own = detector.state_dict()
    backbone = released_shapes((96, 192, 384, 768), (1, 2, 8, 1), (3, 3, 6, 12), DETECTOR)
    state = {
        f'backbone.bottom_up.{name}': torch.empty(shape, device='meta')
        for name, shape in backbone.items()
    }
    for theirs, ours in HEADS.items():
        for kind in ('weight', 'bias'):
            state[f'{theirs}.{kind}'] = own[f'{ours}.{kind}']
    state['pixel_mean'] = state['proposal_generator.anchor_generator.cell_anchors.0'] = None
    found = renamed_for(detector, state)
    for ours in HEADS.values():
        for kind in ('weight', 'bias'):
            assert found[f'{ours}.{kind}'] is own[f'{ours}.{kind}'], ours
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in own.items()}
