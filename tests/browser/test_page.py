"""The page in a real browser: sorting, filters, links, keyboard, accessibility, themes, widths."""

import csv
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from reproduce.ablation.outcomes import load_outcomes
from reproduce.audit.findings import audit
from reproduce.judge import cells
from reproduce.report import page

RESULTS = Path(__file__).parents[2] / 'results'


@pytest.fixture(scope='session')
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which('chromium'), args=['--no-sandbox']
        )
        yield browser
        browser.close()


@pytest.fixture(scope='session')
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp('report') / 'report.html'
    study = load_outcomes(RESULTS / 'ablations/micro')
    path.write_text(page.render(cells.load_results(RESULTS), (), audit(RESULTS)[1], [study]))
    return path.as_uri()


@pytest.fixture
def opened(browser, report):
    """Opens the page; fails if it prints to the console or requests anything else."""
    contexts, printed, requested = [], [], []

    def opened(width=1280, height=900, address=report, **options):
        context = browser.new_context(viewport={'width': width, 'height': height}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on('console', lambda message: printed.append(message.text))
        tab.on('pageerror', lambda error: printed.append(str(error)))
        tab.on('request', lambda request: requested.append(request.url.partition('#')[0]))
        tab.goto(address)
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert printed == []
    assert {url for url in requested if not url.startswith('data:,')} == {report}


def column(tab, table, index):
    """The shown values of a column, top to bottom, as numbers; gaps as None."""
    texts = tab.locator(f'#table{table} tbody tr:visible').evaluate_all(
        f'rows => rows.map(row => row.cells[{index}].dataset.value)'
    )
    return [float(text) if text else None for text in texts]


def test_a_click_sorts(opened):
    tab = opened()
    with (RESULTS / 'table5.csv').open(newline='') as file:
        rows = [row for row in csv.DictReader(file) if row['metric'] == 'flops_g']
    flops = [float(row['measured'] or row['paper']) for row in rows]
    head = tab.locator('#table5 thead tr').last.locator('th').nth(2)
    assert column(tab, 5, 2) == flops
    for order, values in (
        ('descending', sorted(flops, reverse=True)),
        ('ascending', sorted(flops)),
        ('none', flops),
    ):
        head.get_by_role('button').click()
        assert head.get_attribute('aria-sort') == order
        assert column(tab, 5, 2) == values
    # Gaps are last in both orders.
    button = tab.locator('#table7 thead tr').last.locator('th').nth(3).get_by_role('button')
    for _ in range(2):
        button.click()
        values = column(tab, 7, 3)
        gap = values.index(None)
        assert set(values[gap:]) == {None} and None not in values[:gap]


def test_a_filter_holds_for_all_sections(opened):
    tab = opened()
    search, verdict = tab.get_by_role('searchbox'), tab.get_by_role('combobox')
    rows, status = tab.locator('.cells tbody tr:visible'), tab.get_by_role('status')
    total = rows.count()
    search.fill('vil-m')
    assert status.inner_text().startswith(f'{rows.count()} of {total} rows')
    for section in ('deviations', 'table5', 'published'):  # folded ones open
        items = tab.locator(f'#{section} [data-item]:visible')
        assert items.count() > 0
        assert all('vil-m' in text.lower() for text in items.all_text_contents())
    search.fill('')
    verdict.select_option('known')
    for row in rows.all():
        assert row.locator('[data-verdict=known]').count() > 0
    verdict.select_option('')
    assert (rows.count(), status.inner_text()) == (total, '')


def test_a_filter_a_row_and_a_cell_have_an_address(opened):
    tab = opened()
    start = tab.url
    tab.get_by_role('searchbox').fill('swin s')
    filtered = tab.url
    rows = tab.locator('.cells tbody tr:visible').count()
    tab.locator('.cells .cell:visible').first.click()
    cell, title = tab.url, tab.locator('#p-title').inner_text()
    other = opened(address=filtered)
    assert other.get_by_role('searchbox').input_value() == 'swin s'
    assert other.locator('.cells tbody tr:visible').count() == rows
    assert opened(address=cell).locator('#p-title').inner_text() == title
    expect(opened(address=f'{start}#finding-2').locator('#finding-2')).to_be_in_viewport()


@pytest.mark.parametrize(('width', 'scheme'), [(320, 'light'), (390, 'dark'), (1400, 'light')])
def test_it_is_accessible_and_fits(opened, width, scheme):
    """Also by axe's experimental rule that a control's name has the text that is seen on it."""
    tab = opened(width, color_scheme=scheme)
    tab.evaluate('document.querySelectorAll("details").forEach(d => { d.open = true; })')
    assert tab.evaluate('document.documentElement.scrollWidth') <= width
    named = {'rules': {'label-content-name-mismatch': {'enabled': True}}}
    violations = Axe().run(tab, options=named).response['violations']
    tab.locator('#table5 .cell').first.click()
    box = tab.get_by_role('dialog').bounding_box()
    assert box['x'] >= 0 and box['x'] + box['width'] <= width
    violations += Axe().run(tab, options=named).response['violations']
    assert [(v['id'], len(v['nodes'])) for v in violations] == []


def test_a_cell_opens_with_the_keyboard(opened):
    tab = opened()
    dialog = tab.get_by_role('dialog')
    tab.locator('#table4 tbody tr').first.locator('.cell').first.focus()
    tab.keyboard.press('ArrowRight')
    tab.keyboard.press('ArrowDown')
    focused = tab.evaluate('document.activeElement.dataset.cell')
    second = tab.locator('#table4 tbody tr').nth(1).locator('.cell').nth(1)
    assert focused == second.get_attribute('data-cell')
    tab.keyboard.press('Enter')
    assert dialog.is_visible()
    tab.keyboard.press('Escape')
    assert not dialog.is_visible()
    assert tab.evaluate('document.activeElement.dataset.cell') == focused
    tab.keyboard.press('Tab')
    assert tab.evaluate('document.activeElement.dataset.cell') != focused
