"""The audit finds what is known not to hold, and a changed cell changes what it finds."""

import csv
import json
import re
import shutil
from decimal import Decimal
from pathlib import Path

import pytest
import timm
import torch

from model.maformer import VARIANTS
from reproduce import paper
from reproduce.audit.claims import ClaimVerdict
from reproduce.audit.expressions import evaluate
from reproduce.audit.measured import MeasuredTables
from reproduce.audit.readings import Reading, count, targets
from reproduce.audit.run import audit
from reproduce.audit.sources import SourceVerdict, load_sources, unsourced
from reproduce.base.errors import UserError
from reproduce.complexity.flops import measure

RESULTS = Path(__file__).parents[1] / 'results'
HELD = {ClaimVerdict.HOLDS, ClaimVerdict.PARTLY}
NOT_HELD = {ClaimVerdict.FAILS, ClaimVerdict.UNLIKE}


@pytest.fixture(scope='module')
def tables():
    return {number: paper.load_table(number) for number in paper.TABLES}


@pytest.fixture(scope='module')
def found():
    return audit(RESULTS)


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(paper.FOLDER, tmp_path / 'paper'))


def change(folder, name, before, after):
    path = folder / name
    text = path.read_text()
    assert text.count(before) == 1, before
    path.write_text(text.replace(before, after))


def verdict(audited, place, says):
    """That of the one claim at this place that says this."""
    (claim,) = (
        c for c in audited.claims if c.claim.place.startswith(place) and c.claim.says == says
    )
    return claim.verdict


# Place, what is printed, and a part of the evidence.
@pytest.mark.parametrize(
    ('place', 'says', 'evidence'),
    [
        ('Abstract, 7', 'MAFormer-L over CSWin-B: 1.7', 'has token labeling, CSWin-B has not'),
        ('4.1 Local, 3', 'shifted windows: 0.2', '83.7 - 83.4 = 0.3'),
        ('4.1 Global, 2', 'GLD over no global information: 1', '83.0 - 82.7 = 0.3'),
        ('4.3 Results, 5', 'far less parameters than CSWin-S', '71 < 54'),
        ('4.3 Results, 5', 'far less parameters than Swin-S', '71 < 69'),
        ('4.3 Results, 7', 'MAFormer-S leads its group', 'box_ap50 71.3, CSWin-T 71.5'),
        ('4.3 Results, 9', 'mask AP over CSWin, S: 0.3', '45.7 - 45.3 = 0.4'),
        ('4.4 Results, 2', 'Semantic FPN, B: 2.6', '49.8 - 46.0 = 3.8'),
        ('4.4 Results, 3', 'mIoU, UPerNet, S: 49.8', '48.3'),
        ('4.4 Results, 3', 'over Swin, UPerNet, S: 3.9', '48.3 - 44.5 = 3.8'),
        ('4.4 Results, 3', 'over Swin, UPerNet, B: 3.0 (in one reading)', '51.1 - 47.6 = 3.5'),
        ('Table 1, MAFormer-S', 'depths 3-5-8-3', 'meet 5 of the 10'),
        ('Table 1, MAFormer-L', 'params_m 104', 'params_m 104 and 105'),
        ('Table 4, CSWin-S', 'flops_g 8.9', 'at most 3.1 G'),
        ('Table 4, CSWin-S', 'flops_g 8.9', '6.9 in CSWin Transformer'),
        ('Table 4, CaiT-M36', 'flops_g 247.8', '(cait_m36_384)'),
        ('Table 4, CaiT-M36', 'top1 85.1', "86.1 in CaiT's released models"),
        ('Table 5, Swin-T', 'mask_ap50 64.6', 'mask_ap50 is box_ap50'),
        ('Table 5, Swin-T', 'mask_ap50 64.6', '61.6 in CSWin Transformer'),
        ('Table 5, TwinsP-S', 'mask_ap 40.4', '40.0 in CSWin Transformer'),
        ('Tables 5 and 6, Swin-S', '838 - 354 = 484', 'only Table 6 counts attention'),
        ('Table 7, MAFormer-S', 'sem_fpn_params_m 28', '41 - 28 = 13'),
        ('Table 7, MAFormer-S', 'sem_fpn_params_m 28', '55 - 28 = 27'),
        ('Table 7, Swin-B', 'sem_fpn_flops_g 442', '422 in CSWin Transformer'),
        ('Table 7, CSWin-T', 'left out', 'upernet_miou 49.3, MAFormer-S 48.3'),
        ('3.2 Global', 'connects all tokens', 'M parameters'),
    ],
)
def test_what_is_known_not_to_hold_is_on_the_list(found, place, says, evidence):
    of_place = [f for f in found.findings if f.place.split(';')[0] == place and says in f.says]
    assert any(evidence in finding.evidence for finding in of_place)


def test_the_two_flop_conventions_lead_the_list(found):
    """Against the CSVs: what is printed side by side, and what both come to in one convention."""
    first, *_ = found.findings
    assert first.place == 'Tables 5 and 6, FLOPs'
    assert 'layer FLOPs of MAFormer stand beside total FLOPs of CSWin' in first.says
    assert first.evidence.startswith("What is printed as 0.92 to 1.16 times the rival's FLOPs is")
    with (RESULTS / 'table5.csv').open(newline='') as file:
        lines = [line for line in csv.DictReader(file) if line['metric'] == 'flops_g']
    of = {line['system']: line for line in lines}
    pairs = [(p.ours.system, p.rival.system) for p in found.comparisons if p.table == 5]
    assert pairs == [
        ('mask-rcnn_maformer-small-3383_fpn_1x_coco', 'mask-rcnn_cswin-t_fpn_1x_coco'),
        ('mask-rcnn_maformer-base_fpn_1x_coco', 'mask-rcnn_cswin-s_fpn_1x_coco'),
        ('mask-rcnn_maformer-large_fpn_1x_coco', 'mask-rcnn_cswin-b_fpn_1x_coco'),
    ]
    for pair, (ours, rival) in zip(found.comparisons[:3], pairs, strict=True):
        for name in ('total', 'layer'):
            counts = [float(of[system][f'{name}_flops_g']) for system in (ours, rival)]
            assert pair.ratio(name) == pytest.approx(counts[0] / counts[1])
            ratio = counts[0] / counts[1]
            assert f'{counts[0]:.0f} and {counts[1]:.0f} G {name} ({ratio:.2f} times)' in (
                first.evidence
            )
    assert [round(p.printed_ratio, 2) for p in found.comparisons[:3]] == [0.92, 1.04, 1.16]
    assert len(found.comparisons) == 6


def test_the_findings_have_the_same_numbers(found):
    text = (RESULTS.parent / 'docs/findings.md').read_text()
    for pair in found.comparisons[:3]:
        counts = ''.join(
            f' {pair.ours.flops(n):.0f}, {pair.rival.flops(n):.0f} | {pair.ratio(n):.2f} × |'
            for n in ('total', 'layer')
        )
        printed = f' {pair.ours.paper}, {pair.rival.paper} | {pair.printed_ratio:.2f} × |'
        assert f'{pair.rival.model} |{printed}{counts}' in text
    for pair in found.comparisons[3:]:
        counts = (pair.ours.flops('total'), pair.rival.flops('total'))
        assert '{:.0f} against {:.0f}'.format(*counts) in text


def test_sources_are_compared_cell_by_cell(found, tables):
    """Every number of every rival's row once, with all that the sources print for it."""
    cells = {(c.table, c.model, c.field): c for c in found.sourced}
    printed = {
        (number, row.model, name)
        for number, rows in tables.items()
        for row in rows
        for name, cell in row.cells.items()
        if cell and not row.model.startswith('MAFormer')
    }
    assert printed <= cells.keys()
    swin = cells[4, 'Swin-T', 'top1']
    assert swin.verdict is SourceVerdict.PARTLY
    assert [text for _, text in swin.sources] == ['81.3', '81.3', '81.3', '81.2']
    assert cells[4, 'Shuffle-T', 'top1'].verdict is SourceVerdict.DIFFERS
    assert cells[4, 'DS-Net-B', 'top1'].verdict is SourceVerdict.UNSOURCED
    assert 'Table 4, DS-Net-B' in unsourced(found.sourced)
    assert 'Table 5, PVT-S' not in unsourced(found.sourced)


def test_a_source_says_where_it_stands():
    """A README at a fixed version, a paper on arXiv; and what it calls each of its tables."""
    for source in load_sources():
        assert re.search(
            r'/blob/[0-9a-f]{40}/\S+\.md$|/arxiv.org/abs/\d{4}\.\d{5}$', source.address
        )
        assert source.headings.keys() == source.tables.keys()
        assert source.tables


def test_what_holds_is_not_on_the_list(found):
    assert verdict(found, 'Abstract', 'MAFormer-L over LV-ViT-L') is ClaimVerdict.HOLDS
    assert verdict(found, '4.1', 'GLD over convolution') is ClaimVerdict.HOLDS
    assert verdict(found, '4.4', 'over Swin, Semantic FPN, S') is ClaimVerdict.HOLDS
    # One source prints 79.9 for DeiT-S and two print 83.3 for Swin-B, but another agrees.
    assert not {'Table 4, DeiT-S', 'Table 4, Swin-B'} & {f.place for f in found.findings}
    assert not [f for f in found.contradictions if 'Res' in f.place or 'Twins' in f.place]


# A cell before and after, and the claim that this makes hold.
@pytest.mark.parametrize(
    ('name', 'before', 'after', 'claim'),
    [
        ('table7.csv', '929,48.3', '929,49.8', ('4.4 Results, 3', 'mIoU, UPerNet, S')),
        ('table7.csv', '929,48.3', '929,48.4', ('4.4 Results, 3', 'over Swin, UPerNet, S')),
        ('table7.csv', '91,442,46.0', '91,442,47.2', ('4.4', 'over Swin, Semantic FPN, B')),
        ('table6.csv', '45.7,68.9', '45.6,68.9', ('4.3 Results, 9', 'mask AP over CSWin, S')),
        ('table5.csv', 'S,54,342', 'S,72,342', ('4.3', 'far less parameters than CSWin-S')),
        ('table4.csv', 'L,true,224', 'L,false,224', ('Abstract', 'MAFormer-L over CSWin-B')),
    ],
)  # fmt: skip
def test_a_claim_comes_to_hold_with_its_cell(folder, found, name, before, after, claim):
    assert verdict(found, *claim) in NOT_HELD
    change(folder, name, before, after)
    assert verdict(audit(RESULTS, folder), *claim) in HELD


@pytest.mark.parametrize(
    ('name', 'before', 'after', 'claim'),
    [
        ('table5.csv', '354,49.6', '354,49.7', ('4.3 Results, 3', 'box AP of MAFormer-B')),
        ('table5.csv', '42.7,66.5', '42.76,66.5', ('4.3 Results, 4', 'mask AP over CSWin, S')),
        ('table2.csv', 'Convolution,83.4', 'Convolution,83.3', ('4.1', 'GLD over convolution')),
        ('table4.csv', '22.6,85.9', '22.6,85.3', ('4.2', 'MAFormer-L leads its group')),
    ],
)
def test_a_claim_ceases_to_hold_with_its_cell(folder, found, name, before, after, claim):
    assert verdict(found, *claim) is ClaimVerdict.HOLDS
    change(folder, name, before, after)
    assert verdict(audit(RESULTS, folder), *claim) is ClaimVerdict.FAILS


@pytest.mark.parametrize(
    ('name', 'before', 'after', 'gone'),
    [
        ('table1.csv', '104,22.6', '105,22.6', 'Tables 1 and 4, MAFormer-L'),
        ('table4.csv', '35,8.9', '35,6.9', 'Tables 4 and 5, CSWin-T and CSWin-S'),
        ('table5.csv', '39.1,64.6', '39.1,61.6', 'Table 5, Swin-T'),
        ('table7.csv', 'S,28,170', 'S,26,170', 'Table 7 Semantic FPN, MAFormer-S and MAFormer-B'),
        ('table6.csv', '107,838', '107,833', 'Tables 5 and 6, Swin-S'),
    ],
)
def test_a_contradiction_goes_with_its_cell(folder, found, name, before, after, gone):
    assert gone in {f.place for f in found.contradictions}
    change(folder, name, before, after)
    assert gone not in {f.place for f in audit(RESULTS, folder).contradictions}


def test_a_new_contradiction_is_found(folder):
    change(folder, 'table3.csv', 'DS-Net,23', 'DS-Net,24')
    change(folder, 'table6.csv', 'X101-32,101', 'X101-32,105')
    places = {f.place for f in audit(RESULTS, folder).contradictions}
    assert {'Tables 3 and 4, DS-Net', 'Tables 5 and 6, X101-32'} <= places


def test_arithmetic_is_decimal(tables):
    result = evaluate('T4[MAFormer-L].top1 - T4[CSWin-B].top1', tables)
    assert result.value == Decimal('1.7') != 85.9 - 84.2
    assert result.shown == '85.9 - 84.2'
    assert evaluate('2 * (1 + 3) / 4 - 0.5', tables).value == Decimal('1.5')
    assert evaluate('1 < 2 <= 2 and 3 > 2', tables).value is True


@pytest.mark.parametrize(
    'expression',
    [
        "__import__('os').getcwd()",
        'T4[MAFormer-L].top1.real',
        'T4[MAFormer-L].top1 ** 9',
        'print(T4[MAFormer-L].top1)',
        '[1, 2]',
        "'85.9'",
        'True',
        'not 1 < 2',
        '1 in 2',
        '1 / 0',
        '1 +',
        '',
        'cell_0',
        'T4[MAFormer-X].top1',
        'T4[MAFormer-S].top1',
        'T4[MAFormer-S, token_labeling=maybe].top1',
        'T9[MAFormer-L].top1',
        'T4[MAFormer-L].miou',
        'T5[Twins-L].box_ap50',
        'leads(T5[Nobody])',
    ],
)
def test_the_grammar_refuses_in_one_line(tables, expression):
    with pytest.raises(UserError) as error:
        evaluate(expression, tables)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('variant', 'arguments', 'reading', 'image'),
    [
        ('maformer_small', {}, Reading(), (224, 224)),
        ('maformer_small', {'depths': (1, 5, 8, 3)}, Reading(), (800, 1280)),
        ('maformer_large', {}, Reading(), (250, 190)),
        ('maformer_small', {'grid_size': 28}, Reading('FC 28x28 to 14x14'), (224, 224)),
        ('maformer_base', {'global_branch': 'conv'}, Reading('conv 14x14 to 7x7'), (512, 2048)),
        ('maformer_small', {'global_branch': 'none'}, Reading('none', mlps=1), (333, 71)),
    ],
)
def test_the_closed_form_counts_what_the_model_has(variant, arguments, reading, image):
    assert reading.buildable
    model = timm.create_model(variant, num_classes=0, **arguments)
    measured = measure(model, lambda m: m(torch.empty(1, 3, *image, device='meta')))
    dims, depths = model.embed_dims, arguments.get('depths', VARIANTS[variant]['depths'])
    counted = count(reading, dims, depths, image)
    final_norm = 2 * dims[-1]
    assert tuple(counted) == (
        measured.params - final_norm,
        measured.layer_flops,
        measured.total_flops,
    )


def test_what_a_framework_adds_to_one_backbone_it_adds_to_the_others(tables):
    """Told from B, it foretells every measured cell of S, which has other depths."""
    measured = MeasuredTables(RESULTS)
    variants, cells = targets(tables, measured, paper.load_tolerances())
    assert len(cells) == 26
    small = [cell for cell in cells if cell.model == 'MAFormer-S']
    depths = {'3383': (3, 3, 8, 3), 'small': variants['MAFormer-S'].depths}
    for cell in small:
        unit = 1e6 if cell.measure == 0 else 1e9
        for line in measured.of(cell.table, cell.model, cell.metric):
            of_system = depths['3383' if '3383' in line.system else 'small']
            backbone = count(Reading(), variants[cell.model].embed_dims, of_system, cell.image)
            assert (backbone[cell.measure] + cell.rest) / unit == pytest.approx(
                line.value, abs=1e-5
            )


def test_the_best_reading_is_the_one_that_is_built(found):
    best, *others = found.search.ranked
    assert best.reading == Reading()
    assert best.fixed == found.search.fixed_cells == 16
    assert best.best > best.printed
    assert (3, 3, 8, 3) in best.depths and (3, 5, 8, 3) not in best.depths
    assert all(other.fixed + other.printed < 26 for other in found.search.ranked)
    literal = next(r for r in others if r.reading == Reading('FC all tokens to half'))
    assert literal.fixed < 16


def test_other_figures_favour_another_reading(folder, found):
    """The search follows what is printed: with the depths' own FLOPs, they fit."""
    change(folder, 'table1.csv', '23,4.5,83.7', '23,5.1,83.7')
    ranked = audit(RESULTS, folder).search.ranked
    built = next(r for r in ranked if r.reading == Reading())
    assert built.printed == found.search.ranked[0].printed + 1


@pytest.mark.parametrize(
    ('name', 'before', 'after', 'message'),
    [
        ('claims.csv', 'T5[MAFormer-L].box_ap,\n', 'T5[MAFormer-L].ap,\n', "no 'ap'"),
        ('claims.csv', 'MAFormer-S,83.7', 'MAFormer-S,high', "'high' is not a number"),
        ('claims.csv', 'MAFormer-S,83.7', 'MAFormer-S,', 'its digits there'),
        ('claims.csv', '1.6e-3,,No table prints it.', '1.6e-3,,', 'a note that says why'),
        ('claims.csv', 'place,says', 'where,says', 'claims.csv, line 1'),
        ('misprints.csv', '1,MAFormer-S', '8,MAFormer-S', 'there is no Table 8'),
        ('table1.csv', '3-8-20-7', '3-8-20', "depths '3-8-20'"),
        ('table6.csv', 'X101-64', 'MAFormer-X', 'Table 6 has MAFormer-X'),
        ('sources/sources.toml', 'paper = "UniFormer', 'pages = "UniFormer', 'uniformer'),
        ('sources/cswin/table5.csv', '46.7,68.6', '46.7,many', 'column box_ap50'),
    ],
)  # fmt: skip
def test_damaged_files_are_one_line(folder, name, before, after, message):
    change(folder, name, before, after)
    with pytest.raises(UserError) as error:
        audit(RESULTS, folder)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_the_command_prints_text_or_json_and_exits_with_0(run, found):
    code, text, _ = run('audit', '--results', RESULTS)
    assert code == 0
    assert ' '.join(text.split()).endswith(f' {len(found.findings)} findings.')
    code, out, _ = run('audit', '--results', RESULTS, '--format', 'json')
    result = json.loads(out)
    assert code == 0
    assert [f['place'] for f in result['findings']] == [f.place for f in found.findings]
    assert len(result['claims']) == len(found.claims)
    assert result['search']['ranked'][0]['reading']['mlps'] == 2


def test_results_that_are_missing_or_damaged_are_one_line(run, tmp_path):
    code, out, err = run('audit')
    assert (code, out) == (2, '')
    assert err.startswith('error: results/table1.csv does not exist')
    shutil.copytree(RESULTS, tmp_path / 'results', dirs_exist_ok=True)
    path = tmp_path / 'results' / 'table5.csv'
    path.write_text(path.read_text().replace(',71.201911,', ',,'))
    code, out, err = run('audit')
    assert (code, out) == (2, '')
    assert 'no measured params_m of MAFormer-B in Table 5' in err
    assert err.count('\n') == 1


def test_differences_that_chance_may_explain_are_found(found):
    """By hand: T5 MAFormer-S over CSWin-T in box AP, 47.0 - 46.7, and 0.1 in T6."""
    assert len(found.leads) == 44
    lead = next(
        x for x in found.leads if (x.table, x.model, x.metric) == (6, 'MAFormer-S', 'box_ap')
    )
    assert (lead.rival, lead.difference) == ('CSWin-T', pytest.approx(0.1))
    assert not lead.resolved
    says = [f.says for f in found.unresolved]
    assert sum('box AP over CSWin, S' in text for text in says) == 2
    assert not any('over LV-ViT-L' in text or 'CSWin, L' in text for text in says)
    assert set(found.unresolved) <= set(found.findings)
