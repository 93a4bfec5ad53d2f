"""FLOPs against closed forms, and the command that counts any model."""

import csv
import json
from pathlib import Path

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from model.global_branch import GLD
from reproduce.complexity.measuring import measure


class Attention(nn.Module):
    """Six tokens of four channels, by one fused or two explicit products."""

    def __init__(self, fused):
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.fused = fused

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.fused:
            return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])
        return (q @ k.mT).softmax(-1) @ v


@pytest.mark.parametrize('fused', [True, False])
def test_attention_is_in_the_total_and_not_in_the_layers(fused):
    counted = measure(Attention(fused), lambda m: m(torch.empty(1, 6, 4, device='meta')))
    assert counted.params == 4 * 12 + 12
    assert counted.layer_flops == 6 * 4 * 12
    assert counted.total_flops == counted.layer_flops + 2 * 6 * 6 * 4


@pytest.mark.parametrize(('shape', 'bias'), [((1, 2, 3, 4), True), ((6, 4), False)])
def test_a_linear_layer_counts_as_one_whatever_its_input(shape, bias):
    counted = measure(nn.Linear(4, 5, bias=bias), lambda m: m(torch.empty(shape, device='meta')))
    assert counted.layer_flops == counted.total_flops == 6 * 4 * 5


def test_convolution():
    conv = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4)
    counted = measure(conv, lambda m: m(torch.empty(1, 8, 10, 10, device='meta')))
    assert counted.layer_flops == counted.total_flops == 5 * 5 * 16 * (8 // 4) * 9
    assert counted.params == 16 * 2 * 9 + 16


def test_resizing_a_map_is_no_layer_and_no_attention():
    """GLD's FLOPs are those of its linear layer: 196 tokens to 49 of each channel, twice here."""
    gld = GLD(8)
    for _ in range(2):  # measured again, it counts the same
        counted = measure(
            gld, lambda m: [m(torch.empty(1, 56, 56, 8, device='meta')) for _ in range(2)]
        )
        assert counted.layer_flops == counted.total_flops == 2 * 196 * 49 * 8


def test_the_command_counts_what_table_1_has(run):
    system, other = 'maformer_small_token_labeling', 'torchvision.models:resnet18'
    code, out, _ = run('flops', system, other, '--format', 'json')
    counted = json.loads(out)['models']
    with (Path(__file__).parents[1] / 'results/table1.csv').open(newline='') as file:
        lines = {line['metric']: line for line in csv.DictReader(file) if line['system'] == system}
    assert (code, counted[other]['params']) == (0, 11_689_512)
    for key, metric, column, unit in (
        ('params', 'params_m', 'measured', 1e6),
        ('layer_flops', 'flops_g', 'layer_flops_g', 1e9),
        ('total_flops', 'flops_g', 'total_flops_g', 1e9),
    ):
        assert f'{counted[system][key] / unit:.6f}' == lines[metric][column]


def test_the_command_counts_at_a_size_and_says_what_is_wrong(run):
    code, out, _ = run('flops', 'torchvision.models:resnet18', '--size', '64x112')
    assert (code, out.split()[-3:]) == (0, ['11.69', '0.27', '0.27'])
    _, out, _ = run('flops', 'torchvision.models:resnet18', '--format', 'latex')
    assert r'torchvision.models:resnet18 &' in out and r'\toprule' in out
    for model in ('resnet18', 'mask-rcnn_maformer-micro_fpn_shapes.py'):
        whole, *parts = json.loads(run('flops', model, '--by-stage', '--format', 'json')[1])[
            'models'
        ].values()
        assert whole == {key: sum(part[key] for part in parts) for key in whole}
    for arguments, message in (
        (('torchvision.models:resnet19',), "has no attribute 'resnet19'"),
        (('resnet18', '--size', 'large'), "--size is 'large': expected pixels"),
        (('no_model',), "no model 'no_model'"),
    ):
        code, _, err = run('flops', *arguments)
        assert code == 2 and message in err and err.count('\n') == 1
