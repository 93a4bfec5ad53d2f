"""KEY=VALUE entries: one grammar in evaluation and training, compared with OpenMMLab's own."""

import json
from argparse import ArgumentParser

import pytest
from mmengine.config import DictAction

from reproduce.base.errors import UserError
from reproduce.openmmlab import cfg_options, configs

FPN = 'fpn_maformer-micro_shapes.py'
ENTRIES = [
    'model.decode_head.loss_decode.class_weight=None',
    'model.test_cfg.crop_size=(512,2048)',
    'model.test_cfg.stride=[3,4]',
    'model.decode_head.dropout_ratio=2e-1',
    'model.decode_head.align_corners=True',
    'model.backbone.init_cfg=None',
    'model.data_preprocessor.test_cfg.size_divisor=32',
    'model.decode_head.names=a,b',
    'model.decode_head.sizes=[(1,2),(3,4)]',
]


def test_values_are_those_of_openmmlabs_tools():
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    assert cfg_options.parse(ENTRIES) == parser.parse_args(['--cfg-options', *ENTRIES]).cfg_options
    assert cfg_options.parse(ENTRIES)['model.test_cfg.crop_size'] == (512, 2048)
    assert cfg_options.parse(ENTRIES)['model.backbone.init_cfg'] is None
    assert cfg_options.parse(['a=1', 'a=2', '--b=3', 'c=']) == {'a': 2, '--b': 3, 'c': ''}


def test_entries_that_are_none():
    with pytest.raises(UserError, match=r'is not KEY=VALUE: Imbalanced brackets'):
        cfg_options.parse(['a=(1,2'], '--model-kwargs')


def test_a_value_read_back_from_json_is_the_same_value():
    values = cfg_options.parse(ENTRIES)
    first, second = configs.load_config(FPN), configs.load_config(FPN)
    cfg_options.merge(first, values)
    cfg_options.merge(second, json.loads(json.dumps(values)))
    assert first.model == second.model
    assert second.model.decode_head.sizes == [(1, 2), (3, 4)]
