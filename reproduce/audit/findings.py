"""The findings about the paper: `findings.toml` has their text, a function each their numbers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from reproduce import paper
from reproduce.audit import readings
from reproduce.audit.claims import ClaimVerdict, JudgedClaim, judge_claim, load_claims
from reproduce.audit.closed_form import BUILT, OPTIONS, WINDOWS, count
from reproduce.audit.rows import Tables, best_rivals, find_row, number
from reproduce.audit.sources import (
    Misprint,
    Source,
    SourcedCell,
    compare_sources,
    load_misprints,
    load_sources,
)
from reproduce.base.files import read_toml
from reproduce.judge.cells import Cell, load_results
from reproduce.judge.verdict import Verdict
from reproduce.paper import TABLES, Row, Tolerance


class Finding(BaseModel):
    """Something in the paper that is not correct.

    Attributes:
        title: a few words.
        sentence: what is not correct, with its numbers.
        evidence: the sentences that show it.
        certainty: 'certain' if it follows from printed numbers; 'counted' if it also rests on
            counts of networks; 'likely' if it rests on an assumption that is named.
        extent: what it concerns: a result of the abstract, a comparison of a section, or single
            numbers, from which the paper concludes nothing.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    title: str
    sentence: str
    evidence: tuple[str, ...] = ()
    certainty: Literal['certain', 'counted', 'likely']
    extent: Literal['main result', 'comparison', 'number']


@dataclass(frozen=True)
class AuditData:
    """What the findings are computed from.

    Attributes:
        tables: the printed ones.
        claims: of the text, judged.
        sources, sourced: other publications, and each baseline's cell compared with them.
        misprints: the registered ones.
        cells: the measured results.
        tolerances: by metric.
        search: the readings of the block.
    """

    tables: Tables
    claims: Sequence[JudgedClaim]
    sources: dict[str, Source]
    sourced: Sequence[SourcedCell]
    misprints: Sequence[Misprint]
    cells: Sequence[Cell]
    tolerances: dict[str, Tolerance]
    search: readings.Search

    def row(self, table: int, name: str, source: str = '') -> Row:
        """Return a row of the paper, or of a source, by the name that `find_row` takes."""
        return find_row(self.sources[source].tables if source else self.tables, table, name)

    def printed(self, table: int, name: str, column: str, source: str = '') -> Decimal:
        """Return a printed number of the paper, or of a source."""
        return number(self.row(table, name, source), column)

    def measured(self, table: int, model: str, column: str, variant: str = '') -> Cell:
        """Return the measured cell of a row, and of the variant with other depths."""
        wanted = (table, model, column, variant)
        return next(c for c in self.cells if (c.table, c.model, c.metric, c.variant) == wanted)


def audit(results: Path, folder: Path = paper.FOLDER) -> tuple[AuditData, list[Finding]]:
    """Return what was audited, and the findings, the surest and largest first.

    Args:
        results: folder of the measured tables.
        folder: folder of the printed tables, claims, misprints, tolerances and sources.

    Raises:
        UserError: if a file is missing or malformed.
    """
    tables = {table: paper.load_table(table, folder) for table in TABLES}
    cells, tolerances = load_results(results), paper.load_tolerances(folder)
    sources = load_sources(folder / 'sources')
    data = AuditData(
        tables=tables,
        claims=[judge_claim(claim, tables) for claim in load_claims(folder)],
        sources=sources,
        sourced=compare_sources(tables, sources),
        misprints=load_misprints(folder),
        cells=cells,
        tolerances=tolerances,
        search=readings.search(tables, cells),
    )
    texts = read_toml(Path(__file__).with_name('findings.toml'), dict[str, Finding])
    return data, [_filled(finding, FINDINGS[name](data)) for name, finding in texts.items()]


def _filled(finding: Finding, values: dict[str, Any]) -> Finding:
    """Return a finding with its numbers in the place of their names."""
    evidence = (*values.get('evidence', ()), *(e.format(**values) for e in finding.evidence))
    sentence = finding.sentence.format(**values)
    return finding.model_copy(update={'sentence': sentence, 'evidence': evidence})


def listed(values: Iterable[object]) -> str:
    """Return values as a list in a sentence: '1, 2 and 3'."""
    *first, last = map(str, values)
    return f'{", ".join(first)} and {last}' if first else last


def _percent_more(larger: Decimal, smaller: Decimal) -> Decimal:
    return 100 * (larger / smaller - 1)


# ------------------------------------------------------------------------------------------------
# Findings that follow from printed numbers


def omitted_rival(data: AuditData) -> dict[str, Any]:
    columns = ('sem_fpn_miou', 'upernet_miou', 'upernet_ms_miou')
    small, base = ([data.printed(7, f'MAFormer-{s}', c) for c in columns] for s in 'SB')
    tiny, other = ([data.printed(7, f'CSWin-{s}', c, 'cswin') for c in columns] for s in 'TS')
    leads = [ours - theirs for ours, theirs in zip(base, other, strict=True)]
    values = {'small': small, 'tiny': tiny, 'other': other, 'leads': leads}
    return {name: listed(of) for name, of in values.items()}


def token_labeling(data: AuditData) -> dict[str, Any]:
    top1 = {row.model: number(row, 'top1') for row in data.tables[4]}
    labeled, plain = (
        data.printed(4, f'MAFormer-S, token_labeling={t}', 'top1') for t in ('true', 'false')
    )
    return {
        'large': top1['MAFormer-L'] - top1['CSWin-B'],
        'labeled': labeled - top1['CSWin-T'],
        'plain': plain - top1['CSWin-T'],
        'both': f'{labeled} and {plain}',
        'over_dsnet': f'{plain - top1["DS-Net-S"]} instead of {labeled - top1["DS-Net-S"]}',
        'alike': listed(
            ours - top1[f'LV-ViT-{size}']
            for ours, size in ((labeled, 'S'), (top1['MAFormer-B'], 'M'), (top1['MAFormer-L'], 'L'))
        ),
    }


def parameters(data: AuditData) -> dict[str, Any]:
    ours = [data.printed(5, f'MAFormer-{size}', 'params_m') for size in 'SBL']
    theirs = [data.printed(5, f'CSWin-{size}', 'params_m') for size in 'TSB']
    more = [_percent_more(a, b) for a, b in zip(ours, theirs, strict=True)]
    swin = data.printed(5, 'Swin-S', 'params_m')
    return {'ours': ours[1], 'theirs': theirs[1], 'swin': swin, 'more': more, 'fewer': -more[0]}


def cait_row(data: AuditData) -> dict[str, Any]:
    other, whole = (data.row(4, model, 'uniformer') for model in ('CaiT-S48', 'CaiT-M36'))
    return {
        'printed': data.printed(4, 'CaiT-M36', 'top1'),
        'released': data.printed(4, 'CaiT-M36', 'top1', 'cait'),
        'large': data.printed(4, 'MAFormer-L', 'top1'),
        'other': (number(other, 'top1'), other.description['test_size']),
        'whole': (number(whole, 'top1'), whole.description['test_size']),
        'flops': number(whole, 'flops_g'),
    }


def cswin_flops(data: AuditData) -> dict[str, Any]:
    ours, printed = (data.printed(4, model, 'flops_g') for model in ('MAFormer-B', 'CSWin-S'))
    right = data.printed(4, 'CSWin-S', 'flops_g', 'cswin')
    more, as_printed = _percent_more(ours, right), _percent_more(ours, printed)
    measured = data.measured(4, 'CSWin-S', 'flops_g').measured
    values = {'ours': ours, 'printed': printed, 'right': right, 'measured': measured}
    return {**values, 'more': more, 'as_printed': as_printed}


def wrong_statements(data: AuditData) -> dict[str, Any]:
    wrong = [
        judged
        for judged in data.claims
        if judged.verdict in (ClaimVerdict.FAILS, ClaimVerdict.PARTLY)
        and judged.claim.relation not in ('similar', 'below')  # those are of parameters
    ]
    numbers = sum(bool(judged.claim.printed) for judged in wrong)
    return {
        'numbers': numbers,
        'comparisons': len(wrong) - numbers,
        'miou': data.printed(7, 'MAFormer-S', 'upernet_miou'),
        'evidence': [
            f'{j.claim.place}, {j.claim.says}: {j.claim.printed or "yes"} in the text, '
            f'{j.computed} by Table {j.claim.table} ({j.evidence}).'
            for j in wrong
        ],
    }


def unsupported(data: AuditData) -> dict[str, Any]:
    """Claims for which the paper prints nothing, but for settings."""
    chosen = [
        f'{judged.claim.place}, {judged.claim.says}: {judged.evidence}'
        for judged in data.claims
        if judged.verdict is ClaimVerdict.UNCHECKED
        and (
            not judged.claim.printed
            or 'as in Table 1' in judged.claim.says
            or judged.claim.says.startswith('the best')
        )
    ]
    return {'n': len(chosen), 'evidence': chosen}


def small_leads(data: AuditData) -> dict[str, Any]:
    """Differences that chance may explain."""
    leads, small, beyond = 0, [], 0
    for row in (row for rows in data.tables.values() for row in rows if row.own and row.block):
        for column, rival in best_rivals(data.tables, row).items():
            lead = number(row, column) - number(rival, column)
            tolerance = data.tolerances[TABLES[row.table].columns[column].metric.name]
            leads += lead > 0
            beyond += lead > tolerance.seeds.width
            if 0 < lead <= tolerance.resolvable:
                small.append(
                    f'Table {row.table}, {row.model}, {column}: {lead} over {rival.model}; a test '
                    f'shows differences from {tolerance.resolvable:.2f} on.'
                )
    top1 = data.tolerances['top1']
    values = {'small': len(small), 'leads': leads, 'beyond': beyond, 'evidence': small}
    return {**values, 'resolvable': top1.resolvable, 'seeds': top1.seeds.width}


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
        'others': len(others),
        'unsourced': '; '.join(row for row, found in sourced.items() if not found),
        'evidence': [str(cell) for cell in others],
    }


def probable_misprints(data: AuditData) -> dict[str, Any]:
    evidence = [
        f'Table {m.table}, {m.model}, {m.metric} {m.printed}'
        f'{m.likely and f", probably {m.likely}"}: {m.reason}'
        for m in data.misprints
    ]
    small = data.printed(7, 'MAFormer-S', 'sem_fpn_params_m')
    return {'n': len(evidence), 'small': small, 'evidence': evidence}


# ------------------------------------------------------------------------------------------------
# Findings that also rest on counts: of published networks, and of MAFormer in all its readings


def flop_cells(data: AuditData, framework: str) -> list[tuple[Cell, Cell]]:
    """Return the measured FLOPs of MAFormer-S, -B and -L, each with those of its rival.

    MAFormer-S has the depths that fit.
    """
    table = {'mask_rcnn': 5, 'cascade_mask_rcnn': 6}[framework]
    pairs = (('S', '3-3-8-3', 'T'), ('B', '', 'S'), ('L', '', 'B'))
    return [
        (
            data.measured(table, f'MAFormer-{ours}', 'flops_g', variant),
            data.measured(table, f'CSWin-{rival}', 'flops_g'),
        )
        for ours, variant, rival in pairs
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
            built = ratios[search.readings.index(BUILT | {'attention': name})]
            best = [ratios[i] for i in search.best if search.readings[i]['attention'] == name]
            of_sizes.append((built, min(best), max(best)))
    return found


def flop_conventions(data: AuditData) -> dict[str, Any]:
    search, growth = data.search, {}
    crossed = [reading['local'].startswith('stripes') for reading in search.readings]
    for model in ('Swin-T', 'Swin-S', 'Swin-B', 'Res50'):
        growth[model] = data.printed(6, model, 'flops_g') - data.printed(5, model, 'flops_g')
    of_resnet = growth.pop('Res50')
    printed, layer, mask_rcnn = _ratios(data, 'mask_rcnn')
    return {
        **_numbers(data),
        'printed': printed,
        'layer': layer,
        'in_total': search.met_in_total.max(),
        'crossed': search.met_in_total[crossed].max(),
        'mask_rcnn': mask_rcnn,
        'cascade': _ratios(data, 'cascade_mask_rcnn')[2],
        'growth': listed(growth.values()),
        'of_resnet': of_resnet,
    }


def _ratios(data: AuditData, framework: str) -> tuple[str, str, str]:
    """Return MAFormer's FLOPs over CSWin's as printed, in layer FLOPs, and all in a sentence."""
    cells = flop_cells(data, framework)
    printed = listed(f'{float(a.paper) / float(b.paper):.2f}' for a, b in cells)
    layer, total = (
        listed(f'{a.flops(kind) / b.flops(kind):.2f}' for a, b in cells)
        for kind in ('layer', 'total')
    )
    by_attention = total_ratios(data, framework)
    windows = listed(f'{built:.2f}' for built, *_ in by_attention[WINDOWS['attention']])
    spans = [
        f'{min(low for _, low, _ in of_size):.2f} to {max(high for *_, high in of_size):.2f}'
        for of_size in zip(*by_attention.values(), strict=True)
    ]
    return (
        *(printed, layer),
        f'printed {printed} times, layer {layer}, total {total} if stages 3 and 4 attend to the '
        f'whole map, as the text says, and {windows} with windows of 14 x 14 tokens, which no '
        f'printed cell excludes; {listed(spans)} in all readings that meet {data.search.most} '
        'cells.',
    )


def depths_of_small(data: AuditData) -> dict[str, Any]:
    search = data.search
    built = search.readings.index(BUILT)
    return {
        'printed': data.measured(1, 'MAFormer-S', 'flops_g'),
        'fewer': data.measured(1, 'MAFormer-S', 'flops_g', '3-3-8-3'),
        'depths': data.row(1, 'MAFormer-S').description['depths'],
        'targets': len(search.targets),
        'most': search.met_as_printed.max(),
        'as_printed': search.met_as_printed[built],
        'met': search.met[built],
        'widths': ' or '.join('-'.join(map(str, w)) for w in readings.widths_that_fit(search)),
    }


def layer_of_gld(data: AuditData) -> dict[str, Any]:
    search, option = data.search, 'all tokens to half'
    literal, built = (
        count(reading, 'classifier', *search.variants['MAFormer-S'], (224, 224))[0] / 1e6
        for reading in (BUILT | {'gld': option}, BUILT)
    )
    return {
        'added': literal - built,
        'printed': data.printed(1, 'MAFormer-S', 'params_m'),
        'met': search.met[[reading['gld'] == option for reading in search.readings]].max(),
        'targets': len(search.targets),
    }


def many_readings(data: AuditData) -> dict[str, Any]:
    by_option, histogram = data.search.by_option, data.search.histogram
    unused = [f'{o} ({name})' for name, of in by_option.items() for o, n in of.items() if not n]
    return {
        **_numbers(data),
        'options': listed(OPTIONS),
        'excluded': listed(unused),
        'histogram': ', '.join(f'{n} cells {of:,}' for n, of in histogram.items()),
    }


def _numbers(data: AuditData) -> dict[str, int]:
    search = data.search
    counts = {'best': len(search.best), 'readings': len(search.readings)}
    return {**counts, 'most': search.most, 'targets': len(search.targets)}


def counted_otherwise(data: AuditData) -> dict[str, Any]:
    """Parameters and FLOPs of baselines that no count confirms."""
    misprinted = {misprint.key for misprint in data.misprints}
    evidence = [
        f'Table {c.table}, {c.model}, {c.metric}: {c.reason}.'
        for c in data.cells
        if c.verdict is Verdict.KNOWN
        and c.column.metric.is_complexity
        and not c.row.own
        and (c.table, c.model, c.metric) not in misprinted
    ]
    return {'n': len(evidence), 'evidence': evidence}


FINDINGS: dict[str, Callable[[AuditData], dict[str, Any]]] = {
    find.__name__: find
    for find in (
        *(omitted_rival, token_labeling, parameters, cait_row, cswin_flops, wrong_statements),
        *(unsupported, small_leads, unlike_sources, probable_misprints, flop_conventions),
        *(depths_of_small, layer_of_gld, many_readings, counted_otherwise),
    )
}
