"""The findings about the paper.

`findings.toml`, in the paper's folder or here, has their text and the printed numbers in it. What
else they need is computed by a function of the finding's name, which returns numbers by name, and
sentences as 'evidence'.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from reproduce import paper
from reproduce.audit import readings, table_lint
from reproduce.audit.claims import ClaimVerdict, JudgedClaim, judge_claims
from reproduce.audit.closed_form import BUILT, OPTIONS, WINDOWS, count
from reproduce.audit.rows import Tables, best_rivals, number, printed_value
from reproduce.audit.sources import (
    Misprint,
    SourcedCell,
    compare_sources,
    load_misprints,
    load_sources,
)
from reproduce.base.errors import UserError
from reproduce.base.files import read_toml
from reproduce.base.folders import PAPER_OPTION
from reproduce.judge.cells import Cell, load_results
from reproduce.judge.verdict import REGISTERED
from reproduce.paper import TABLES


class Finding(BaseModel, extra='forbid', frozen=True):
    """Something in the paper that is not correct.

    Attributes:
        sentence: what is not correct, with the names of its numbers in braces.
        evidence: the sentences that show it.
        certainty: 'certain' if it follows from printed numbers; 'counted' if it also rests on
            counts of networks; 'likely' if it rests on an assumption that is named.
        extent: what it concerns: a result of the abstract, a comparison of a section, or single
            numbers, from which the paper concludes nothing.
        values: lists of its printed numbers, by name, as `printed_value` reads them.
    """

    title: str
    sentence: str
    evidence: tuple[str, ...] = ()
    certainty: Literal['certain', 'counted', 'likely']
    extent: Literal['main result', 'comparison', 'number']
    values: dict[str, list[str]] = Field({}, exclude=True)


@dataclass(frozen=True)
class AuditData:
    """What the findings are computed from: what is printed, what is measured, and the readings.

    `sourced` has the cells of the baselines, compared with other publications; `search` is None for
    a paper whose findings take no readings.
    """

    tables: Tables
    claims: Sequence[JudgedClaim]
    sourced: Sequence[SourcedCell]
    misprints: Sequence[Misprint]
    cells: Sequence[Cell]
    search: readings.Search | None

    def measured(self, table: int, model: str, column: str, variant: str = '') -> Cell:
        """Return the measured cell of a row, and of the variant with other depths."""
        wanted = (table, model, column, variant)
        for cell in self.cells:
            if (cell.table, cell.model, cell.metric, cell.variant) == wanted:
                return cell
        again = f'write them with `python -m reproduce{PAPER_OPTION} table {table}`.'
        raise UserError(f'The results of Table {table} have no {column} of {model}: {again}')


def audit(results: Path) -> tuple[AuditData, list[Finding]]:
    """Return what was audited with these measured tables, and the findings in their order."""
    tables = {table: paper.load_table(table) for table in TABLES}
    cells, sources = load_results(results), load_sources()
    own, shared = paper.FOLDER / 'findings.toml', Path(__file__).with_name('findings.toml')
    texts = read_toml(own if own.is_file() else shared, dict[str, Finding])
    takes_readings = any(FINDINGS.get(name) in _OF_READINGS for name in texts)
    data = AuditData(
        tables,
        judge_claims(tables),
        compare_sources(tables, sources),
        load_misprints(),
        cells,
        readings.search(tables, cells) if takes_readings else None,
    )
    publications = {'': tables} | {name: source.tables for name, source in sources.items()}
    found = [_filled(name, texts[name], data, publications) for name in texts]
    return data, [finding for finding in found if finding.evidence or own.is_file()]


def _filled(
    name: str, finding: Finding, data: AuditData, publications: Mapping[str, Tables]
) -> Finding:
    """Return a finding with its numbers in the place of their names."""
    values = {'evidence': (), **(FINDINGS[name](data) if name in FINDINGS else {})}
    if (search := data.search) is not None:
        values |= {'best': len(search.best), 'most': search.most}
        values |= {'readings': len(search.readings), 'targets': len(search.targets)}
    for number_name, texts in finding.values.items():
        values[number_name] = listed(printed_value(text, publications) for text in texts)
    values['n'] = len(values['evidence'])
    evidence = (*values['evidence'], *(text.format(**values) for text in finding.evidence))
    sentence = finding.sentence.format(**values)
    return finding.model_copy(update={'sentence': sentence, 'evidence': evidence})


def listed(values: Iterable[object]) -> str:
    """Return values as a list in a sentence: '1, 2 and 3'."""
    *first, last = map(str, values)
    return f'{", ".join(first)} and {last}' if first else last


# ------------------------------------------------------------------------------------------------
# Findings that follow from printed numbers


def wrong_statements(data: AuditData) -> dict[str, Any]:
    wrong = [
        judged
        for judged in data.claims
        if judged.verdict in (ClaimVerdict.FAILS, ClaimVerdict.PARTLY) and not judged.claim.finding
    ]
    numbers = sum(bool(judged.claim.printed) for judged in wrong)
    return {
        'numbers': numbers,
        'comparisons': len(wrong) - numbers,
        'evidence': [
            f'{j.claim.place}, {j.claim.says}: {j.claim.printed or "yes"} in the text, '
            f'{j.computed} by Table {j.claim.table} ({j.evidence}).'
            for j in wrong
        ],
    }


def unsupported(data: AuditData) -> dict[str, Any]:
    claims = [judged for judged in data.claims if judged.claim.finding == 'unsupported']
    return {'evidence': [f'{j.claim.place}, {j.claim.says}: {j.evidence}' for j in claims]}


def small_leads(data: AuditData) -> dict[str, Any]:
    """Differences that chance may explain."""
    tolerances = paper.load_tolerances()
    leads, small, beyond = 0, [], 0
    for row in (row for rows in data.tables.values() for row in rows if row.own and row.block):
        for column, rival in best_rivals(data.tables, row).items():
            lead = number(row, column) - number(rival, column)
            tolerance = tolerances[TABLES[row.table].columns[column].metric.name]
            leads += lead > 0
            beyond += lead > tolerance.seeds.width
            if 0 < lead <= tolerance.resolvable:
                small.append(
                    f'Table {row.table}, {row.model}, {column}: {lead} over {rival.model}; a test '
                    f'shows differences from {tolerance.resolvable:.2f} on.'
                )
    top1 = tolerances['top1']
    chance = {'resolvable': top1.resolvable, 'seeds': top1.seeds.width}
    return {'leads': leads, 'beyond': beyond, 'evidence': small, **chance}


def unlike_sources(data: AuditData) -> dict[str, Any]:
    registered = {misprint.key for misprint in data.misprints}
    compared = [cell for cell in data.sourced if cell.sources]
    unlike = [cell for cell in compared if not any(cell.agreement)]
    others = [cell for cell in unlike if (cell.table, cell.model, cell.field) not in registered]
    sourced: dict[str, bool] = {}  # whether any source prints an accuracy of a row
    for cell in data.sourced:
        column = TABLES[cell.table].columns.get(cell.field)
        if column is not None and not column.metric.is_complexity:
            row = f'Table {cell.table}, {cell.model}'
            sourced[row] = sourced.get(row, False) or bool(cell.sources)
    return {
        'unlike': len(unlike),
        'compared': len(compared),
        'unsourced': '; '.join(row for row, found in sourced.items() if not found),
        'evidence': [str(cell) for cell in others],
    }


def probable_misprints(data: AuditData) -> dict[str, Any]:
    return {
        'evidence': [
            f'Table {m.table}, {m.model}, {m.metric} {m.printed}'
            f'{m.likely and f", probably {m.likely}"}: {m.reason}'
            for m in data.misprints
        ]
    }


def table_faults(data: AuditData) -> dict[str, Any]:
    return {
        'evidence': [
            f'Table {table}: {sentence}'
            for table in data.tables
            for sentence in table_lint.faults(paper.FOLDER / f'table{table}.csv')
        ]
    }


# ------------------------------------------------------------------------------------------------
# Findings that also rest on counts: of published networks, and of MAFormer in all its readings


def flop_cells(data: AuditData, framework: str) -> list[tuple[Cell, Cell]]:
    """Return the measured FLOPs of MAFormer-S (as fits), -B and -L, each with its rival's."""
    table = {'mask_rcnn': 5, 'cascade_mask_rcnn': 6}[framework]
    return [
        (
            data.measured(table, f'MAFormer-{ours}', 'flops_g', variant),
            data.measured(table, f'CSWin-{rival}', 'flops_g'),
        )
        for ours, variant, rival in (('S', '3-3-8-3', 'T'), ('B', '', 'S'), ('L', '', 'B'))
    ]


def total_ratios(data: AuditData, framework: str) -> dict[str, list[tuple[float, float, float]]]:
    """Return the ratios of MAFormer's total FLOPs to CSWin's, by what stages 3 and 4 attend to.

    Returns:
        for S, B and L the ratio of the model that is otherwise as built, and the smallest and the
        largest of all readings that meet the most cells.
    """
    search = data.search
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in OPTIONS['attention']}
    for ours, rival in flop_cells(data, framework):
        ratios = search.flops(ours.model, framework, 'total') / rival.flops('total')
        for name, of_sizes in found.items():
            built = ratios[search.readings.index({**BUILT, 'attention': name})]
            best = [ratios[i] for i in search.best if search.readings[i]['attention'] == name]
            of_sizes.append((built, min(best), max(best)))
    return found


def flop_conventions(data: AuditData) -> dict[str, Any]:
    crossed = [reading['local'].startswith('stripes') for reading in data.search.readings]
    return {
        'mask_rcnn': _ratios(data, 'mask_rcnn'),
        'cascade': _ratios(data, 'cascade_mask_rcnn'),
        'in_total': data.search.met_in_total.max(),
        'crossed': data.search.met_in_total[crossed].max(),
    }


def _ratios(data: AuditData, framework: str) -> dict[str, str]:
    """Return MAFormer's FLOPs over CSWin's for S, B and L, in all conventions and readings."""
    cells, by_attention = flop_cells(data, framework), total_ratios(data, framework)
    ratios = {
        'printed': [float(a.paper) / float(b.paper) for a, b in cells],
        'layer': [a.layer_flops_g / b.layer_flops_g for a, b in cells],
        'total': [a.total_flops_g / b.total_flops_g for a, b in cells],
        'windows': [built for built, *_ in by_attention[WINDOWS['attention']]],
    }
    spans = [
        f'{min(low for _, low, _ in of_size):.2f} to {max(high for *_, high in of_size):.2f}'
        for of_size in zip(*by_attention.values(), strict=True)
    ]
    texts = {name: listed(f'{ratio:.2f}' for ratio in of) for name, of in ratios.items()}
    return {**texts, 'spans': listed(spans)}


def depths_of_small(data: AuditData) -> dict[str, Any]:
    search = data.search
    built = search.readings.index(BUILT)
    return {
        'printed': data.measured(1, 'MAFormer-S', 'flops_g'),
        'fewer': data.measured(1, 'MAFormer-S', 'flops_g', '3-3-8-3'),
        'at_most': search.met_as_printed.max(),
        'as_printed': search.met_as_printed[built],
        'met': search.met[built],
        'widths': ' or '.join('-'.join(map(str, w)) for w in readings.widths_that_fit(search)),
    }


def layer_of_gld(data: AuditData) -> dict[str, Any]:
    search, option = data.search, 'all tokens to half'
    literal, built = (
        count(reading, paper.FRAMEWORKS['classifier'], *search.variants['MAFormer-S'])[0] / 1e6
        for reading in ({**BUILT, 'gld': option}, BUILT)
    )
    return {
        'added': literal - built,
        'met': search.met[[reading['gld'] == option for reading in search.readings]].max(),
    }


def many_readings(data: AuditData) -> dict[str, Any]:
    by_option, histogram = data.search.by_option, data.search.histogram
    unused = [f'{o} ({name})' for name, of in by_option.items() for o, n in of.items() if not n]
    return {
        'options': listed(OPTIONS),
        'excluded': listed(unused),
        'histogram': ', '.join(f'{n} cells {of:,}' for n, of in histogram.items()),
    }


def counted_otherwise(data: AuditData) -> dict[str, Any]:
    """Parameters and FLOPs of baselines that no count confirms."""
    misprinted = {misprint.key for misprint in data.misprints}
    return {
        'evidence': [
            f'Table {c.table}, {c.model}, {c.metric}: {c.reason}.'
            for c in data.cells
            if c.verdict in REGISTERED
            and c.column.metric.is_complexity
            and not c.row.own
            and (c.table, c.model, c.metric) not in misprinted
        ]
    }


_OF_READINGS = flop_conventions, depths_of_small, layer_of_gld, many_readings
FINDINGS: dict[str, Callable[[AuditData], dict[str, Any]]] = {
    find.__name__: find
    for find in (
        *(wrong_statements, unsupported, small_leads, unlike_sources, probable_misprints),
        *(table_faults, counted_otherwise, *_OF_READINGS),
    )
}
