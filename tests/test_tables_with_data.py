"""Tables 5-7 as their commands evaluate them: full-size networks, and data of all classes."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from datasets import shapes
from datasets.coco_annotations import CATEGORY_IDS
from reproduce.evaluate import records
from reproduce.openmmlab.configs import load_config
from reproduce.openmmlab.models import build

SYSTEMS = {
    6: ('cascade-mask-rcnn_maformer-small-3383_fpn_ms-crop-3x_coco',),
    7: (
        'fpn_maformer-small-3383_8xb2-80k_ade20k-512x512',
        'upernet_maformer-small-3383_8xb2-160k_ade20k-512x512',
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize('table', SYSTEMS)
def test_a_table_evaluates_what_is_there(run, tmp_path, table):
    shapes.write(tmp_path, train=0, val=40)
    path = tmp_path / 'coco/annotations/instances_val2017.json'
    content = json.loads(path.read_text())
    known = {category['id']: category for category in content['categories']}
    categories = [known.get(i, {'id': i, 'name': f'class {i}'}) for i in CATEGORY_IDS]
    path.write_text(json.dumps({**content, 'categories': categories}))
    (tmp_path / 'ade20k/ADEChallengeData2016/objectInfo150.txt').unlink()
    (tmp_path / 'weights').mkdir()
    for system in SYSTEMS[table]:
        torch.manual_seed(0)
        model = build(load_config(f'{system}.py'), 'cpu')
        save_file(model.state_dict(), tmp_path / f'weights/{system}.safetensors')
    options = ('--data', '.', '--checkpoints', 'weights', '--workers', 0, '--limit', 2)
    run('table', table, '--models', 'MAFormer-S', *options, '--output', 'results')
    kept = {record.system: record for record in records.load_all(Path('results/evaluations'))}
    assert kept.keys() == set(SYSTEMS[table])
    frame = pd.read_csv(f'results/table{table}.csv', keep_default_na=False)
    for system, record in kept.items():
        assert (record.data.images, record.data.complete) == (2, False)
        for cell in frame[frame.system == system].itertuples():
            metric = cell.metric.removeprefix('sem_fpn_').removeprefix('upernet_')
            if metric not in ('params_m', 'flops_g'):
                assert cell.verdict == 'not-run'
                assert f'only a part was evaluated, {record.metrics[metric]:.2f}' in cell.reason
