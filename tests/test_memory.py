"""Predicted memory: against torch's allocator, and what a simulated V100 counted."""

import json

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch.profiler import ProfilerActivity, profile

from reproduce.openmmlab import models
from reproduce.openmmlab.configs import load_config
from reproduce.train.building import build
from reproduce.train.memory import GIB, PeakMemory, classifier_peak, config_peak
from reproduce.train.recipes import RECIPES


def test_the_peak_is_that_of_torch_s_allocator(tmp_path):
    """Of a whole training step on real tensors."""
    model = build(RECIPES['maformer_micro'], 10)
    optimizer = create_optimizer_v2(model, 'adamw', lr=1e-3)
    images = torch.randn(96, 3, 64, 64)

    def step():
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()

    step()
    for parameter in model.parameters():
        parameter.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    for parameter in model.parameters():
        parameter.grad = None
    with PeakMemory() as counted:
        step()
    profiled.export_chrome_trace(str(tmp_path / 'trace.json'))
    events = json.loads((tmp_path / 'trace.json').read_text())['traceEvents']
    totals, first = [], None
    for event in events:
        if event.get('name') == '[memory]':
            first = first or event['args']['Total Allocated'] - event['args']['Bytes']
            totals.append(event['args']['Total Allocated'])
    assert counted.peak == pytest.approx(max(totals) - first, rel=0.03)
    assert max(totals) - first > 1e7


@pytest.mark.parametrize(
    ('recipe', 'changes', 'peak'),
    [
        ('maformer_small_token_labeling', {}, 13.3),
        pytest.param(
            *('maformer_large_token_labeling', {'grad_checkpointing': True}, 6.9),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_classifiers_of_the_paper(recipe, changes, peak):
    """With 128 images in fp16, as counted from fake tensors on a simulated V100."""
    assert classifier_peak(RECIPES[recipe].changed(**changes), 128, 'fp16') == pytest.approx(
        peak, rel=0.01
    )


def test_a_segmenter_needs_more_for_each_image():
    """By the same bytes for each, above weights, gradients and two states of AdamW."""
    name = 'upernet_maformer-micro_shapes.py'
    parameters = models.build(load_config(name), 'cpu').parameters()
    static = 16 * sum(parameter.numel() for parameter in parameters) / GIB
    one, two, four = (config_peak(name, images, 'off') for images in (1, 2, 4))
    assert static < one < two < four
    assert four - two == pytest.approx(2 * (two - one), rel=0.01)
