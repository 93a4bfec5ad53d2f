"""What is planned is what is then done, what it costs, and that nothing is touched."""

import json
import re
from pathlib import Path

import forms
import pandas as pd
import pytest
import timm
import torch
import torch.nn as nn
from conftest import record, weights

from reproduce.base.wording import duration
from reproduce.complexity import flops as complexity
from reproduce.complexity import forward_pass
from reproduce.evaluate import devices, planning, records
from reproduce.evaluate.decoding import DecodingRate
from reproduce.openmmlab import configs, models
from reproduce.systems import load_systems

DEIT, SWIN, BASE = 'deit_small_patch16_224', 'swin_tiny_patch4_window7_224', 'deit_base_patch16_224'
MODELS = ('--models', 'DeiT-S,Swin-T,DeiT-B,dsnet_small')


def planned(run, *options):
    code, out, _ = run('plan', *options, '--format', 'json')
    assert code == 0
    return json.loads(out)


def snapshot(*folders):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for folder in folders
        for path in folder.rglob('*')
    }


def test_the_plan_is_what_the_table_does(run, embedded, tmp_path, cite):
    cite('dsnet_small')
    weights(tmp_path / 'weights' / f'{DEIT}.safetensors', DEIT)
    records.save(record(SWIN, 81.2), b'', Path('results/evaluations'))
    options = (
        *(4, *MODELS, '--data', embedded, '--limit', 3, '--checkpoints', 'weights'),
        *('--evaluations', 'results/evaluations'),
    )
    before = snapshot(tmp_path, embedded)
    told = planned(run, *options, '--device', 'T4')
    assert snapshot(tmp_path, embedded) == before

    run('table', *options, '--workers', 0, '--output', 'results')
    frame = pd.read_csv('results/table4.csv', keep_default_na=False).set_index(['system', 'metric'])
    cells = {(c['system'], c['metric']): c for c in told['cells']}
    assert cells.keys() == set(frame.index)
    assert {c['state'] for c in cells.values()} == set(planning.CellState)
    for key, cell in cells.items():
        then = frame.loc[key]
        match cell['state']:
            case 'missing':
                assert (then.verdict, then.reason) == ('not-run', cell['reason'])
            case 'record':
                assert then.measured != ''
                assert cell['reason'] in then.reason
            case 'cited':
                assert then.verdict == 'cited'
            case 'count':
                assert then.measured != ''
            case 'evaluate':
                assert 'only a part was evaluated' in then.reason
    (evaluated,) = (s for s in told['systems'] if s['runs'])
    (kept,) = (e for e in records.load_all(Path('results/evaluations')) if e.system != SWIN)
    assert evaluated['system'] == kept.system == DEIT
    assert evaluated['cost']['images'] == kept.data.images == 3
    assert evaluated['cost']['size'] == kept.preprocessing['input_size'][1:]
    assert evaluated['complete'] is kept.data.complete is False
    assert Path(evaluated['checkpoint']).name == kept.checkpoint.file
    flops = evaluated['cost']['flops'] / 1e9
    assert flops == pytest.approx(float(frame.loc[(DEIT, 'flops_g')].total_flops_g), abs=1e-6)


def test_the_time_of_a_named_gpu(run):
    on_eight = planned(run, 4, '--models', 'DeiT-S', '--device', '8xV100')
    (step,) = on_eight['systems']
    rate = 15.7e12 / 2 * devices.EFFICIENCY['fp32']
    assert step['cost']['seconds'] == pytest.approx(50_000 * step['cost']['flops'] / rate / 8)
    assert (on_eight['seconds'], on_eight['seconds_of_missing']) == (0, step['cost']['seconds'])
    options = ('--device', 'v100', '--processes', 4, '--limit', 25_000)
    on_four = planned(run, 4, '--models', 'DeiT-S', *options)
    assert on_four['seconds_of_missing'] == pytest.approx(on_eight['seconds_of_missing'])


def test_the_workers_that_keep_a_gpu_busy(run, embedded):
    """A core's images/s is measured: on the data where they are, and of the usual size else."""
    options = (4, '--models', 'DeiT-S', '--device')
    slow, fast = (planned(run, *options, gpu)['reading']['imagenet'] for gpu in ('T4', 'H100'))
    assert slow['basis'] == 'of drawn JPEGs of 500 x 375'
    assert 5 < slow['images_per_s'] < 5000
    assert fast['workers'] > slow['workers'] >= 1
    small = planned(run, *options, 'T4', '--data', embedded)['reading']['imagenet']
    assert f'images from a folder in {embedded}' in small['basis']
    Path('data').mkdir()
    forms.webdataset(embedded, Path('data'))
    shards = planned(run, *options, 'T4', '--data', 'data')['reading']['imagenet']
    assert 'images from WebDataset shards in data' in shards['basis']
    code, out, _ = run('plan', *options, 'H100')
    assert code == 0
    found = re.search(
        r'one core reads ([0-9,]+) images/s .* at most ([0-9,]+) \(deit_small_patch16_224\): '
        r'--workers ([0-9]+)',
        ' '.join(out.split()),
    )
    read, computed, workers = (int(n.replace(',', '')) for n in found.groups())
    assert workers == pytest.approx(computed / read, abs=1.5)


def test_the_workers_are_enough_and_not_more():
    assert [DecodingRate(100.0, '').workers(n) for n in (1, 100, 101, 850)] == [1, 1, 2, 9]


def test_this_machine_is_measured(run):
    code, out, _ = run('plan', 1, '--models', 'maformer_base_token_labeling')
    assert code == 0
    text = ' '.join(out.split())
    assert 'measured with maformer_small_3383 in fp32' in text
    assert '3 cells: 2 count, 1 missing.' in text
    assert 'CHECKPOINTS/SYSTEM.safetensors' in text


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--device', '8xV1000'), 'name one of V100'),
        (('--device', '0xV100'), 'name one of V100'),
        (('--device', 'T4', '--processes', 0), '--processes 0 leaves nothing'),
        (('--device', 'T4', '--batch-size', 0), '--batch-size 0 leaves nothing'),
        (('--device', 'V100', '--amp', 'bf16'), 'the V100 has no bf16'),
        (('--device', 'T4', '--data', 'nowhere'), 'nowhere is not a folder'),
        (('--device', 'T4', '--checkpoints', 'nowhere'), 'nowhere is not a folder'),
        (('--device', 'T4', '--models', 'Swim-T'), 'the nearest are Swin-T'),
    ],
)
def test_mistakes_are_one_line_each(run, options, message):
    code, out, err = run('plan', 4, *options)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert message in err


def test_most_memory_at_a_time():
    """At the second layer: the input, which the caller holds, and what it takes and gives."""
    network = nn.Sequential(nn.Linear(20, 1000), nn.Linear(1000, 30), nn.Linear(30, 5))
    params, flops, peak = forward_pass.forwarded(
        network, lambda m: m(torch.empty(1, 20, device='meta'))
    )
    assert params == 20 * 1000 + 1000 + 1000 * 30 + 30 + 30 * 5 + 5
    assert flops == 20 * 1000 + 1000 * 30 + 30 * 5
    assert peak == 4 * (20 + 1000 + 30)


def test_the_most_memory_is_the_same_after_other_passes():
    """Also where it comes last, when all that a pass keeps for later ones is there."""
    with torch.device('meta'):
        network = timm.create_model('maformer_micro', num_classes=10_000_000)
        images = torch.empty(1, 3, 224, 320)
    first, second = (forward_pass.forwarded(network, lambda m: m(images)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ('name', 'size', 'published'),
    [
        ('mask-rcnn_swin-t-p4-w7_fpn_1x_coco', (800, 1088), models.DETECTION_SIZE),
        (
            'swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512',
            (512, 683),
            models.SEGMENTATION_SIZE,
        ),
    ],
)
def test_the_evaluated_size(name, size, published):
    """640 x 480 and 683 x 512 pixels as the papers' test pipelines resize and pad them."""
    system = next(s for s in load_systems() if s.name == name)
    config = configs.load_config(system.evaluated_config)
    assert models.evaluated_size(config) == size
    network = models.build(config)
    params, flops, _ = forward_pass.forwarded(
        network, lambda m: models.evaluated_forward(m, published)
    )
    counted = complexity.measure_system(system)
    assert (params, flops) == (counted.params, counted.total_flops)


def test_flops_of_several_scales():
    def flops(ratio):
        return 300 * ratio**2 + 20 * ratio**4

    ratios = (1.0, 0.5, 1.75)
    told = forward_pass.of_all_views(flops(1), flops(1.75), 1.75, ratios)
    assert told == round(2 * sum(map(flops, ratios)))


@pytest.mark.parametrize(
    ('seconds', 'told'),
    [(0, '0 s'), (7.24, '7.2 s'), (89, '89 s'), (90, '1.5 min'), (6000, '1.7 h'), (9e5, '10 d')],
)
def test_durations(seconds, told):
    assert duration(seconds) == told
