"""The register of public weights: what it says, whether it fits the rows, and what it leads to."""

import hashlib
import json
import math
import re
from collections import defaultdict
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
import yaml
from conftest import record
from huggingface_hub import hf_hub_url
from safetensors.torch import save_file
from scipy.stats import t
from slow_layers import Shapes
from timm.data import resolve_data_config

from datasets import shapes
from datasets.imagenet import load
from reproduce import paper
from reproduce.audit.sources import load_misprints, load_sources
from reproduce.base.files import sha256_of
from reproduce.complexity.measuring import Complexity
from reproduce.evaluate.accuracies import NotRun
from reproduce.judge import assembly
from reproduce.judge.cells import load_results
from reproduce.judge.verdict import Verdict, compare_published
from reproduce.openmmlab.configs import load_config
from reproduce.openmmlab.detectron2_names import renamed_for
from reproduce.openmmlab.models import build
from reproduce.systems import load_systems
from reproduce.tasks.classification import PREPROCESSING, preprocessing
from reproduce.weights import registry
from reproduce.weights.registry import Reference, load_public, load_published, released
from reproduce.weights.store import FileState, released_name, state

PUBLIC = {entry.system: entry for entry in load_public()}
SYSTEMS = {system.name: system for system in load_systems()}
FPN_TWINS = 'twins_svt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512'
COUNTED = Complexity(1, 1, 1, 1, 1, 1)
RESULTS = Path(__file__).parents[1] / 'results'
DISTRIBUTIONS = {'mmdet': 'onedl-mmdetection', 'mmseg': 'onedl-mmsegmentation'}
METRICS = {'box AP': 'box_ap', 'mask AP': 'mask_ap', 'mIoU': 'miou', 'mIoU(ms+flip)': 'ms_miou'}


def test_what_is_public():
    tasks = [entry.task for entry in load_public()]
    assert [tasks.count(task) for task in ('imagenet', 'coco', 'ade20k')] == [23, 14, 14]
    without = ('maformer', 'coatnet', 'mixformer', 'lvvit_large', 'pvt-l_', 'rcnn_cswin')
    assert not any(word in name for name in PUBLIC for word in without)
    assert all(entry.sha256 in entry.url for entry in load_public())
    published = load_published()
    assert published['weights'].keys() == {entry.name for entry in load_public()}
    assert all(registry.reference_of(SYSTEMS[name]) for name in published['results'])
    # Of systems with public weights, these are somebody else's training.
    assert all(PUBLIC[name].protocol for name in published['results'].keys() & PUBLIC.keys())


TIMM = [entry for entry in load_public() if entry.name.startswith('timm:')]
OPENMMLAB = [entry for entry in load_public() if entry.name.startswith(('mmdet:', 'mmseg:'))]


def test_classifiers_are_evaluated_as_their_release_does():
    """It resizes the shorter side to this size, bicubically, and crops 224."""
    for name, shorter in {
        'dsnet_small': 248,  # PaddleClas, ppcls/configs
        'cswin_tiny': 248,  # models/cswin.py
        'lvvit_medium': 224,  # tlt/models/lvvit.py
        'focal_tiny': 256,  # data/build.py
    }.items():
        found = preprocessing(SYSTEMS[name].model, {}, {})
        assert math.floor(found['input_size'][1] / found['crop_pct']) == shorter
        assert (found['input_size'][1], found['interpolation']) == (224, 'bicubic')
        assert found['mean'] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize('entry', TIMM, ids=lambda e: e.system)
def test_the_register_has_what_timm_lists(entry):
    """An evaluation takes the default tag's preprocessing: it has to be that of these weights."""
    tag = timm.get_pretrained_cfg(entry.name.removeprefix('timm:'))
    theirs = resolve_data_config({}, pretrained_cfg=tag.to_dict())
    assert preprocessing(SYSTEMS[entry.system].model, {}, {}) == {
        key: list(value) if isinstance(value := theirs[key], tuple) else value
        for key in PREPROCESSING
    }
    assert entry.licence == tag.license
    url = tag.url if entry.sha256 else hf_hub_url(tag.hf_hub_id, 'model.safetensors')
    assert entry.url == url


def listed_by(package, name):
    """The entry of a metafile with that name, what it scores, and the metafile."""
    folder = Path(find_spec(package).origin).parent / '.mim'
    texts = {path: path.read_text() for path in folder.glob('configs/*/metafile.y*ml')}
    (path,) = (path for path, text in texts.items() if f'Name: {name}\n' in text)
    (listed,) = (e for e in yaml.load(texts[path], yaml.CSafeLoader)['Models'] if e['Name'] == name)
    results = listed['Results']
    found = {
        METRICS[metric]: value
        for result in (results if isinstance(results, list) else [results])
        for metric, value in result['Metrics'].items()
    }
    return listed, found, path.relative_to(folder)


@pytest.mark.parametrize('entry', OPENMMLAB, ids=lambda e: e.system)
def test_the_register_has_what_the_metafiles_list(entry):
    """One entry of that name: mmseg lists two Twins with UPerNet as twins_pcpvt-l."""
    package, name = entry.name.split(':')
    listed, found, path = listed_by(package, name)
    system = SYSTEMS[entry.system]
    assert entry.url == listed['Weights']
    assert entry.reference[0].metrics == {m: found[m] for m in system.accuracies if m in found}
    assert entry.reference[0].source == f'{package}, {path}'
    licence = metadata(DISTRIBUTIONS[package])['License-Expression']
    assert licence.removeprefix('LicenseRef-') == entry.licence
    if not system.name.startswith('fpn_r101'):  # see test_the_config_of_r101_fits_mmsegs_of_r50
        config = listed['Config'].removeprefix('configs/')
        assert system.evaluated_config == f'{package}::{config}'


def test_mmdet_s_cascades_have_other_box_heads():
    """Their weights do not fit the rows' networks: only what they score is in the register."""
    for backbone, name in (
        ('r50', 'cascade-mask-rcnn_r50_fpn_mstrain_3x_coco'),
        ('x101-32x4d', 'cascade-mask-rcnn_x101-32x4d_fpn_ms-3x_coco'),
        ('x101-64x4d', 'cascade-mask-rcnn_x101-64x4d_fpn_ms-3x_coco'),
    ):
        _, found, path = listed_by('mmdet', name)
        system = SYSTEMS[f'cascade-mask-rcnn_{backbone}_fpn_4conv1fc-ms-crop-3x_coco']
        published = registry.reference_of(system)
        assert (published.metrics, published.source) == (found, f'mmdet, {path}')


def test_the_config_of_r101_fits_mmsegs_of_r50():
    """But for the depth, which mmseg's own config of ResNet-101 loses: what its weights need."""
    shipped = load_config('mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py')
    ours = load_config(SYSTEMS['fpn_r101_4xb4-80k_ade20k-512x512'].evaluated_config)
    expected = shipped.model.to_dict()
    expected['backbone']['depth'] = 101
    expected['pretrained'] = 'open-mmlab://resnet101_v1c'
    assert ours.model.to_dict() == expected
    assert ours.test_dataloader.dataset.pipeline == shipped.test_dataloader.dataset.pipeline


def released_swin(width, depths):
    """The parameters of Swin's released backbone of detectors."""
    shapes = Shapes()
    shapes.layer('patch_embed.proj', (width, 3, 4, 4))
    shapes.layer('patch_embed.norm', (width,))
    for i, depth in enumerate(depths):
        c = width * 2**i
        for j in range(depth):
            block = f'layers.{i}.blocks.{j}'
            shapes.layer(f'{block}.norm1', (c,))
            shapes.layer(f'{block}.norm2', (c,))
            shapes[f'{block}.attn.relative_position_bias_table'] = (13**2, c // 32)
            shapes[f'{block}.attn.relative_position_index'] = (49, 49)
            shapes.layer(f'{block}.attn.qkv', (3 * c, c))
            shapes.layer(f'{block}.attn.proj', (c, c))
            shapes.layer(f'{block}.mlp.fc1', (4 * c, c))
            shapes.layer(f'{block}.mlp.fc2', (c, 4 * c))
        if i < 3:
            shapes.layer(f'layers.{i}.downsample.reduction', (2 * c, 4 * c), False)
            shapes.layer(f'layers.{i}.downsample.norm', (4 * c,))
        shapes.layer(f'norm{i}', (c,))
    return shapes


def test_released_names_of_detectors_cover_every_parameter():
    """What is not in the backbone has the same names in mmdet 2, with which they were trained."""
    system = SYSTEMS['cascade-mask-rcnn_swin-t-p4-w7_fpn_4conv1fc-ms-crop-3x_coco']
    detector = build(load_config(system.evaluated_config))
    ours, backbone = detector.state_dict(), released_swin(96, (2, 2, 6, 2))
    released = {f'backbone.{key}': torch.empty(v, device='meta') for key, v in backbone.items()}
    released |= {key: value for key, value in ours.items() if not key.startswith('backbone.')}
    shapes = {key: value.shape for key, value in renamed_for(detector, released).items()}
    assert shapes == {key: value.shape for key, value in ours.items()}
    assert list(renamed_for(detector, ours)) == list(ours)


def test_what_differs_is_said():
    """Published values outside the paper's tolerance have a protocol that gives the reason."""
    misprints = {misprint.key for misprint in load_misprints()}
    differ = [c for c in load_results(RESULTS) if c.published and not c.published.agrees]
    assert len(differ) > 5
    for cell in differ:
        explained = registry.reference_of(SYSTEMS[cell.system]).protocol
        assert explained or (cell.table, cell.model, cell.metric) in misprints, cell.key


def test_a_file_is_known_by_the_hash_in_its_name(tmp_path, monkeypatch):
    sha256 = hashlib.sha256(b'weights').hexdigest()
    entry = PUBLIC['twins_svt_base'].model_copy(update={'sha256': sha256[:8]})
    monkeypatch.setattr(registry, 'load_public', lambda: (entry,))
    path = tmp_path / entry.filename
    path.write_bytes(b'weights')
    assert state(entry, path) is FileState.PRESENT
    assert (released_name(path, sha256), released(sha256)) == (entry.name, entry)
    path.write_bytes(b'changed')
    assert state(entry, path) is FileState.BAD_HASH
    assert released_name(path, sha256_of(path)) == ''


@pytest.mark.parametrize(
    ('sha256', 'measured', 'verdict', 'reference_verdict'),
    [
        # The row prints 43.2; the public weights, trained in batches of 32, have 44.47.
        ('0a0d3317', 44.57, Verdict.KNOWN, Verdict.MATCH),
        ('0a0d3317', 43.30, Verdict.MATCH, Verdict.WORSE),
        ('0a0d3317', 20.00, Verdict.WORSE, Verdict.WORSE),
        ('00000000', 44.57, Verdict.BETTER, Verdict.UNPRINTED),
    ],
)
def test_weights_of_another_protocol(sha256, measured, verdict, reference_verdict):
    """They are compared with the paper, but neither better nor worse for their protocol."""
    rows = [row for row in paper.load_table(7) if row.model == 'Twins-S']
    weights = {'file': 'x.pth', 'sha256': sha256 + '0' * 56}
    changes = {'task': 'ade20k', 'checkpoint': weights, 'metrics': {'miou': measured}}
    measurement = record(FPN_TWINS, 0, **changes, intervals={})
    cells = assembly.assemble(
        rows, [SYSTEMS[FPN_TWINS]], {FPN_TWINS: COUNTED}, {(FPN_TWINS, 'miou'): measurement}
    )
    cell = next(cell for cell in cells if cell.metric == 'sem_fpn_miou')
    assert (cell.verdict, cell.reference_verdict) == (verdict, reference_verdict)
    assert ("released weights: mmseg's own training" in cell.reason) is (sha256 != '00000000')


def unmeasured(table, system):
    """The accuracies of a system's row while nothing is measured, by metric."""
    rows = [row for row in paper.load_table(table) if SYSTEMS[system].stands_for(row)]
    cells = assembly.assemble(rows, [SYSTEMS[system]], {system: COUNTED}, defaultdict(NotRun))
    return {cell.metric: cell for cell in cells if not cell.column.metric.is_complexity}


def test_what_is_published_is_shown_before_anything_is_measured():
    cells = unmeasured(5, 'mask-rcnn_swin-t-p4-w7_fpn_1x_coco')
    box, box50 = cells['box_ap'], cells['box_ap50']
    assert (box.paper, box.reference, box.published) == ('42.2', '43.7', 'higher')
    assert (box.verdict, box.reference_verdict) == (Verdict.NOT_RUN, Verdict.NOT_RUN)
    assert '/Swin-Transformer-Object-Detection/blob/' in box.reference_source
    assert "released weights: trained at several scales; the row's at one" in box.reason
    assert (box50.reference, box50.published, box50.reference_source) == ('', '', '')
    (lvvit,) = unmeasured(4, 'lvvit_medium').values()
    assert (lvvit.paper, lvvit.reference, lvvit.published) == ('84.1', '84.0', 'close')
    assert assembly.exit_code([*cells.values(), lvvit], strict=False) == 0
    counts = {'same': 0, 'close': 1, 'higher': 2, 'lower': 0}
    assert assembly.count_published([*cells.values(), lvvit]) == counts


@pytest.mark.parametrize(
    ('published', 'agreement'),
    [(42.25, 'same'), (42.26, 'close'), (42.67, 'close'), (42.68, 'higher'), (41.7, 'lower')],
)
def test_a_published_value_is_compared_by_rounding_and_seeds(published, agreement):
    tolerance = paper.load_tolerances()['box_ap']  # 0.42, and half a unit of 42.2
    assert compare_published(published, paper.Printed('42.2'), tolerance) == agreement


def test_the_results_of_releases_are_those_of_the_audit_s_sources():
    """They leave out what is not of the row: what PaddleClas trained, and ViL's ImageNet-21K."""
    sources = {source.address: source for source in load_sources().values()}
    releases = [e for e in load_public() if e.name.startswith('release:')]
    for name in [*load_published()['results'], *(entry.system for entry in releases)]:
        system, result = SYSTEMS[name], registry.reference_of(SYSTEMS[name])
        metrics, address = result.metrics, result.source
        assert system.cited is None and metrics.keys() <= set(system.accuracies)
        table = int(system.rows[-1]['table'])
        source = sources.get(address)
        if result.protocol:
            continue
        if source is None:  # Swin's detectors have a README of their own; its numbers are Swin's
            assert 'Swin-Transformer-Object-Detection' in address
            source = load_sources()['swin']
        (row,) = [r for r in source.tables[table] if r.model == system.rows[-1]['model']]
        columns = [c for c in system.columns(table) if c.metric.name in metrics]
        assert metrics == {c.metric.name: row.cells[c.name].value for c in columns}


def test_the_command_lists_them(run, tmp_path):
    (tmp_path / 'deit_small_patch16_224.pth').write_bytes(b'mine')
    (tmp_path / 'twins_svt_base.safetensors').write_bytes(b'by hand')
    code, out, err = run('checkpoints', '--table', 4, '--checkpoints', '.', '--format', 'json')
    listed = {entry['system']: entry for entry in json.loads(out)['checkpoints']}
    assert (code, err, len(listed)) == (0, '', 23)
    assert listed['deit_small_patch16_224']['state'] == 'bad hash'
    assert listed['twins_svt_base']['state'] == 'unverified'
    assert listed['cait_m36_384']['state'] == 'absent'
    assert listed['cait_m36_384']['paper'] == {'top1': '85.1'}
    code, out, err = run('checkpoints', 'maformer_small')
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'maformer_small: no weights are public' in err


def test_what_no_program_can_download_is_put_there_by_hand(run, tmp_path):
    """The command names the address and the file; what lies there then is kept by its hash."""
    options = ('--checkpoints', '.', '--download', '--format', 'json')
    entry = PUBLIC['shuffle_tiny']

    def state_of():
        code, out, err = run('checkpoints', 'shuffle_tiny', *options)
        return code, json.loads(out)['checkpoints'][0]['state'], err

    code, found, err = state_of()
    assert (code, found) == (2, 'absent')
    assert f'get it from {entry.url} and put it at shuffle_tiny.pth' in err
    path = tmp_path / 'shuffle_tiny.pth'
    path.write_bytes(b'weights')
    assert state(entry, path) is FileState.UNVERIFIED
    for _ in range(2):
        assert state_of() == (0, 'present', '')
    assert released_name(path, sha256_of(path)) == entry.name
    path.write_bytes(b'others')
    assert state_of()[:2] == (2, 'bad hash')


def test_the_gate_takes_public_weights(run, in_process, tmp_path, monkeypatch):
    """Those that lie there are evaluated, others counted, another file is an error."""
    shapes.write(tmp_path, train=0, val=30)
    data = load(tmp_path / 'imagenet')
    (tmp_path / 'none.toml').touch()
    weights = tmp_path / 'weights'
    weights.mkdir()
    network = timm.create_model('test_resnet', num_classes=len(data.classes))
    save_file(network.state_dict(), weights / 'test_resnet.safetensors')
    sha256 = sha256_of(weights / 'test_resnet.safetensors')
    here = PUBLIC['crossvit_15_240'].model_copy(
        update={'system': 'test_resnet', 'model': 'test_resnet', 'sha256': sha256}
    )
    absent, other = PUBLIC['twins_svt_base'], PUBLIC['deit_small_patch16_224']
    (weights / f'{other.system}.pth').write_bytes(b'mine')

    def regress(public, *options):
        monkeypatch.setattr(registry, 'load_public', lambda: public)
        options = ('--manifest', 'none.toml', '--checkpoints', weights, *options)
        code, out, _ = run('regress', *options, '--workers', 0)
        return code, out

    code, out = regress((here, absent))
    assert (code, out) == (0, '4 not-run, without weights or data: --format json lists them.\n')
    # The embedded data are not the images of the published reference.
    code, out = regress((here, absent), '--data', data.root, '--format', 'json')
    checks = [check for check in json.loads(out)['checks'] if check['verdict'] != 'not-run']
    assert code == 2
    assert [check['metric'] for check in checks] == ['top1', 'top5']
    assert all('not those of the reference' in check['reason'] for check in checks)
    top1 = checks[0]['measured']
    for claimed, verdict, status in ((top1, 'match', 0), (top1 + 5, 'worse', 1)):
        images = {'fingerprint': data.fingerprint, 'images': len(data.samples)}
        reference = Reference(**images, metrics={'top1': claimed}, source='x')
        claiming = here.model_copy(update={'reference': [reference]})
        code, out = regress((claiming, absent), '--data', data.root)
        assert (code, f'{verdict}  ' in out) == (status, True)
    code, out = regress((other, here))
    assert code == 2
    assert 'is not the released timm:deit_small_patch16_224.fb_in1k' in ' '.join(out.split())


def test_the_page_on_evaluation_counts_them():
    page = ' '.join((RESULTS.parent / 'docs/evaluation.md').read_text().split())
    by_hand = sum(entry.by_hand for entry in load_public())
    assert f'the public weights of {len(PUBLIC)} systems: where' in page
    assert f'For {sum(bool(e.protocol) for e in load_public())} of them the systems say' in page
    assert f'{by_hand} of the {len(PUBLIC)} are on Google Drive' in page


OWN = "mmseg's own training; the row is of "


def pairs(metric):
    """What others scored by the protocol of a row minus what the row prints, or should print."""
    likely = {m.key: paper.Printed(m.likely) for m in load_misprints() if m.likely}
    for entry in load_public():
        system = SYSTEMS[entry.system]
        for column in system.columns(system.rows[0]['table']):
            if column.metric.name == metric in entry.reference[0].metrics:
                (row,) = filter(system.stands_for, paper.load_table(system.rows[0]['table']))
                printed = likely.get((row.table, row.model, column.name), row.cells[column.name])
                if entry.protocol.startswith(OWN) and printed is not None:
                    value = entry.reference[0].metrics[metric] - printed.value
                    yield entry.system, round(value, 2)


def spread(differences):
    """Half the width of the 95 % interval of one more difference, if their mean is 0."""
    n = len(differences)
    return t.ppf(0.975, n) * (sum(d * d for d in differences) / n) ** 0.5


@pytest.mark.parametrize(
    'metric', [name for name, m in paper.METRICS.items() if not m.is_complexity]
)
def test_seeds_are_measured_where_there_are_six_pairs(metric):
    seeds, found = paper.load_tolerances()[metric].seeds, dict(pairs(metric))
    assert set(seeds.pairs) == found.keys()
    assert seeds.estimate == (len(found) < 6)
    assert not 0 < len(found) < 6
    if found:
        differences = [found[system] for system in seeds.pairs]
        listed = re.findall(r'-?\d+\.\d\d', seeds.source)[: len(differences)]
        assert list(map(float, listed)) == differences
        assert round(spread(differences), 2) == seeds.width


def test_pairs_lie_within_what_the_others_give():
    """All but one of twelve, where one of twenty may."""
    inside = []
    for metric in ('miou', 'ms_miou'):
        differences = [difference for _, difference in pairs(metric)]
        for i, one in enumerate(differences):
            others = [*differences[:i], *differences[i + 1 :]]
            inside.append(abs(one) <= spread(others))
    assert len(inside) - sum(inside) == 1
    page = ' '.join((RESULTS.parent / 'docs/uncertainty.md').read_text().split())
    assert f'{sum(inside)} of the {len(inside)} values lie within what the others give' in page
    tolerances = paper.load_tolerances()
    for name in ('miou', 'ms_miou', 'top1', 'box_ap'):
        assert f'{tolerances[name].seeds.width:.2f}' in page
