"""Every number that a reason gives is computed again: the register says nothing that is not so."""

import csv
import re
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from math import ceil
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

from model.maformer import VARIANTS
from reproduce import paper
from reproduce.audit.rows import printed_value
from reproduce.audit.sources import load_misprints, load_sources
from reproduce.complexity import counts
from reproduce.complexity.measuring import measure_system
from reproduce.judge.assembly import load_known
from reproduce.judge.cells import load_results
from reproduce.openmmlab import configs, models
from reproduce.paper import load_table
from reproduce.systems import System, load_systems
from reproduce.systems.selection import rows_and_systems

RESULTS = Path(__file__).parents[1] / 'results'
KNOWN = load_known()
ENTRIES = list({id(entry): entry for entry in KNOWN.values()}.values())
SYSTEMS = {system.name: system for system in load_systems()}
COUNTED = {}
DEPTHS = re.compile(r'(?<![\w-])\d+(?:-\d+){2,}(?![\w-])')
# A number that is a word of its own, or the first part of one: '16', '8.9', '128-channel'. Those in
# names ('CaiT-M36', 'maformer_small_3383') and in kernel sizes ('3x3') are none.
NUMBER = re.compile(r'(?<![\w.-])\d+(?:\.\d+)?(?![\dx.]*\w)')


# How a number is computed again; `known.toml` describes the fields.
EVIDENCE = dict.fromkeys(('printed', 'source', 'system', 'count'), '') | {
    **{'model': None, 'config': None, 'arguments': {}, 'input_size': 224}
}


def numbers(text):
    """The numbers of a text as written, without those of tables and stages that it names."""
    text = re.sub(r'(Table|stage)s?( \d,?)+( and \d)?', '', text)
    return {*DEPTHS.findall(text), *NUMBER.findall(DEPTHS.sub('', text))}


def agrees(text, value):
    """Whether `value` rounds to the number in a text, at its digits."""
    if '-' in text or isinstance(value, str):
        return text == value
    digits = Decimal(1).scaleb(-len(text.partition('.')[2]))
    return Decimal(text) == Decimal(str(value)).quantize(digits, ROUND_HALF_UP)


@pytest.fixture(scope='module', autouse=True)
def _counted(kept_counts):
    COUNTED.update(counts.count(load_systems(), kept_counts))


def counted(system):
    complexity = COUNTED[system]
    return {
        'params_m': complexity.params / 1e6,
        'layer_flops_g': complexity.layer_flops / 1e9,
        'total_flops_g': complexity.total_flops / 1e9,
    }


@cache
def sources():
    return {name: source.tables for name, source in load_sources().items()}


def computed(evidence):
    """What the evidence comes to when it is computed again."""
    if evidence.printed:
        own = {n: load_table(n) for n in paper.TABLES}
        return printed_value(evidence.printed, {'': sources().get(evidence.source, own)})
    if evidence.count == 'depths':
        return '-'.join(map(str, VARIANTS[evidence.model]['depths']))
    if evidence.count == 'vil_counter_g':
        with torch.device('meta'):
            stages = timm.create_model(evidence.model).stages
        return released_count([len(stage.blocks) for stage in stages]) / 1e9
    if evidence.config is not None:
        config = configs.load_config(evidence.config)
        if evidence.system:
            theirs = configs.load_config(SYSTEMS[evidence.system].config)
            config.model.backbone = theirs.model.backbone
            config.model.neck.in_channels = theirs.model.neck.in_channels
        assert evidence.count == 'params_m'
        return sum(p.numel() for p in models.build(config).parameters()) / 1e6
    if evidence.system:
        return counted(evidence.system)[evidence.count]
    built = {k: getattr(evidence, k) for k in ('model', 'arguments', 'input_size')}
    complexity = measure_system(System(name='evidence', rows=[], **built))
    scale = 1e6 if evidence.count == 'params_m' else 1e9
    return getattr(complexity, evidence.count.rpartition('_')[0]) / scale


def evidence_of(entry):
    return [SimpleNamespace(**EVIDENCE | evidence) for evidence in entry.evidence]


def settings(evidence=(), systems=(), rows=()):
    """The numbers that something was set to: image sizes, widths."""
    found = {str(size) for e in evidence for size in (e.input_size, *e.arguments.values())}
    found |= {str(system.input_size) for system in systems}
    return found | {row.description.get(k, '') for row in rows for k in ('train_size', 'test_size')}


def cells_of(entry):
    """The rows and the printed values that an entry is about."""
    rows = [
        (row, system)
        for table in entry.tables
        for row in load_table(table)
        for system in map(SYSTEMS.get, entry.systems)
        if system.stands_for(row)
    ]
    return [r for r, _ in rows], [r.cells[m].text for r, _ in rows for m in entry.metrics]


@pytest.mark.parametrize('entry', ENTRIES, ids=lambda e: f'{e.tables[0]}-{e.systems[0]}')
def test_every_number_of_a_reason_is_computed_again(entry):
    for evidence in evidence_of(entry):
        assert evidence.number in numbers(entry.text), f'{evidence.number} is in no text'
        assert agrees(evidence.number, computed(evidence)), evidence
    rows, printed = cells_of(entry)
    systems = [SYSTEMS[name] for name in entry.systems]
    own = [*map(Decimal, printed), *(v for s in entry.systems for v in counted(s).values())]
    backed = {e.number for e in evidence_of(entry)} | settings(evidence_of(entry), systems, rows)
    for number in numbers(entry.text) - backed:
        assert any(agrees(number, value) for value in own), f'{number} has no evidence'


@pytest.mark.parametrize('misprint', load_misprints(), ids=lambda m: f'{m.table}-{m.model}')
def test_every_number_of_a_misprint_is_printed_or_measured(misprint):
    """Somewhere for this model: in the paper, in a source, in the results, or as evidence."""
    everywhere = [{n: load_table(n) for n in paper.TABLES}, *sources().values()]
    rows = [
        row
        for tables in everywhere
        for of_table in tables.values()
        for row in of_table
        if row.model == misprint.model
    ]
    known = [e for e in ENTRIES if misprint.table in e.tables and misprint.metric in e.metrics]
    evidence = [
        e
        for entry in known
        if any(row.model == misprint.model for row in cells_of(entry)[0])
        for e in evidence_of(entry)
    ]
    values = [Decimal(cell.text) for row in rows for cell in row.cells.values() if cell]
    for table in paper.TABLES:
        with (RESULTS / f'table{table}.csv').open(newline='') as file:
            values += [
                Decimal(line[column])
                for line in csv.DictReader(file)
                for column in ('measured', 'layer_flops_g', 'total_flops_g')
                if line['model'] == misprint.model and line[column]
            ]
    texts = {e.number for e in evidence} | settings(evidence, rows=rows)
    texts |= {row.description.get('depths', '') for row in rows}
    texts |= {'3-3-8-3', '2-4-8-3'} if misprint.metric == 'depths' else set()  # see test_audit.py
    for number in numbers(f'{misprint.reason} {misprint.likely}') - texts:
        assert any(agrees(number, value) for value in values), number


@pytest.mark.parametrize(
    'system', [s for s in load_systems() if numbers(s.note)], ids=lambda s: s.name
)
def test_every_number_of_a_note_is_set_or_counted(system):
    rows = [r for n in paper.TABLES for r in load_table(n) if system.stands_for(r)]
    note = re.sub(r'\[\d+(?:, \d+)+\]', '', system.note)  # the depths, which the model's tests hold
    left = numbers(note) - settings(systems=[system], rows=rows)
    if not left:
        return
    assert system.accuracy_config, f'{left} of {system.name}'
    other = measure_system(system.model_copy(update={'config': system.accuracy_config}))
    assert all(agrees(number, other.layer_flops / 1e9) for number in left)


def test_the_register_of_today_is_true():
    """Each entry, against what is counted: outside in its convention, explained in the other."""
    rows, _ = rows_and_systems(None)
    allowed = {(c.table, c.system, c.metric): c.tolerance for c in load_results()}
    for (table, name, metric), entry in KNOWN.items():
        column = paper.TABLES[table].columns[metric].metric
        convention = SYSTEMS[name].convention if column.name == 'flops_g' else ''
        key = {'layer': 'layer_flops_g', 'total': 'total_flops_g'}.get(convention, 'params_m')
        row = next(r for r in rows if r.table == table and SYSTEMS[name].stands_for(r))
        target, width = row.cells[metric], allowed[table, name, metric]
        assert abs(counted(name)[key] - target.value) > width, (table, name, metric)
        if convention:
            other = {'layer': 'total_flops_g', 'total': 'layer_flops_g'}[convention]
            matches = abs(counted(name)[other] - target.value) <= width
            assert matches == bool(entry.convention), (table, name, metric)


def released_count(depths, dims=(96, 192, 384, 768)):
    """Multiply-adds of Mask R-CNN with ViL as the counter of ViL's released code counts them.

    It counts layers with their biases at 800 x 1344, which is 1333 padded to whole cells, with 1000
    boxes and no masks. Its attention (`compute_macs` of `longformer2d.py` in
    microsoft/vision-longformer) multiplies windows of as many tokens as there are channels, and
    leaves out the keys and values that the global token computes a second time.
    """

    def cells(stride):
        return ceil(800 / stride) * ceil(1344 / stride)

    def affine(inputs, outputs):
        return (inputs + 1) * outputs

    total, inputs = 0, 3
    for i, (blocks, dim, g) in enumerate(zip(depths, dims, (1, 1, 1, 0), strict=True)):
        tokens = cells(4 * 2**i)
        total += tokens * affine((16 if i == 0 else 4) * inputs, dim)
        products = (dim - g) * (9 * 7 * 7 + g) * dim + g * (tokens + g) * dim
        layers = 4 * affine(dim, dim) + affine(dim, 4 * dim) + affine(4 * dim, dim)
        total += blocks * (2 * products + (tokens + g) * layers)
        total += tokens * (affine(dim, 256) + affine(9 * 256, 256))  # pyramid
        inputs = dim
    proposals = affine(9 * 256, 256) + affine(256, 5 * 3)
    boxes = affine(49 * 256, 1024) + affine(1024, 1024) + affine(1024, 81) + affine(1024, 320)
    return total + sum(cells(4 * 2**i) for i in range(5)) * proposals + 1000 * boxes


@pytest.mark.parametrize(
    ('depths', 'dims', 'printed'),
    [
        ((1, 1, 9, 1), (48, 96, 192, 384), 145.6),
        ((1, 8, 24, 1), (96, 192, 384, 768), 384.4),
    ],
)
def test_the_counter_of_vil_counts_what_its_readme_prints(depths, dims, printed):
    """Two sizes within a thousandth, where another image or mask heads would be far off."""
    assert released_count(depths, dims) / 1e9 == pytest.approx(printed, rel=1e-3)
