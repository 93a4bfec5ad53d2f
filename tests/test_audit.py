"""The audit's claims, sources and readings, and that its findings are what the data says."""

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from model.maformer import VARIANTS
from reproduce import paper
from reproduce.audit.claims import ClaimVerdict, judge_claims
from reproduce.audit.closed_form import BUILT, OPTIONS, count
from reproduce.audit.findings import audit, flop_cells, total_ratios
from reproduce.audit.readings import flops_in_windows, widths_that_fit
from reproduce.complexity.measuring import measure
from reproduce.judge.assembly import printed_numbers
from reproduce.systems import load_systems
from reproduce.weights.registry import reference_of

RESULTS = Path(__file__).parents[1] / 'results'


@pytest.fixture(scope='module')
def audited():
    return audit(RESULTS)


@pytest.fixture(scope='module')
def data(audited):
    return audited[0]


def text(finding):
    return ' '.join([finding.sentence, *finding.evidence])


# ------------------------------------------------------------------------------------------------
# Claims and sources


def verdicts(claims):
    return {(j.claim.place, j.claim.says): j.verdict for j in claims}


def test_claims_are_recomputed(data):
    found = verdicts(data.claims)
    assert found['Abstract, 7', 'MAFormer-L over CSWin-B'] is ClaimVerdict.UNLIKE
    assert found['Abstract, 7', 'MAFormer-L over LV-ViT-L'] is ClaimVerdict.HOLDS
    assert found['4.4 Results, 3', 'over Swin, UPerNet, B'] is ClaimVerdict.PARTLY
    assert found['4.3 Results, 9', 'mask AP over CSWin, S'] is ClaimVerdict.FAILS


@pytest.mark.parametrize(
    ('name', 'before', 'after', 'place', 'says', 'verdict'),
    [
        ('table7.csv', '929,48.3', '929,49.8', '4.4 Results, 3', 'mIoU, UPerNet, S', 'holds'),
        ('table6.csv', '71.3', '71.6', '4.3 Results, 7', 'MAFormer-S leads its group', 'holds'),
        (
            'table2.csv',
            'n,83.4',
            'n,83.3',
            '4.1 Global, 4',
            'GLD over convolution',
            'does not hold',
        ),
    ],
)
def test_a_claim_follows_its_cells(tmp_path, data, name, before, after, place, says, verdict):
    assert verdicts(data.claims)[place, says] != verdict
    folder = shutil.copytree(paper.FOLDER, tmp_path / 'paper')
    text = (folder / name).read_text()
    assert text.count(before) == 1
    (folder / name).write_text(text.replace(before, after))
    tables = {number: paper.load_table(number, folder) for number in paper.TABLES}
    assert verdicts(judge_claims(tables))[place, says] == verdict


def test_sources_are_compared_cell_by_cell(data):
    """Every number of every baseline once, with all that the sources print for it."""
    cells = {(c.table, c.model, c.field): c for c in data.sourced}
    printed = {
        (number, row.model, name)
        for number, rows in data.tables.items()
        for row in rows
        for name, cell in row.cells.items()
        if cell and not row.model.startswith('MAFormer')
    }
    assert printed <= cells.keys()
    assert cells[4, 'Swin-T', 'top1'].agreement == [True, True, True, False]
    assert cells[4, 'Shuffle-T', 'top1'].agreement == [False]
    assert cells[4, 'DS-Net-B', 'top1'].agreement == []


# ------------------------------------------------------------------------------------------------
# Readings of the block


@pytest.mark.parametrize(
    ('variant', 'arguments', 'changes', 'image'),
    [
        ('maformer_small', {'depths': (1, 5, 8, 3)}, {}, (800, 1280)),
        ('maformer_base', {}, {}, (250, 190)),
        ('maformer_small', {'grid_size': 28}, {'gld': '28x28 to 14x14'}, (224, 224)),
    ],
)
def test_the_closed_form_counts_what_the_model_has(variant, arguments, changes, image):
    net = timm.create_model(variant, num_classes=1000, **arguments)
    measured = measure(net, lambda m: m(torch.empty(1, 3, *image, device='meta')))
    dims, depths = net.embed_dims, arguments.get('depths', VARIANTS[variant]['depths'])
    reading = BUILT | {'auxiliary head': 'not counted'} | changes
    framework = paper.FRAMEWORKS['classifier'].model_copy(update={'image': image})
    counted = count(reading, framework, dims, depths)
    assert list(counted) == [measured.params, measured.layer_flops, measured.total_flops]


def test_what_a_framework_adds_is_the_same_for_all_sizes_and_depths(data):
    """In every measured cell of MAFormer, with the closed form subtracted."""
    rests = {}
    for cell in data.cells:
        column = cell.column
        if cell.row.own and column.metric.is_complexity and cell.table in (1, 5, 6, 7):
            dims, depths = data.search.variants[cell.model]
            if cell.variant:
                depths = tuple(map(int, cell.variant.split('-')))
            framework = column.framework
            own = count(BUILT, framework, dims, depths)
            of_cell = rests.setdefault((framework.name, column.metric.name), [])
            if column.metric.name == 'params_m':
                of_cell.append(cell.measured - own[0] / 1e6)
            else:
                of_cell += [cell.layer_flops_g - own[1] / 1e9, cell.total_flops_g - own[2] / 1e9]
    assert len(rests) == 10
    for values in rests.values():
        assert len(values) >= 3
        assert np.ptp(values) < 2e-6


def test_readings_that_fit(data):
    search = data.search
    assert len(search.targets) == 26
    assert len(search.readings) == np.prod([len(of) for of in OPTIONS.values()]) == 7200
    assert sum(search.histogram.values()) == 7200
    assert search.histogram[25] == len(search.best) == 426
    assert widths_that_fit(search) == [(40, 112, 352, 448)]
    built = search.readings.index(BUILT)
    assert (search.met[built], search.met_as_printed[built]) == (25, 18)
    assert tuple(search.depths[search.best_depths[built]]) == (3, 3, 8, 3)
    # One reading after the other, in the closed form of one: the same cells are met.
    for index in (0, 17, 4711, int(search.best[-1])):
        met = 0
        for cell in search.targets:
            dims, depths = search.variants[cell.model]
            if cell.model == 'MAFormer-S':
                depths = search.depths[search.best_depths[index]]
            counted = count(search.readings[index], cell.framework, dims, depths)
            value = counted[cell.measure] + cell.rest
            met += abs(value - cell.printed) <= cell.width
        assert met == search.met[index]


def test_total_flops_depend_on_what_stages_3_and_4_attend_to(data):
    """The model as built has what was measured; every other choice of a best reading has less."""
    for framework in ('mask_rcnn', 'cascade_mask_rcnn'):
        ratios = total_ratios(data, framework)
        windows = [flops_in_windows(a) / b.total_flops_g for a, b in flop_cells(data, framework)]
        assert windows == pytest.approx([ratio for ratio, *_ in ratios['windows of 14']], rel=1e-6)
        built = [ratio for ratio, *_ in ratios['all tokens']]
        assert built == pytest.approx(
            [a.total_flops_g / b.total_flops_g for a, b in flop_cells(data, framework)], rel=1e-6
        )
        for attention, of in ratios.items():
            for whole, (ratio, low, high) in zip(ratios['all tokens'], of, strict=True):
                assert low <= ratio <= high
                assert attention == 'all tokens' or high < whole[1]


# ------------------------------------------------------------------------------------------------
# README and docs


def numbers(text):
    """The numbers of a text as they are written, without those in names, links and headings."""
    text = re.sub(r'\]\([^)]*\)|`[^`]*`|^#.*$|CIFAR-10|\b95 %', ' ', text, flags=re.M)
    text = re.sub(r'^\d+\. ', '', text, flags=re.M)
    return set(re.findall(r'(?<![\w.,-])\d+(?:[.,-]\d+)*(?![\d-])', text))


def design_claims():
    """Differences and interval of GLD over no global branch, and the seeds, of each study."""
    found, contradicted = set(), {}
    for study in ('micro', 'small', 'medium'):
        with (RESULTS / f'ablations/{study}/claims.csv').open(newline='') as file:
            claims = {line['claim']: line for line in csv.DictReader(file)}
        # `medium` has the branch at equal FLOPs and parameters alone.
        line = claims.get('gld_over_none', claims['gld_over_deeper'])
        found |= {f'{float(line[k]):.1f}' for k in ('mean', 'low', 'high')} | {line['pairs']}
        assert {line['verdict'], claims['gld_over_deeper']['verdict']} == {'supported'}
        contradicted[study] = {c for c in claims if claims[c]['verdict'] == 'contradicted'}
    assert contradicted['medium'] == set()
    assert contradicted['small'] == {'gld_over_fc'}
    assert contradicted['micro'] == {'gld_over_fc', 'ratio_half_over_quarter'}
    return found


def test_the_page_of_findings_lists_them(audited):
    text = (RESULTS.parent / 'docs/findings.md').read_text()
    items = re.findall(r'^\d+\. (.*?)(?=^\d+\. |^$)', text, re.M | re.S)
    listed = [' '.join(item.replace('**', '').split()) for item in items]
    assert listed == [finding.sentence for finding in audited[1]]


def test_every_number_of_the_findings_is_computed(audited, data):
    found = set().union(*(numbers(text(finding)) for finding in audited[1]))
    histogram = data.search.histogram
    found |= {str(n) for n in histogram} | {f'{readings:,}' for readings in histogram.values()}
    found.add(f'{sum(n for met, n in histogram.items() if met <= 18):,}')
    for framework in ('mask_rcnn', 'cascade_mask_rcnn'):
        for ours, rival in flop_cells(data, framework):
            layer = data.search.flops(ours.model, framework, 'layer')[data.search.best]
            assert abs(layer - ours.layer_flops_g).max() / rival.layer_flops_g < 0.03
    page = (RESULTS.parent / 'docs/findings.md').read_text()
    page = page.partition('## Published accuracies')[0]  # another test
    assert numbers(page) - found == {'0.03'}


def test_what_the_findings_say_of_published_accuracies(data):
    accuracies = [c for c in printed_numbers(data.cells) if not c.column.metric.is_complexity]
    published = [cell for cell in accuracies if cell.published]
    of = Counter(cell.published for cell in published)
    systems = {system.name: system for system in load_systems()}
    other = {
        cell.key: cell.published.agrees
        for cell in published
        if reference_of(systems[cell.system]).protocol
    }
    page = ' '.join((RESULTS.parent / 'docs/findings.md').read_text().split())
    assert (
        f'a value for {len(published)} of the {len(accuracies)} printed accuracies: {of["same"]} '
        f'are the same up to rounding, {of["close"]} as close as another seed may be, '
        f'{of["higher"]} are higher and {of["lower"]} lower. Of the {of["higher"] + of["lower"]} '
        f'that differ, {len(other) - sum(other.values())} are of weights'
    ) in page
    misprints = {misprint.key for misprint in data.misprints}
    (differs,) = (c for c in published if not c.published.agrees and c.key not in other)
    assert (differs.table, differs.model, differs.metric) in misprints
    assert f'so are {sum(other.values())} of the others' in page


def test_every_number_of_the_readme_s_result_is_computed(audited, data):
    readme = (RESULTS.parent / 'README.md').read_text()
    section = readme.partition('## The result')[2].partition('\n## ')[0]
    found = set().union(*(numbers(text(finding)) for finding in audited[1]))
    printed = printed_numbers(data.cells)
    accuracies = [cell for cell in printed if not cell.column.metric.is_complexity]
    public = {system.name for system in load_systems() if system.weights}
    reachable = sum(cell.system in public for cell in accuracies)
    published = [cell.published for cell in accuracies if cell.published]
    verdicts = Counter(cell.verdict for cell in printed)
    plain = ' '.join(section.split())
    for sentence in (
        f'The paper prints {len(printed)} numbers: {verdicts["match"]} match, '
        f'{verdicts["known"]} known (deviating, with the reason), {verdicts["unresolved"]} '
        f'unresolved (deviating, without one), {verdicts["not-run"]} not-run.',
        f'{len(printed) - len(accuracies)} of {len(printed) - len(accuracies)} measured',
        f'Accuracies: 0 of {len(accuracies)} measured.** {reachable} can be measured',
        f'The other {len(accuracies) - reachable} need weights',
        f'for {sum(cell.row.own for cell in accuracies)} of them, MAFormer',
        f'{len(published)}** of them have a value from the publisher of the weights; '
        f'{sum(not p.agrees for p in published)} [differ]',
    ):
        assert sentence in plain
        found |= numbers(sentence)
    assert not any(cell.measured for cell in accuracies)
    assert sum(verdicts.values()) == len(printed)
    assert numbers(section) - found - design_claims() - {'1'} == set()


def test_tables_with_few_lines_are_one_line(run, tmp_path):
    for path in RESULTS.glob('table*.csv'):
        (tmp_path / path.name).write_text(''.join(path.read_text().splitlines(True)[:9]))
    code, out, err = run('audit', '--results', tmp_path)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert re.search(r'The results of Table \d have no .* table \d`', err)


def test_the_command_prints_findings_and_details(run, audited, monkeypatch):
    data, findings = audited
    monkeypatch.setattr('reproduce.commands.audit.run_audit', lambda results: audited)
    code, short, _ = run('audit', '--results', RESULTS)
    plain = ' '.join(short.split())
    assert code == 0 and len(short.splitlines()) < 60
    assert all(finding.sentence in plain for finding in findings)
    plain = ' '.join(run('audit', '--results', RESULTS, '--details')[1].split())
    assert all(part in plain for finding in findings for part in finding.evidence)
    result = json.loads(run('audit', '--results', RESULTS, '--format', 'json')[1])
    assert [f['title'] for f in result['findings']] == [f.title for f in findings]
    assert len(result['claims']) == len(data.claims)
    assert result['readings']['by_cells_met']['25'] == len(data.search.best)
