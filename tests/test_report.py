"""Tables, figures and the page, compared with the CSVs as the standard library reads them."""

import csv
import itertools
import json
import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import record

from reproduce.audit.findings import audit
from reproduce.evaluate import records
from reproduce.judge import cells
from reproduce.judge.assembly import count
from reproduce.paper import PAPER
from reproduce.paper import TABLES as PRINTED
from reproduce.report import layout, page, plots

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'results'
COMPLEXITY = ('params_m', 'flops_g')
DEIT = 'deit_small_patch16_224'


def read(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def printed(table):
    return read(ROOT / f'reproduce/paper/maformer/table{table}.csv')


ROWS = {table: read(RESULTS / f'table{table}.csv') for table in range(1, 8)}
EVERY = [row for rows in ROWS.values() for row in rows]


def metrics(table):
    return list(dict.fromkeys(row['metric'] for row in ROWS[table]))


def key(row):
    return '/'.join(row[k] for k in ('table', 'model', 'system', 'metric'))


def is_accuracy(metric):
    return not metric.endswith(COMPLEXITY)


@pytest.fixture
def tables(run):
    def tables(*arguments, results=RESULTS):
        code, out, err = run('tables', *arguments, '--results', results)
        assert (code, err) == (0, '')
        return out

    return tables


@pytest.fixture
def refused(run):
    """The one line that a command prints instead of tables."""

    def refused(*arguments, results=RESULTS):
        code, out, err = run('tables', *arguments, '--results', results)
        assert (code, out, err.count('\n')) == (2, '', 1)
        return err

    return refused


@pytest.fixture
def changed(tmp_path):
    """A results folder in which cells have other fields: {(table, system, metric): {...}}."""

    def changed(changes):
        folder = tmp_path / 'changed'
        folder.mkdir()
        for table, rows in ROWS.items():
            with (folder / f'table{table}.csv').open('w', newline='') as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                for row in rows:
                    writer.writerow(row | changes.get((table, row['system'], row['metric']), {}))
        return folder

    return changed


def parsed(text):
    """The rows of the first Markdown table in `text`, as lists of fields, its header first."""
    lines = [line for line in text.partition('\n\n**')[0].splitlines() if line.startswith('|')]
    rows = [[field.strip() for field in re.split(r'(?<!\\)\|', line)[1:-1]] for line in lines]
    return [rows[0], *rows[2:]]


def plain(field):
    return field.strip('*•≠◦⋆ˡᵗ').replace('**', '')


@pytest.mark.parametrize('table', [2, 4, 7])
def test_printed_is_what_the_paper_prints(tables, table):
    """The best of each block is bold; a block ends where the next MAFormer is of another size."""
    columns, rows = metrics(table), printed(table)
    shown = parsed(tables(table, '--show', 'printed', '--columns', ','.join(columns)))[1:]
    assert [[plain(field) for field in row] for row in shown] == [
        [row['model'] + '†' * (row.get('token_labeling') == 'true')]
        + [row[column] or '–' for column in columns]
        for row in rows
    ]
    sizes = [
        next((row['model'] for row in rows[i:] if row['model'].startswith('MAFormer')), None)
        for i in range(len(rows))
    ]
    blocks = sizes if table > 3 else [''] * len(rows)
    bold = set()
    for column, block in itertools.product(filter(is_accuracy, columns), set(blocks)):
        values = {
            i: float(r[column]) for i, r in enumerate(rows) if blocks[i] == block and r[column]
        }
        if len(values) > 1:
            bold |= {(i, column) for i, value in values.items() if value == max(values.values())}
    assert bold == {
        (i, column)
        for i, row in enumerate(shown)
        for column, field in zip(columns, row[1:], strict=True)
        if '**' in field
    }


def own_print(cell):
    """The printed value of a line of the CSVs, if it is of the depths that are printed."""
    return '' if cell['variant'] and is_accuracy(cell['metric']) else cell['paper']


def convention(cell):
    """The mark of the FLOPs that a line of the CSVs prints."""
    same = cell['layer_flops_g'] == cell['total_flops_g']
    return '' if same else {'layer': 'ˡ', 'total': 'ᵗ', '': ''}[cell['convention']]


def test_measured_values_precede_the_printed(tables):
    rows = parsed(tables(5, '--columns', 'params_m,flops_g,box_ap'))[1:]
    systems = list(dict.fromkeys(row['system'] for row in ROWS[5]))
    for system, row in zip(systems, rows, strict=True):
        of_row = {line['metric']: line for line in ROWS[5] if line['system'] == system}
        for metric, field in zip(('params_m', 'flops_g', 'box_ap'), row[1:], strict=True):
            cell = of_row[metric]
            text = own_print(cell)
            if cell['measured']:
                text = f'{float(cell["measured"]):.1f}{convention(cell)} ({cell["paper"]})'
            marks = {'match': '•', 'unprinted': '•', 'cited': '◦', 'not-run': '', 'error': ''}
            mark = marks.get(cell['verdict'], '≠')
            assert field.replace('**', '') == (text + mark if text else '–')
    assert '(41)' not in tables(5, '--show', 'measured')


def test_a_measured_accuracy_decides_what_is_best(tables, changed):
    """Swin-T, 42.2 as printed, measured as 48.04: better than MAFormer-S's 47.0 as printed."""
    place = (5, 'mask-rcnn_swin-t-p4-w7_fpn_1x_coco', 'box_ap')
    folder = changed({place: {'measured': '48.04', 'difference': '5.84', 'verdict': 'better'}})
    fields = dict(parsed(tables(5, '--columns', 'box_ap', results=folder)))
    assert fields['Swin-T'] == '**48.0** (42.2)≠'
    assert fields['MAFormer-S'] == '47.0'
    text = tables(5, '--columns', 'box_ap', '--show', 'printed', results=folder)
    assert dict(parsed(text))['MAFormer-S'] == '**47.0**'


def test_columns_in_one_convention(tables):
    rows = parsed(tables(5, '--columns', 'flops_g,total_flops_g,box_ap'))
    assert rows[0][1:] == ['FLOPs (G)', 'Total FLOPs (G)', 'APᵇ']
    fields = {row[0]: row[1:3] for row in rows[1:]}
    assert fields['MAFormer-B'] == ['353.3ˡ (354)•', '583.0']
    assert fields['CSWin-S'] == ['343.6ᵗ (342)•', '343.6']


def test_a_damaged_result_is_one_line(refused, tmp_path):
    text = (RESULTS / 'table1.csv').read_text()
    (tmp_path / 'table1.csv').write_text(text.replace(',match,', ',good,', 1))
    message = "line 2: verdict: 'good' should be 'match'"
    assert message in refused(1, results=tmp_path)
    assert 'no table has both these rows' in refused(5, '--rows', 'swin-t')


def saved(folder, name, top1, **changes):
    return records.save(record(name, top1, **changes), b'', folder)


def added(text, name='Ours'):
    """The one row of a name in the first table of `text`, and the names of all its rows."""
    rows = parsed(text)
    (found,) = [row for row in rows if row[0].startswith(name)]
    return found, [row[0] for row in rows]


def test_the_row_of_a_csv(tables, refused, tmp_path):
    path = tmp_path / 'mine.csv'
    path.write_text(
        'model,block,params_m,flops_g,box_ap,mask_ap\n'
        'Mine & Co_100%,MAFormer-S,40.5,251,47.4,42.1\nAside,,50,300,50.9,\n'
        '"<script>\nalert(1)</script>",,,,47,\n![p](http://x)$x^2$\\input{a},,,,48,\n'
    )
    text = tables(5, '--add', path, '--columns', 'params_m,box_ap,mask_ap,mask_ap50')
    mine, names = added(text, 'Mine')
    assert mine == [r'Mine &amp; Co\_100%', '40.5⋆', '**47.4**⋆', '42.1⋆', '–']
    assert names[names.index(mine[0]) - 1] == 'MAFormer-S (3-3-8-3)'
    assert added(text, 'Aside')[0][1:] == ['50.0⋆', '**50.9**⋆', '–', '–']
    # Names are text, and nothing else.
    assert '&lt;script&gt; alert(1)&lt;/script&gt;' in names
    assert r'!\[p](http://x)\$x^2\$\\input{a}' in names
    latex = tables(5, '--add', path, '--format', 'latex')
    assert r'Mine \& Co\_100\% & 40.5{\celladded}' in latex
    assert r'\$x\textasciicircum{}2\$\textbackslash{}input\{a\} &' in latex
    path.write_text('model,box_ap\nA,47\nMine,0.47\n')
    assert 'line 3: box_ap' in refused(5, '--add', path)


def test_the_row_of_a_record_is_in_the_block_of_its_size(tables, refused, tmp_path):
    path = saved(tmp_path, DEIT, 83.2, from_weights=('img_size',))
    part = saved(tmp_path, DEIT, 99.0, complete=False)
    text = tables(4, '--add', f'Ours={path}', '--add', f'Part={part}')
    ours, names = added(text)
    assert ours == ['Ours', '224²', '224²', '22.1⋆', '4.6ᵗ⋆', '83.2⋆']
    assert names[names.index('Ours') - 1] == 'MAFormer-S† (3-3-8-3)'
    message = 'is a classifier, which belongs to Table 4; shown are 5'
    assert message in refused(5, '--add', path)
    assert added(text, 'Part (100 images)')[0][-1] == '99.0⋆'  # of a part, so never the best


SWIN_T = 'mask-rcnn_swin-t-p4-w7_fpn_1x_coco'
EVALUATION = record(
    *(SWIN_T, 0),
    task='coco',
    checkpoint={'file': 'swin.pth', 'sha256': 'ab' * 32},
    preprocessing={},
    metrics={'box_ap': 42.71, 'mask_ap': 39.3},
    intervals={},
)
SWIN = {'measured': '42.710000', 'difference': '0.51', 'verdict': 'better'}
SWIN |= {'reference': '42.7', 'reference_verdict': 'match', 'reason': 'x <script>alert(1)</script>'}
SWIN |= {'record': EVALUATION.stem}


@pytest.fixture(scope='module')
def evaluated():
    """Cells of which one has a measured accuracy, and its record."""
    loaded = cells.load_results(RESULTS)
    for i, cell in enumerate(loaded):
        if (cell.table, cell.system, cell.metric) == (5, SWIN_T, 'box_ap'):
            loaded[i] = cells.Cell(**cell.model_dump() | SWIN | {'row': cell.row})
    return loaded, [EVALUATION]


def test_points_are_what_the_results_say(evaluated):
    """Every model over its total FLOPs; MAFormer-S once, over those that fit the print."""
    loaded, _ = evaluated
    found = plots.points(layout.all_lines(loaded)[5], PRINTED[5].columns['box_ap'], 'flops_g')
    of = {(row['system'], row['metric']): row for row in ROWS[5]}
    systems = list(dict.fromkeys(row['system'] for row in ROWS[5]))
    systems.remove('mask-rcnn_maformer-small_fpn_1x_coco')  # 265 G where 256 are printed
    systems = [system for system in systems if of[system, 'flops_g']['total_flops_g']]
    small = [(p.line.label, p.fits) for p in found if p.line.row.model == 'MAFormer-S']
    assert small == [('MAFormer-S (3-3-8-3)', True)]
    for point, system in zip(found, systems, strict=True):
        assert point.x == float(of[system, 'flops_g']['total_flops_g'])
        accuracy = of[system, 'box_ap'] | (SWIN if system == SWIN_T else {})
        assert point.measured is bool(accuracy['measured'])
        assert point.y == float(accuracy['measured'] or accuracy['paper'])
        assert (point.low < point.x) is point.line.row.own
    # None is as accurate at the same cost or less.
    assert plots.frontier(found) == [
        point
        for point in sorted(found, key=lambda p: (p.x, -p.y))
        if not any(o.x <= point.x and o.y >= point.y for o in found if o != point)
    ]


def test_the_frontier_depends_on_what_stages_3_and_4_attend_to():
    """As the README says: MAFormer-S is on it with windows of 14 x 14 only."""
    column = PRINTED[5].columns['box_ap']
    found = plots.points(layout.all_lines(cells.load_results(RESULTS))[5], column, 'flops_g')
    whole, windows = (
        {point.line.row.model for point in plots.frontier(of)}
        for of in (found, plots.in_windows(found))
    )
    assert windows - whole == {'MAFormer-S'} and {'MAFormer-B', 'MAFormer-L'} <= whole


def test_figures_of_both_ends_of_the_flops(evaluated):
    drawn = plots.figures(evaluated[0])
    assert len(drawn) == 7
    assert 'windows of 14 x 14' in drawn['upernet_miou'].says


class Parsed(HTMLParser):
    """Every element of a page with its attributes, and the text of each `data-cell` button."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.stack, self.scripts = [], {}, [], {}
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ('meta', 'link', 'input', 'br', 'img'):
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
            if tag == 'script' and 'id' in attributes:
                self.scripts[attributes['id']] = json.loads(data)


def visible(html):
    return ' '.join(unescape(re.sub(r'<[^>]+>', ' ', html)).split())


@pytest.fixture(scope='module')
def html():
    loaded = cells.load_results(RESULTS)
    return page.render(loaded, (), audit(RESULTS)[1])


@pytest.fixture(scope='module')
def elements(html):
    return Parsed(html)


def test_every_cell_is_there_once_with_its_values(elements):
    found = Counter(a['data-cell'] for _, a in elements.elements if 'data-cell' in a)
    assert found == Counter(map(key, EVERY))
    assert set(found.values()) == {1}
    looks = {a['data-cell']: a['class'].split() for _, a in elements.elements if 'data-cell' in a}
    for row in EVERY:
        texts = elements.texts[key(row)]
        measured = f'{float(row["measured"]):.2f}' if row['measured'] else ''
        assert texts[0] == (measured or own_print(row) or '–')
        assert (own_print(row) in texts) or not own_print(row)
        assert (convention(row) in texts) or not convention(row)
        # A printed value never looks like a measured one, nor sounds like one.
        assert ('unmeasured' in looks[key(row)]) is not bool(measured)
        assert ('not measured' in ' '.join(texts)) is not bool(measured)
        shown = elements.scripts['data'][key(row)]
        for name in ('paper', 'reference', 'verdict', 'reference_verdict'):
            assert shown[name] == row[name]
        assert shown['measured'] == measured
        facts = shown['facts']
        assert facts.get('reason', '') == row['reason']
        assert facts['system'] == row['system']
        if row['layer_flops_g']:
            assert f'{float(row["layer_flops_g"]):.2f} G' in facts['FLOPs']
            assert f'{float(row["total_flops_g"]):.2f} G' in facts['FLOPs']
        if row['tolerance']:
            assert facts['tolerance'].startswith(f'± {float(row["tolerance"]):.4g}.')


def test_the_page_loads_nothing_and_its_ids_are_its_own(html, elements):
    links = {a[n] for _, a in elements.elements for n in ('src', 'href', 'action') if a.get(n)}
    assert all(link.startswith(('#', 'data:')) for link in links - {PAPER.address})
    loaded = re.sub(r'<script type.*?</script>', '', html.replace(PAPER.address, ''))
    assert not re.search(r'https?://|url\((?!#)|@import|\bfetch\(|XMLHttpRequest', loaded)
    ids = Counter(a['id'] for _, a in elements.elements if 'id' in a)
    assert max(ids.values()) == 1
    used = {link[1:] for link in links if link.startswith('#') and not link.startswith('#?')}
    assert used <= ids.keys()
    assert len(html.encode()) < 2_000_000


def test_the_page_says_first_what_was_found(html):
    """The counts, from the CSVs as the standard library reads them."""
    numbers = [row for row in EVERY if row['paper'] and not row['variant']]
    costs = [row for row in numbers if not is_accuracy(row['metric'])]
    published = [row for row in numbers if is_accuracy(row['metric']) and row['published']]
    agreeing = sum(row['published'] in ('same', 'close') for row in published)
    header = re.search('<header.*?</header>', html, re.S)[0]
    first, verdicts = visible(header), Counter(row['verdict'] for row in costs)
    for text in (
        f'{len(costs)} of {len(costs)} parameter counts',
        f'{verdicts["match"]} match the paper, {verdicts["known"]} deviate for a registered reason',
        f'{verdicts["unresolved"]} deviate for no reason that was found',
        f'0 of {len(numbers) - len(costs)} accuracies measured',
        f'{len(published)} of {len(numbers) - len(costs)} accuracies published',
        f'{agreeing} agree with the paper',
    ):
        assert text in first
    assert 'href="#finding-1"' in header


def test_the_sections_hold_what_the_results_say(html):
    text, counts = visible(html), count(cells.load_results())
    published = Counter(row['published'] for row in EVERY if row['published'])
    assert f'{sum(published.values())} accuracies: {published["same"]} are the same' in text
    assert f'{counts["known"] + counts["unresolved"]} measured values that are not' in text
    assert re.search(r'Table 5 Swin-T APᵇ 42.2 43.7 higher', text)


def test_a_record_on_the_page(evaluated):
    loaded, kept = evaluated
    text = page.render([cell for cell in loaded if cell.table == 5], kept)
    data = Parsed(text).scripts['data']
    shown = data[f'5/Swin-T/{SWIN_T}/box_ap']
    values = [shown[k] for k in ('verdict', 'reference', 'reference_verdict')]
    assert values == ['better', '42.7', 'match']
    assert 'ab' * 32 in shown['facts']['checkpoint']
    assert shown['facts']['command'] == EVALUATION.provenance.command
    # The record's mask AP is in no cell of the CSVs.
    assert 'checkpoint' not in data[f'5/Swin-T/{SWIN_T}/mask_ap']['facts']
    assert '<script>alert' not in text


def test_the_commands_write_the_page_and_the_figures(run, changed, monkeypatch):
    monkeypatch.setattr(plots, '_ACCURACIES', ('top1',))  # one figure is enough
    folder = changed({(5, SWIN_T, 'box_ap'): SWIN})
    (folder / 'evaluations').mkdir()
    (folder / 'evaluations/swin.json').write_text(EVALUATION.model_dump_json())
    code, out, err = run('report', '--results', folder, '--output', 'new/report.html')
    assert (code, out, err) == (0, 'The report: new/report.html\n', '')
    text = Path('new/report.html').read_text()
    assert 'ab' * 32 in text
    code, _, err = run('figures', '--results', folder, '--output', 'figures')
    assert (code, err) == (0, '')
    files = {path.name: path.read_bytes()[:4] for path in Path('figures').iterdir()}
    assert set(files.values()) == {b'%PDF', b'\x89PNG'}
