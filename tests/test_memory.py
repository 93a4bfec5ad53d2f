"""Predicted memory: against torch's allocator, and what a simulated V100 counted."""

import json
from dataclasses import replace

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch.profiler import ProfilerActivity, profile

from reproduce.train import config_training, memory
from reproduce.train.building import build
from reproduce.train.memory import PeakMemory, classifier_peak, config_peak
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
        ('maformer_large_token_labeling', {'grad_checkpointing': True}, 6.9),
        ('maformer_base_token_labeling', {'accumulation': 2}, 10.7),
    ],
)
def test_classifiers_of_the_paper(recipe, changes, peak):
    """With 128 images in fp16, as counted from fake tensors on a simulated V100."""
    assert classifier_peak(RECIPES[recipe].changed(**changes), 128, 'fp16') == pytest.approx(
        peak, rel=0.01
    )


def test_fp32_needs_more_and_so_do_more_images():
    recipe = RECIPES['maformer_micro_token_labeling']
    half, twice, full = (
        classifier_peak(recipe, images, amp)
        for images, amp in ((32, 'fp16'), (64, 'fp16'), (32, 'off'))
    )
    assert half < full < 2 * half
    assert half < twice < 2 * half


def test_what_train_says_before_it_starts():
    recipe = RECIPES['maformer_large_token_labeling']
    assert memory.sentence(recipe, 128, 'fp16', 79.0).startswith('a step with 128 images needs')
    short = memory.sentence(recipe, 128, 'fp16', 31.7)
    assert short.startswith('warning: ') and 'grad_checkpointing=true it needs 6.9' in short


@pytest.mark.slow
def test_two_images_need_what_is_predicted_from_one(monkeypatch):
    config = 'fpn_maformer-small-3383_8xb2-80k_ade20k-512x512.py'
    predicted = config_peak(config, 2, 'off')
    train = config_training.train
    two = 'train_dataloader.batch_size=2'
    monkeypatch.setattr(
        config_training,
        'train',
        lambda job: train(replace(job, options=[*job.options, two])),
    )
    assert predicted == pytest.approx(config_peak(config, 1, 'off'), rel=0.03)
