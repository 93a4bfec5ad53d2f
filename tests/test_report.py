"""Tables, figures and the page, held against the CSVs as read by the standard library."""

import csv
import io
import itertools
import json
import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from reproduce.audit.findings import Certainty, Extent, Finding
from reproduce.audit.run import audit
from reproduce.evaluate.records import Evaluation
from reproduce.judge import cells
from reproduce.paper import TABLES as PRINTED
from reproduce.report import layout, page, plots
from reproduce.report.speeds import Speed, load_speeds
from reproduce.systems import load_systems
from reproduce.tasks import TASKS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'results'
TABLES = range(1, 8)
COMPLEXITY = ('params_m', 'flops_g')


def read(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def printed(table):
    return read(ROOT / f'reproduce/paper/table{table}.csv')


def metrics(table):
    return list(dict.fromkeys(row['metric'] for row in read(RESULTS / f'table{table}.csv')))


@pytest.fixture
def tables(run):
    def tables(*arguments, results=RESULTS):
        code, out, err = run('tables', *arguments, '--results', results)
        assert (code, err) == (0, '')
        return out

    return tables


@pytest.fixture
def changed(tmp_path):
    """A results folder in which cells have other fields: {(table, system, metric): {...}}."""

    def changed(changes):
        folder = tmp_path / 'changed'
        folder.mkdir()
        for table in TABLES:
            rows = read(RESULTS / f'table{table}.csv')
            for row in rows:
                row.update(changes.get((table, row['system'], row['metric']), {}))
            with (folder / f'table{table}.csv').open('w', newline='') as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        return folder

    return changed


def parsed(text):
    """The rows of the one Markdown table in `text`, as lists of fields, its header first."""
    lines = [line for line in text.splitlines() if line.startswith('|')]
    rows = [[field.strip() for field in re.split(r'(?<!\\)\|', line)[1:-1]] for line in lines]
    return [rows[0], *rows[2:]]


def plain(field):
    return field.strip('*•≠◦⋆').replace('**', '')


@pytest.mark.parametrize('table', TABLES)
def test_printed_is_what_the_paper_prints(tables, table):
    columns = metrics(table)
    rows = parsed(tables(table, '--show', 'printed', '--no-marks', '--columns', ','.join(columns)))
    expected = [
        [row['model'] + '†' * (row.get('token_labeling') == 'true')]
        + [row[column] or '–' for column in columns]
        for row in printed(table)
    ]
    assert [[plain(field) for field in row] for row in rows[1:]] == [
        [row[0], *row[1:]] for row in expected
    ]


def is_accuracy(metric):
    return not metric.endswith(COMPLEXITY)


@pytest.mark.parametrize('table', TABLES)
def test_bold_is_the_best_of_each_block(tables, table):
    columns = metrics(table)
    rows = printed(table)
    # A block ends where the next MAFormer from there on is of another size.
    sizes = [
        next((row['model'] for row in rows[i:] if row['model'].startswith('MAFormer')), None)
        for i in range(len(rows))
    ]
    blocks = sizes if table > 3 else [''] * len(rows)
    bold = set()
    for column, number in itertools.product(filter(is_accuracy, columns), set(blocks)):
        values = {
            i: float(row[column])
            for i, row in enumerate(rows)
            if blocks[i] == number and row[column]
        }
        if len(values) > 1:
            bold |= {(i, column) for i, value in values.items() if value == max(values.values())}
    shown = parsed(tables(table, '--show', 'printed', '--columns', ','.join(columns)))[1:]
    assert bold == {
        (i, column)
        for i, row in enumerate(shown)
        for column, field in zip(columns, row[1:], strict=True)
        if '**' in field
    }
    assert bold


def own_print(cell):
    """The printed value of a line of the CSVs, if it is of the depths that are printed."""
    return '' if cell['variant'] and is_accuracy(cell['metric']) else cell['paper']


def convention(cell):
    """The mark of the FLOPs that a line of the CSVs prints."""
    same = cell['layer_flops_g'] == cell['total_flops_g']
    return '' if same else {'layer': 'ˡ', 'total': 'ᵗ', '': ''}[cell['convention']]


@pytest.mark.parametrize('show', ['measured', 'both'])
def test_measured_values_stand_in_place_of_or_beside_the_printed(tables, show):
    rows = parsed(tables(5, '--show', show, '--columns', 'params_m,flops_g,box_ap'))[1:]
    lines = read(RESULTS / 'table5.csv')
    systems = list(dict.fromkeys(line['system'] for line in lines))
    assert len(rows) == len(systems)
    for system, row in zip(systems, rows, strict=True):
        of_row = {line['metric']: line for line in lines if line['system'] == system}
        for metric, field in zip(('params_m', 'flops_g', 'box_ap'), row[1:], strict=True):
            cell = of_row[metric]
            text = own_print(cell)
            if cell['measured']:
                text = f'{float(cell["measured"]):.1f}{convention(cell)}'
                text += f' ({cell["paper"]})' * (show == 'both')
            marks = {'match': '•', 'unprinted': '•', 'cited': '◦', 'not-run': '', 'error': ''}
            mark = marks.get(cell['verdict'], '≠')
            assert field.replace('**', '') == (text + mark if text else '–')


def test_a_measured_accuracy_decides_what_is_best(tables, changed):
    """Swin-T, 42.2 as printed, measured as 48.04: better than MAFormer-S's 47.0 as printed."""
    key = (5, 'mask-rcnn_swin-t-p4-w7_fpn_1x_coco', 'box_ap')
    fields = {'measured': '48.04', 'difference': '5.84', 'verdict': 'better'}
    folder = changed({key: fields})
    rows = parsed(tables(5, '--columns', 'box_ap', results=folder))
    fields = {row[0]: row[1] for row in rows}
    assert fields['Swin-T'] == '**48.0** (42.2)≠'
    assert fields['MAFormer-S'] == '47.0'
    rows = parsed(tables(5, '--columns', 'box_ap', '--show', 'printed', results=folder))
    assert {row[0]: row[1] for row in rows}['MAFormer-S'] == '**47.0**'


def test_columns_in_one_convention_stand_beside_the_printed(tables):
    rows = parsed(tables(5, '--columns', 'flops_g,box_ap', '--with', 'total_flops_g'))
    assert rows[0][1:] == ['FLOPs (G)', 'Total FLOPs (G)', 'APᵇ']
    fields = {row[0]: row[1:3] for row in rows[1:]}
    assert fields['MAFormer-B'] == ['353.3ˡ (354)•', '583.0']
    assert fields['CSWin-S'] == ['343.6ᵗ (342)•', '343.6']
    assert fields['Res50'] == ['259.3 (260)•', '259.3']
    both = parsed(tables(7, '--columns', 'miou', '--with', 'layer_flops_g'))
    assert both[0].count('UPerNet 160K: Layer FLOPs (G)') == 1
    latex = tables(5, '--format', 'latex', '--with', 'total_flops_g')
    assert r'\cellmeasured{353.3\cellconvention{l}\cellprinted{354}} & 583.0' in latex
    assert r'\textsubscript{t} total FLOPs' in latex
    # Which FLOPs they count is no longer said where nothing is to be marked.
    assert 'ˡ' not in tables(5, '--no-marks')


def test_the_depths_that_are_not_printed_have_no_printed_accuracy(tables, html):
    rows = parsed(tables(5, '--rows', 'MAFormer-S', '--columns', 'flops_g,box_ap'))[1:]
    assert [row[2] for row in rows] == ['47.0', '–']
    system = 'mask-rcnn_maformer-small-3383_fpn_1x_coco'
    texts = Parsed(html).texts[f'5/MAFormer-S/{system}/box_ap']
    assert texts == ['–', ', not measured, not printed']


SPEED = 'model,images_per_s,peak_memory_mib,device,precision,batch_size,torch\n'


def test_speeds_are_shown_where_they_were_measured(run, tables, changed):
    folder = changed({})
    code, _, err = run('tables', 4, '--with', 'images_per_s', '--results', folder)
    assert (code, err.count('\n')) == (2, 1)
    assert 'speed.csv does not exist: write it with `make benchmark`' in err
    line = 'swin_tiny_patch4_window7_224,{},512.5,A GPU,fp32,16,2.10\n'
    (folder / 'speed.csv').write_text(SPEED + line.format(1234.56))
    text = tables(4, '--columns', 'top1', '--with', 'images_per_s,peak_memory_mib', results=folder)
    rows = {row[0]: row[1:] for row in parsed(text)}
    assert rows['Model'] == ['Top-1 (%)', 'Images/s', 'Peak memory (MiB)']
    assert rows['Swin-T'][1:] == ['1234.6', '512.5']
    assert rows['Swin-S'][1:] == ['–', '–']
    assert 'on A GPU' in text
    (folder / 'speed.csv').write_text(SPEED + line.format(1) + line.replace('A GPU', 'B').format(1))
    code, _, err = run('tables', 4, '--with', 'images_per_s', '--results', folder)
    assert (code, err.count('\n')) == (2, 1)
    assert 'holds several runs' in err


def test_a_row_in_total_flops_stands_on_the_page_where_the_printed_are_mixed(html):
    sections = re.split(r'<section id="table(\d)"', html)
    total = {
        int(n): 'Total FLOPs (G)' in text
        for n, text in zip(sections[1::2], sections[2::2], strict=True)
    }
    assert total == {1: False, 2: False, 3: False, 4: True, 5: True, 6: True, 7: True}


def test_published_values_are_on_the_page(html):
    rows = [row for table in TABLES for row in read(RESULTS / f'table{table}.csv')]
    published = Counter(row['published'] for row in rows if row['published'])
    text = ' '.join(unescape(re.sub(r'<[^>]+>', ' ', html)).split())
    assert f'states {sum(published.values())} of the accuracies' in text
    assert f'{published["agrees"]} agree with the paper' in text
    (swin,) = [r for r in rows if r['system'] == RECORD['system'] and r['metric'] == 'box_ap']
    assert (swin['paper'], swin['reference'], swin['published']) == ('42.2', '42.7', 'higher')
    assert re.search(r'Table 5 Swin-T APᵇ 42.2 42.7 higher mmdet', text)


def test_rows_and_columns(tables):
    rows = parsed(tables(5, '--rows', 'Swin-T,MAFormer-S', '--columns', 'box_ap,mask_ap'))
    assert rows[0] == ['Model', 'APᵇ', 'APᵐ']
    assert [row[0] for row in rows[1:]] == ['Swin-T', 'MAFormer-S', 'MAFormer-S (3-3-8-3)']
    rows = parsed(tables(7, '--rows', 'MAFormer-S (3-3-8-3)', '--columns', 'miou'))
    assert rows[0][1:] == ['Semantic FPN 80K: mIoU (%)', 'UPerNet 160K: mIoU (%)']
    assert [row[0] for row in rows[1:]] == ['MAFormer-S (3-3-8-3)']
    # A table without any of the columns is left out.
    assert tables(1, 5, '--columns', 'box_ap').count('**Table') == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--rows', 'swin-t'), "nothing in these tables is called 'swin-t'; the nearest are Swin"),
        (('--columns', 'top1'), "--columns: nothing in these tables is called 'top1'"),
        (('--with', 'images'), "--with: nothing in these tables is called 'images'"),
        (('--add', 'nowhere.csv'), 'nowhere.csv cannot be read as CSV'),
        (('9',), 'the paper has no Table 9'),
        (('--results', 'nowhere'), 'nowhere/table5.csv does not exist'),
    ],
)
def test_a_mistake_is_one_line(run, arguments, message):
    if '--results' not in arguments:
        arguments = (*arguments, '--results', RESULTS)
    code, out, err = run('tables', 5, *arguments)
    assert (code, out) == (2, '')
    assert message in err
    assert err.count('\n') == 1


def test_a_row_of_the_users(tables, tmp_path):
    path = tmp_path / 'mine.csv'
    path.write_text(
        'model,block,params_m,flops_g,box_ap,mask_ap\n'
        'Mine & Co_100%,MAFormer-S,40.5,251,47.4,42.1\nAside,,50,300,50.9,\n'
    )
    rows = parsed(tables(5, '--add', path, '--columns', 'params_m,box_ap,mask_ap,mask_ap50'))[1:]
    names = [row[0] for row in rows]
    mine = r'Mine &amp; Co\_100%'
    assert names[names.index(mine) - 1] == 'MAFormer-S (3-3-8-3)'
    assert names[-1] == 'Aside'
    fields = {row[0]: row[1:] for row in rows}
    assert fields[mine] == ['40.5⋆', '**47.4**⋆', '42.1⋆', '–']
    assert fields['MAFormer-S'][1] == '47.0'
    assert fields['MAFormer-S'][2] == '**42.7**'
    assert fields['Aside'] == ['50.0⋆', '50.9⋆', '–', '–']  # alone in its block: not the best of it
    latex = tables(5, '--add', path, '--format', 'latex')
    assert r'Mine \& Co\_100\% & \celladded{40.5}' in latex


def test_a_users_row_is_text_and_nothing_else(tables, tmp_path):
    path = tmp_path / 'mine.csv'
    path.write_text(
        'model,box_ap\n<script>alert(1)</script>,47\n![p](http://x/p.png),48\n'
        '"two\nlines",46\n\\input{/etc/passwd}$x^2$,45\n'
    )
    text = tables(5, '--add', path)
    assert '<script' not in text
    assert '&lt;script&gt;alert(1)&lt;/script&gt;' in text
    assert r'!\[p](http://x/p.png)' in text
    assert '| two lines ' in text
    latex = tables(5, '--add', path, '--format', 'latex')
    assert r'\textbackslash{}input\{/etc/passwd\}\$x\^{}2\$' in latex.replace(
        r'\textasciicircum{}', r'\^{}'
    )
    assert 'two lines &' in latex


def test_rows_of_the_users_in_the_format_of_the_results(tables, tmp_path):
    lines = (RESULTS / 'table7.csv').read_text().splitlines()
    mine = [line.replace('MAFormer-B', 'Mine') for line in lines if ',MAFormer-B,' in line]
    path = tmp_path / 'mine.csv'
    path.write_text('\n'.join([lines[0], *mine]) + '\n')
    rows = parsed(tables(7, '--add', path, '--show', 'measured'))[1:]
    assert rows[-1][0] == 'Mine'
    theirs = next(row for row in rows if row[0] == 'MAFormer-B')
    assert [re.sub(r'[*⋆•]', '', field) for field in rows[-1][1:]] == [
        re.sub(r'[*•]', '', field) for field in theirs[1:]
    ]
    assert len(rows[-1]) == 8


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('model,box\nMine,47\n', 'column box: Table 5 has no such column'),
        ('params_m\n40\n', 'line 1: there is no column model'),
        ('model,params_m\n,40\n', 'line 2, column model: empty'),
        ('model,box_ap\nMine,4x\n', "line 2, column box_ap: '4x' is not a number"),
        ('model,box_ap\nA,47\nMine,0.47\n', 'line 3, column box_ap: 0.47; expected percent'),
        ('model,params_m\nMine,-3\n', 'line 2, column params_m: -3; expected a positive number'),
        ('model,box_ap,block\nA,47,Swin-T\n', "line 2, column block: 'Swin-T' ends no block"),
        ('model,box_ap\nMine,\n', 'line 2: no value'),
        ('model,box_ap\n', 'has no rows'),
        ('metric,table\nbox_ap,5\n', 'line 1: the columns are metric,table; expected'),
        ('model,box_ap\nMine,47,1\n', 'line 2: expected 2 fields'),
    ],
)
def test_a_mistake_in_a_users_row_is_one_line(run, tmp_path, content, message):
    path = tmp_path / 'mine.csv'
    path.write_text(content)
    code, out, err = run('tables', 5, '--add', path, '--results', RESULTS)
    assert (code, out) == (2, '')
    assert message in err
    assert 'mine.csv' in err
    assert err.count('\n') == 1


def test_columns_of_a_table_need_the_table(run, tmp_path):
    path = tmp_path / 'mine.csv'
    path.write_text('model,top1\nMine,84\n')
    code, _, err = run('tables', '--add', path, '--results', RESULTS)
    assert code == 2
    assert 'name that table' in err


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        (',match,', ',good,', "line 2, column verdict: 'good'; expected one of match"),
        (',23,', ',2x3,', "line 2, column paper: '2x3' is not a number"),
        ('1,MAFormer-S,', '2,MAFormer-S,', 'column table: 2; expected 1'),
        ('small_token', 'tiny_token', 'which reproduce/systems does not know'),
        ('params_m', 'box_ap', "column metric: 'box_ap' is no column of Table 1"),
        ('measured', 'mesured', 'line 1: the columns are'),
    ],
)
def test_a_damaged_result_is_one_line(run, tmp_path, old, new, message):
    text = (RESULTS / 'table1.csv').read_text()
    assert old in text
    (tmp_path / 'table1.csv').write_text(text.replace(old, new, 1))
    code, out, err = run('tables', 1, '--results', tmp_path)
    assert (code, out) == (2, '')
    assert message in err
    assert err.count('\n') == 1


@pytest.mark.parametrize('show', ['measured', 'printed', 'both'])
@pytest.mark.parametrize('table', TABLES)
def test_latex_is_well_formed(tables, table, show):
    text = tables(table, '--format', 'latex', '--show', show)
    assert text.isascii()
    depth = list(itertools.accumulate({'{': 1, '}': -1}.get(c, 0) for c in text))
    assert min(depth) == depth[-1] == 0
    assert text.count('$') % 2 == 0
    assert re.findall(r'\\begin{(.*?)}', text) == re.findall(r'\\end{(.*?)}', text)[::-1]
    for name in set(re.findall(r'\\(cell\w+)', text)):
        assert rf'\providecommand{{\{name}}}' in text
    body = text.partition('\\toprule\n')[2].partition('\\bottomrule')[0]
    width = len(re.search(r'\\begin{tabular}{(\w+)}', text)[1])
    rows = [line for line in body.splitlines() if line.endswith('\\\\')]
    for row in rows:
        spans = sum(int(n) - 1 for n in re.findall(r'\\multicolumn{(\d+)}', row))
        assert len(re.findall(r'(?<!\\)&', row)) + 1 + spans == width
    lines = layout.lines(cells.load_results(RESULTS), table)
    if show == 'printed':
        lines = [line for line in lines if not line.variant]
    assert len(rows) == len(lines) + 1 + (table > 4)
    # One below the head, and one between two blocks.
    assert body.count('\\midrule') == {4: 3, 5: 3, 6: 3, 7: 2}.get(table, 1)


def test_grouped_headings(tables):
    text = tables(7, '--format', 'latex')
    assert r'\multicolumn{3}{c}{Semantic FPN 80K} & \multicolumn{4}{c}{UPerNet 160K}' in text
    assert r'\cmidrule(lr){2-4} \cmidrule(lr){5-8}' in text
    assert r'\multicolumn{6}{c}{Mask R-CNN 1$\times$ schedule}' in tables(5, '--format', 'latex')


def test_files(run, tmp_path):
    options = ('--results', RESULTS, '--output', tmp_path / 'out')
    assert run('tables', 3, 5, *options)[0] == 0
    names = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert names == ['table3.md', 'table3.tex', 'table5.md', 'table5.tex', 'tables.tex']
    assert run('tables', 4, '--format', 'latex', *options)[0] == 0
    document = (tmp_path / 'out/tables.tex').read_text()
    assert re.findall(r'\\input{(\w+)}', document) == ['table3', 'table4', 'table5']
    assert not (tmp_path / 'out/table4.md').exists()


METRIC = {'first': 81.0, 'second': 79.5, 'difference': -1.5}
METRIC |= {'interval': [-2.4, -0.6], 'p': 0.001, 'significant': True}
RECORD = {
    'task': 'coco',
    'system': 'mask-rcnn_swin-t-p4-w7_fpn_1x_coco',
    'model': 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    'arguments': {},
    'checkpoint': {'file': 'swin.pth', 'sha256': 'ab' * 32},
    'data': {
        'split': 'val2017',
        'images': 5000,
        'classes': 80,
        'fingerprint': 'f',
        'complete': True,
    },
    'precision': 'fp32',
    'preprocessing': {},
    'overridden': (),
    'metrics': {'box_ap': 42.71, 'mask_ap': 39.3},
    'per_class': {'<cat>': {'box_ap': 70.1}, 'toaster': {'box_ap': 12.5, 'mask_ap': 9.0}},
    'provenance': {
        'date': '2026-01-01T00:00:00+00:00',
        'command': 'python -m reproduce evaluate coco',
        'device': 'GPU',
        'processes': 8,
        'batch_size': 1,
        'seconds': 60.0,
        'versions': {'torch': '2.14.1'},
    },
}
SWIN = {'measured': '42.710000', 'difference': '0.51', 'verdict': 'better'}
SWIN |= {'reference': '42.7', 'reference_verdict': 'match', 'reason': 'x <script>alert(1)</script>'}
SWIN |= {'record': Evaluation(**RECORD).stem}


@pytest.fixture
def evaluated(changed):
    """Results with a measured accuracy, and its record."""
    folder = changed({(5, RECORD['system'], 'box_ap'): SWIN})
    return cells.load_results(folder), [Evaluation(**RECORD)]


def extents(axes, renderer):
    return [text.get_window_extent(renderer) for text in axes.texts if text.get_text()]


def test_labels_collide_with_nothing(evaluated):
    drawn = plots.figures(*evaluated)
    assert len(drawn) == 10
    scatters = [d.figure for name, d in drawn.items() if not name.startswith('classes')]
    for figure in scatters:
        renderer = FigureCanvasAgg(figure).get_renderer()
        for axes in figure.axes:
            boxes = extents(axes, renderer)
            frame = axes.get_window_extent(renderer)
            assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
            assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 for b in boxes)
            assert all(frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)
            marks = [line.get_xydata() for line in axes.lines if line.get_marker() != 'None']
            spots = axes.transData.transform(np.concatenate(marks)) if marks else []
            for point in spots:
                assert not any(box.contains(*point) for box in boxes)
            leaders = [line for line in axes.lines if line.get_linewidth() == 0.5]
            for leader in leaders:
                start, end = axes.transData.transform(leader.get_xydata())
                way = start + np.linspace(0, 1, 200)[:, None] * (end - start)
                radius = 4 * figure.dpi / 72  # of the markers
                way = way[np.linalg.norm(way - start, axis=1) > radius]
                others = [spot for spot in spots if not np.allclose(spot, start)]
                gaps = [np.linalg.norm(way - other, axis=1).min() for other in others]
                assert min(gaps) > radius / 2


@pytest.mark.parametrize('flops', ['total', 'layer'])
def test_points_are_what_the_results_say(evaluated, flops):
    """Every model over the same kind of FLOPs; MAFormer-S once, over those that fit the print."""
    loaded, _ = evaluated
    found = plots.points(layout.lines(loaded, 5), PRINTED[5].columns['box_ap'], 'flops_g', flops)
    rows = read(RESULTS / 'table5.csv')
    of = {(row['system'], row['metric']): row for row in rows}
    systems = list(dict.fromkeys(row['system'] for row in rows))
    systems.remove('mask-rcnn_maformer-small_fpn_1x_coco')  # 265 G where 256 are printed
    systems = [system for system in systems if of[system, 'flops_g'][f'{flops}_flops_g']]
    assert len(found) == len(systems)
    small = [(p.label, p.variant) for p in found if p.model == 'MAFormer-S']
    assert small == [('MAFormer-S', '3-3-8-3')]
    for point, system in zip(found, systems, strict=True):
        cost, accuracy = of[system, 'flops_g'], of[system, 'box_ap']
        assert point.x == float(cost[f'{flops}_flops_g'])
        assert point.fits
        if system == RECORD['system']:
            accuracy = {**accuracy, **SWIN}
        if accuracy['measured']:
            values = ('measured', float(accuracy['measured']), float(accuracy['paper']))
        else:
            kind = 'cited' if accuracy['verdict'] == 'cited' else 'printed'
            values = (kind, float(accuracy['paper']), None)
        assert (point.kind, point.y, point.printed) == values
    assert 'measured' in {point.kind for point in found}


def test_a_measured_variant_has_a_point_of_its_own(changed):
    """The depths as printed, measured: their own accuracy, at their own cost, off the line."""
    system = 'mask-rcnn_maformer-small_fpn_1x_coco'
    fields = {'measured': '46.100000', 'difference': '-0.9', 'verdict': 'worse'}
    loaded = cells.load_results(changed({(5, system, 'box_ap'): fields}), [5])
    found = plots.points(layout.lines(loaded, 5), PRINTED[5].columns['box_ap'], 'flops_g')
    small = [(p.variant, p.kind, p.y, p.fits) for p in found if p.model == 'MAFormer-S']
    assert small == [('', 'measured', 46.1, False), ('3-3-8-3', 'printed', 47.0, True)]


def test_the_frontier_holds_what_no_other_model_beats(evaluated):
    loaded, _ = evaluated
    for table, column in ((4, 'top1'), (5, 'box_ap'), (7, 'upernet_miou')):
        of_table = layout.lines(loaded, table)
        found = plots.points(of_table, PRINTED[table].columns[column], 'flops_g')
        best_first = sorted(found, key=lambda p: (p.x, -p.y))
        expected = [
            point
            for point in best_first
            if not any(
                other.x <= point.x and other.y >= point.y for other in found if other != point
            )
        ]
        assert plots.frontier(found) == expected


def test_each_figure_says_what_it_shows(evaluated):
    drawn = plots.figures(*evaluated)
    assert all(d.says.endswith('.') for d in drawn.values())
    rows = [row for table in TABLES for row in read(RESULTS / f'table{table}.csv')]
    judged = [row for row in rows if row['difference'] and float(row['tolerance'])]
    inside = sum(abs(float(r['difference'])) <= float(r['tolerance']) for r in judged)
    (swin,) = [r for r in rows if r['system'] == RECORD['system'] and r['metric'] == 'box_ap']
    inside += float(SWIN['difference']) <= float(swin['tolerance'])  # it is measured as well
    assert f'Of {len(judged) + 1} measured cells {inside} lie' in drawn['deviations'].says
    assert 'of which 1 of 26 are measured here, the best' in drawn['mask_rcnn_box_ap'].says
    assert 'none is measured here' in drawn['imagenet_top1'].says
    assert 'From 12.5 (toaster) to 70.1 (<cat>)' in ' '.join(d.says for d in drawn.values())


def test_a_figure_says_which_flops_it_counts(evaluated):
    for convention, text in (('total', 'attention'), ('layer', 'layers only')):
        drawn = plots.figures(evaluated[0], (), convention)
        names = [name for name in drawn if name != 'deviations']
        assert all(name.endswith('-layer') is (convention == 'layer') for name in names)
        for name in names:
            figure = drawn[name].figure
            assert text in figure.axes[0].get_xlabel()
            assert 'Params' in figure.axes[1].get_xlabel()
            remarks = ' '.join(t.get_text() for t in figure.texts)
            assert (
                'MAFormer-S: at the cost of depths 3-3-8-3, which fits the printed cost' in remarks
            )


@pytest.mark.parametrize('format', ['pdf', 'png', 'svg'])
def test_a_figure_is_the_same_again(format):
    def drawn():
        buffer = io.BytesIO()
        of_table = layout.lines(cells.load_results(RESULTS, [6]), 6)
        plots.save(plots.accuracy(of_table, PRINTED[6].columns['box_ap']), buffer, format)
        return buffer.getvalue()

    assert drawn() == drawn()


class Parsed(HTMLParser):
    """Every element of a page with its attributes, and the text of each `data-cell` button."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.stack, self.scripts = [], {}, [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ('meta', 'link', 'input', 'br'):
            self.stack.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1][0] == tag, f'</{tag}> closes {self.stack[-1:]}'
        self.stack.pop()

    def handle_data(self, data):
        for tag, attributes in self.stack:
            if 'data-cell' in attributes:
                self.texts.setdefault(attributes['data-cell'], []).append(data.strip())
            if tag == 'script':
                self.scripts.append((attributes.get('id', ''), data))

    def json(self, name):
        """What the page keeps for its script under `name`."""
        (data,) = [text for found, text in self.scripts if found == name]
        return json.loads(data)


@pytest.fixture(scope='module')
def html():
    return page.render(cells.load_results(RESULTS))


def test_every_cell_is_there_once_with_its_values(html):
    parsed = Parsed(html)
    assert not parsed.stack
    found = Counter(a['data-cell'] for _, a in parsed.elements if 'data-cell' in a)
    rows = [row for table in TABLES for row in read(RESULTS / f'table{table}.csv')]
    keys = ['/'.join(row[k] for k in ('table', 'model', 'system', 'metric')) for row in rows]
    assert found == Counter(keys)
    assert set(found.values()) == {1}
    provenance = parsed.json('data')
    for key, row in zip(keys, rows, strict=True):
        measured = f'{float(row["measured"]):.2f}' if row['measured'] else ''
        assert parsed.texts[key][0] == (measured or own_print(row) or '–')
        assert (own_print(row) in parsed.texts[key]) or not own_print(row)
        assert (convention(row) in parsed.texts[key]) or not convention(row)
        told = provenance[key]
        assert (told['measured'], told['paper'], told['reference']) == (
            measured,
            row['paper'],
            row['reference'],
        )
        assert (told['verdict'], told['reference_verdict']) == (
            row['verdict'],
            row['reference_verdict'],
        )
        facts = dict(told['facts'])
        assert facts.get('Reason', '') == row['reason']
        assert facts['System'] == row['system']
        if row['layer_flops_g']:
            assert f'{float(row["layer_flops_g"]):.2f} G' in facts['FLOPs']
            assert f'{float(row["total_flops_g"]):.2f} G' in facts['FLOPs']
        if row['tolerance']:
            assert facts['Tolerance'].startswith(f'± {float(row["tolerance"]):g}.')


def test_the_page_loads_nothing_and_its_ids_are_its_own(html):
    parsed = Parsed(html)
    for tag, attributes in parsed.elements:
        for name in ('src', 'href', 'srcset', 'data', 'action', 'poster', 'xlink:href'):
            value = attributes.get(name, '')
            if (tag, name, value) != ('a', 'href', page.PAPER):
                assert value.startswith(('#', 'data:,')) or not value, (tag, name, value)
    # What is offered to be saved may name addresses; the page itself has that of the paper only.
    files, loaded = json.dumps(parsed.json('files')), html.replace(page.PAPER, '')
    assert re.search(r'https?://', re.sub(r'<script type.*?</script>', '', loaded)) is None, files
    assert not re.search(r'url\((?!#)|@import|\bfetch\(|XMLHttpRequest', loaded)
    ids = Counter(a['id'] for _, a in parsed.elements if 'id' in a)
    assert max(ids.values()) == 1
    links = {value for _, a in parsed.elements for n, value in a.items() if n == 'href'}
    used = {link[1:] for link in links if link != page.PAPER and not link.startswith('#?')}
    used |= set(re.findall(r'url\(#(.*?)\)', html))
    used |= {a[n] for _, a in parsed.elements for n in ('aria-labelledby',) if n in a}
    assert used - {'ata:,'} <= ids.keys()
    assert len(html.encode()) < 2_000_000


def test_the_same_inputs_give_the_same_page(html):
    assert page.render(cells.load_results(RESULTS)) == html


def test_the_page_says_first_what_is_measured(html):
    """The three sentences and counts, against the CSVs as the standard library reads them."""
    rows = [row for table in TABLES for row in read(RESULTS / f'table{table}.csv')]
    costs = [row for row in rows if not is_accuracy(row['metric'])]
    accuracies = [row for row in rows if is_accuracy(row['metric'])]
    assert not any(row['measured'] for row in accuracies)
    published = [row for row in accuracies if row['published']]
    agreeing = sum(row['published'] == 'agrees' for row in published)
    first = unescape(re.sub(r'<[^>]+>', ' ', re.search('<header.*?</header>', html, re.S)[0]))
    first = ' '.join(first.split())
    verdicts = Counter(row['verdict'] for row in costs)
    assert (
        f'{len(costs)} of the {len(costs)} parameter counts and FLOPs are measured: '
        f'{verdicts["match"]} match the paper, {verdicts["known"]} deviate'
    ) in first
    assert (
        f'None of the {len(accuracies)} accuracies is measured; for {len(published)} of them the '
        f'publisher of the weights states a value, and {agreeing} of these agree'
    ) in first
    for n, total, what in (
        (len(costs), len(costs), 'parameter counts'),
        (0, len(accuracies), 'accuracies measured'),
        (len(published), len(accuracies), 'accuracies published'),
    ):
        assert f'{n} of {total} {what}' in first


def test_the_first_screen_leads_to_the_findings():
    """The main ones are on it, and every link has its place on the page."""
    _, findings = audit(RESULTS)
    text = page.render(cells.load_results(RESULTS), (), findings)
    header = unescape(re.search('<header.*?</header>', text, re.S)[0])
    links = re.findall(r'href="#(?!\?)([^"]+)"', header)
    for number, finding in enumerate(findings, 1):
        is_main = finding.extent is Extent.RESULT
        assert is_main == (f'finding-{number}' in links)
        assert not is_main or finding.sentence.rstrip('.') in header
    assert all(f'id="{link}"' in text for link in links)


def test_a_printed_value_is_never_dressed_as_a_measured_one(html):
    """Every value without a measurement has the looks of one, and says so to a screen reader."""
    parsed = Parsed(html)
    rows = [row for table in TABLES for row in read(RESULTS / f'table{table}.csv')]
    measured = {
        '/'.join(row[k] for k in ('table', 'model', 'system', 'metric')): bool(row['measured'])
        for row in rows
    }
    for _, attributes in parsed.elements:
        if key := attributes.get('data-cell'):
            assert ('unmeasured' in attributes['class'].split()) is not measured[key]
            assert ('not measured' in ' '.join(parsed.texts[key])) is not measured[key]


def test_the_page_offers_the_tables_as_files(html, tables):
    files = Parsed(html).json('files')
    for table in TABLES:
        assert files[f'table{table}.csv'] == (RESULTS / f'table{table}.csv').read_text()
        assert files[f'table{table}.md'] == tables(table).rstrip('\n') + '\n'
        assert files[f'table{table}.tex'] == tables(table, '--format', 'latex')


def test_speeds_are_on_the_page_where_there_are_some(html):
    assert 'id="speed"' not in html
    speed = Speed(
        model='<swin>',
        images_per_s=1234.56,
        peak_memory_mib=512.5,
        device='A GPU',
        precision='fp32',
        batch_size=16,
        torch='2.10',
    )
    text = page.render(cells.load_results(RESULTS, [1]), speeds={speed.model: speed})
    section = re.search('<section id="speed".*?</section>', text, re.S)[0]
    for part in ('&lt;swin&gt;', '1234.6', '512.5', 'on A GPU'):
        assert part in section
    # So are those that the project keeps.
    kept = load_speeds(RESULTS)
    text = page.render(cells.load_results(RESULTS, [1]), speeds=kept)
    section = re.search('<section id="speed".*?</section>', text, re.S)[0]
    assert section.count('<tr data-item>') == len(kept)


def test_kept_comparisons_are_on_the_page(run, changed, html):
    assert 'id="comparisons"' not in html
    folder = changed({})
    (folder / 'comparisons').mkdir()
    kept = {'first': {'name': '<a>'}, 'second': {'name': 'b'}, 'metrics': {'top1': METRIC}}
    (folder / 'comparisons/a-b.json').write_text(json.dumps(kept))
    (folder / 'comparisons/matrix.json').write_text(json.dumps({'pairs': [kept], 'worse': False}))
    assert run('report', '--results', folder, '--output', 'page.html')[0] == 0
    section = re.search(
        '<section id="comparisons".*?</section>', Path('page.html').read_text(), re.S
    )
    text = ' '.join(unescape(re.sub(r'<[^>]+>', ' ', section[0])).split())
    assert text.count('<a> b top1 81.00 79.50 -1.50 -2.40 to -0.60 0.001 real') == 2
    (folder / 'comparisons/wrong.json').write_text('{"first": 1}')
    code, out, err = run('report', '--results', folder, '--output', 'page.html')
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert 'wrong.json is no comparison' in err


def test_the_missing_are_counted_with_what_they_take(html):
    text = ' '.join(unescape(re.sub(r'<[^>]+>', ' ', html)).split())
    rows = [row for table in TABLES for row in read(RESULTS / f'table{table}.csv')]
    systems = {system.name: system for system in load_systems()}
    missing = Counter(
        (systems[row['system']].weights is not None, systems[row['system']].task)
        for row in rows
        if row['verdict'] == 'not-run'
    )
    assert len(missing) == 6
    for (public, task), n in missing.items():
        weights = 'public weights' if public else 'weights that nobody has released'
        reason = f'{weights} and {TASKS[task].validation_set}'
        assert re.search(rf'{n} cells of \d+ systems: {re.escape(reason)}', text)


def test_a_record_and_a_finding_are_told(evaluated, html):
    finding = Finding(
        'A title', 'S is <b>better</b>', ('Table 7: 48.3.',), Certainty.CERTAIN, Extent.NUMBER
    )
    text = page.render(*evaluated, findings=[finding])
    parsed = Parsed(text)
    data = parsed.json('data')
    told = data[f'5/Swin-T/{RECORD["system"]}/box_ap']
    facts = dict(told['facts'])
    assert (told['verdict'], told['reference'], told['reference_verdict']) == (
        'better',
        '42.7',
        'match',
    )
    assert 'ab' * 32 in facts['Checkpoint']
    assert facts['Versions'] == 'torch 2.14.1'
    assert facts['Command'] == RECORD['provenance']['command']
    # The record's mask AP is in no cell of the CSVs.
    other = data[f'5/Swin-T/{RECORD["system"]}/mask_ap']
    assert 'Checkpoint' not in dict(other['facts'])
    assert 'S is &lt;b&gt;better&lt;/b&gt;' in text
    assert '&lt;cat&gt;' in text
    assert '<script>alert' not in text
    assert 'Findings about the paper' in text
    assert 'Findings about the paper' not in html


def test_the_commands_write_the_page_and_the_figures(run, changed):
    folder = changed({(5, RECORD['system'], 'box_ap'): SWIN})
    (folder / 'evaluations').mkdir()
    (folder / 'evaluations/swin.json').write_text(Evaluation(**RECORD).model_dump_json())
    code, out, err = run('report', '--results', folder, '--output', 'new/report.html')
    assert (code, out, err) == (0, 'The report: new/report.html\n', '')
    assert Path('new/report.html').read_text().startswith('<!doctype html>')
    assert 'ab' * 32 in Path('new/report.html').read_text()
    code, _, err = run('figures', '--results', folder, '--output', 'figures')
    assert (code, err) == (0, '')
    files = {path.name: path.read_bytes()[:4] for path in Path('figures').iterdir()}
    assert len(files) == 20
    assert set(files.values()) == {b'%PDF', b'\x89PNG'}
    assert {name.partition('-')[0] for name in files if 'box_ap' in name} >= {'classes'}
