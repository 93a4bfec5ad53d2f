"""Checkpoints found, verified and loaded; what is refused; weights in other models by timm."""

import argparse
import enum
import hashlib
import os
import pickle
import sys
import types
from collections import Counter, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import PurePosixPath

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import model  # noqa: F401
from reproduce.base.errors import UserError
from reproduce.openmmlab import inference
from reproduce.openmmlab.configs import load_config
from reproduce.openmmlab.safe_loading import read_checkpoint
from reproduce.weights import registry, store
from reproduce.weights.parameters import load
from reproduce.weights.registry import load_manifest
from reproduce.weights.store import obtain

SMALL = {
    'maformer_micro': {},
    'lvvit_small': {'embed_dim': 24, 'depth': 2, 'num_heads': 2, 'stem_width': 8, 'img_size': 64},
}


def micro(name='maformer_micro', **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, **{'num_classes': 3} | kwargs)


def saved(state, path):
    if path.suffix == '.safetensors':
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def prefixed(state, prefix):
    return {f'{prefix}{name}': value for name, value in state.items()}


class Config(dict):
    """Like yacs's CfgNode, which is a dictionary with attributes of its own."""

    def __init__(self, **values):
        super().__init__(values)
        self.__dict__['__immutable__'] = False


class Step(enum.Enum):
    LAST = 3


def published(state):
    """A training checkpoint with what publishers leave in theirs."""
    return {
        'model': state,
        'optimizer': {'state': {0: {'step': torch.tensor(3)}}, 'param_groups': [{'lr': 0.1}]},
        'args': argparse.Namespace(output=PurePosixPath('/out')),
        'when': datetime(2022, 4, 1, tzinfo=UTC),
        'best': {'name': np.str_('top1'), 'value': np.float64(81.2), 'at': np.datetime64('2022')},
        'scores': np.array(['a', None], object),
        'step': Step.LAST,
        'number': Decimal('1.5'),
        'counts': Counter('aab'),
        'config': Config(MODEL=Config(NAME='swin'), TRAIN=Config(LR=0.1, STEPS=[1, 2])),
        'meters': defaultdict(list, {'loss': [0.1]}),
    }


WRAPPERS = {
    'published': lambda s, other: published(s),
    'net': lambda s, other: {'net': prefixed(s, 'module.'), 'acc': 80.1},
    'two wrappers': lambda s, other: {'model': {'state_dict': s}},
    'ema before the last': lambda s, other: {'state_dict': other, 'state_dict_ema': s},
    'compiled': lambda s, other: prefixed(s, 'module._orig_mod.'),
    'lightning': lambda s, other: {
        'state_dict': prefixed(prefixed(s, '_orig_mod.'), 'model.')
        | {'criterion.weight': torch.ones(2), 'val_acc.total': torch.ones(())}
    },
    'prefixes in another order': lambda s, other: prefixed(s, 'module.net._orig_mod.'),
    'averaged beside the last': lambda s, other: {'model': other, 'ema': {'module': s, 'n': 3}},
    'averaged by a prefix': lambda s, other: (
        prefixed(s, 'model_ema.module.') | prefixed(other, 'model.')
    ),
    'mmengine': lambda s, other: {
        **{'state_dict': s, 'ema_state_dict': prefixed(other, 'module.')},
        'message_hub': {'runtime_info': {}},
    },
    'averaged by torch': lambda s, other: prefixed(s, 'module.') | {'n_averaged': torch.tensor(9)},
}


def check_loads(path, state):
    """The file has these parameters, whatever else is in it."""
    loaded = micro()
    load(loaded, path)
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


@pytest.fixture
def state():
    return {name: value + 1 for name, value in micro().state_dict().items()}


@pytest.mark.parametrize('wrap', WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_are_understood(tmp_path, wrap, state):
    check_loads(saved(wrap(state, micro().state_dict()), tmp_path / 'x.pth'), state)


def test_objects_of_unknown_classes_are_not_needed(tmp_path, monkeypatch, state):
    """Their modules are not even there, as those of a publisher are not."""
    module = types.ModuleType('yacs.config')
    module.Config, Config.__module__ = Config, 'yacs.config'
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    path = tmp_path / 'x.pth'
    torch.save(published(state), path)
    monkeypatch.undo()
    check_loads(path, state)
    with pytest.raises(UserError, match='would run code'):  # all of a detector's is read
        read_checkpoint(path)


def test_a_segmenter_without_its_auxiliary_head(tmp_path):
    config = load_config('upernet_maformer-micro_shapes.py')
    (entry,) = (e for e in load_manifest() if e.name.startswith('upernet'))
    state = load_file(obtain(entry))
    lean = {k: v for k, v in state.items() if not k.startswith('auxiliary_head.')}
    assert len(lean) < len(state)
    built = inference.build(config, saved(lean, tmp_path / 'x.pth')).state_dict()
    assert all(torch.equal(built[name], value) for name, value in lean.items())
    lean |= {k: v for k, v in state.items() if k == 'auxiliary_head.conv_seg.bias'}
    with pytest.raises(UserError, match=r'auxiliary_head.* is absent in the file'):
        inference.build(config, saved(lean, tmp_path / 'y.pth'))


@pytest.mark.parametrize(
    ('change', 'what'),
    [
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), 'torch.qint8'),
        (lambda w: w.to(torch.float8_e4m3fn), 'torch.float8_e4m3fn'),
        (lambda w: w.to(torch.int8), 'is (3, 128) of integers in the file and (3, 128) in the'),
    ],
)
def test_tensors_of_another_kind_are_named(tmp_path, change, what):
    state = micro().state_dict()
    state['head.fc.weight'] = change(state['head.fc.weight'])
    message = refusal(saved({'model': state}, tmp_path / 'x.pth'))
    assert 'head.fc.weight' in message
    assert what in message


def refusal(path, into=None):
    network = into or micro()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(UserError) as error:
        load(network, path)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    message = str(error.value)
    assert str(path) in message
    assert '\n' not in message and 'weights_only' not in message
    return message


@pytest.mark.parametrize(('suffix', 'kept'), [('.safetensors', 20_000), ('.pth', -100)])
def test_a_truncated_file_is_one_sentence(tmp_path, suffix, kept):
    path = saved(micro().state_dict(), tmp_path / f'x{suffix}')
    path.write_bytes(path.read_bytes()[:kept])
    message = refusal(path)
    assert 'fetch it again' in message


class Malicious:
    ran = False

    def __reduce__(self):
        return setattr, (Malicious, 'ran', True)


@pytest.mark.parametrize('protocol', [None, 2])
def test_no_code_of_a_file_runs(tmp_path, protocol):
    path, content = tmp_path / 'x.pth', {'state_dict': Malicious()}
    if protocol:
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        torch.save(content, path)
    assert ('would run code' if protocol else 'it holds state_dict') in refusal(path)
    assert not Malicious.ran


def test_a_file_that_would_run_a_command_is_refused(tmp_path):
    class Command:
        def __reduce__(self):
            return os.system, ('true',)

    path = saved({'model': micro().state_dict(), 'args': Command()}, tmp_path / 'x.pth')
    assert 'would run code' in refusal(path)


def test_parameters_of_another_model_are_named(tmp_path):
    path = saved(micro().state_dict(), tmp_path / 'x.safetensors')
    message = refusal(path, micro(depths=(1, 2, 2, 1)))
    assert f'{path} is not one of maformer_micro: stages.1.blocks.1.' in message
    assert 'absent in the file' in message
    message = refusal(path, micro(embed_dims=(32, 64, 96, 256)))
    assert 'norm.weight is (128,) in the file and (256,) in the model' in message


def test_entries_and_prefixes_are_named(tmp_path):
    state = prefixed(micro('maformer_micro', num_classes=4).state_dict(), 'model.')
    message = refusal(saved({'model': {}, 'ema': state}, tmp_path / 'x.pth'))
    assert 'x.pth (entry ema, prefix model.) is not one of maformer_micro' in message
    path = saved({'model_ema': micro().state_dict()}, tmp_path / 'y.pth')
    assert load(micro(), path) == (
        'The averaged weights of the file were evaluated (entry model_ema).',
    )


def test_weights_in_several_files_are_to_be_joined(tmp_path):
    path = tmp_path / 'model.safetensors.index.json'
    path.write_text('{"weight_map": {"head.fc.bias": "model-00001-of-00002.safetensors"}}')
    assert store.find(tmp_path, 'maformer_micro') == path
    assert 'lists weights in several files: join them into one' in refusal(path)


MANIFEST = """
[[checkpoint]]
name = "mine"
model = "maformer_micro"
file = "x.safetensors"
sha256 = "{}"
licence = "Apache-2.0"
reference = [{{ fingerprint = "abc", images = 17, metrics = {{ top1 = 50.0 }}, source = "me" }}]
"""


def test_released_weights_are_verified(tmp_path, monkeypatch):
    path = saved(micro().state_dict(), tmp_path / 'x.safetensors')
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    listed = tmp_path / 'm.toml'
    listed.write_text(MANIFEST.format(sha256))
    (entry,) = load_manifest(listed)
    assert obtain(entry, listed) == path
    monkeypatch.setattr(registry, 'registered', lambda: (entry,))
    assert registry.released(sha256) == entry
    assert registry.released('0' * 64) is None
    assert entry.reference_on('abc', False).metrics == {'top1': 50.0}
    assert entry.reference_on('other', True) is None
    other = load_file(path)
    other['head.fc.bias'] += 1
    save_file(other, path)
    with pytest.raises(UserError, match='is not the released mine: its SHA-256 is'):
        obtain(entry, listed)
    path.unlink()
    with pytest.raises(UserError, match='does not exist'):
        obtain(entry, listed)


def test_the_manifests_files_are_there_and_verified():
    assert all(obtain(entry).is_file() for entry in load_manifest())
