"""The audit as text for a terminal."""

from collections import Counter
from collections.abc import Sequence

from reproduce.audit.claims import ClaimVerdict, JudgedClaim
from reproduce.audit.conventions import Comparison
from reproduce.audit.findings import Finding
from reproduce.audit.misprints import MeasuredMisprint
from reproduce.audit.readings import GLOBAL_BRANCHES, Reading, Search, nearest, show
from reproduce.audit.resolution import Lead
from reproduce.audit.run import Audit
from reproduce.audit.sources import SourceVerdict, unsourced
from reproduce.base.terminal import Part, TextTable

_READINGS = 10  # the best ones are shown, and GLD over all tokens in the block as built


def render(audit: Audit) -> list[Part]:
    """Return all sections, the list of what does not hold, and one line of summary."""
    checked = [c for c in audit.claims if c.verdict is not ClaimVerdict.UNCHECKED]
    unchecked = [c for c in audit.claims if c.verdict is ClaimVerdict.UNCHECKED]
    sections = [
        ('FLOPs in one convention', _comparisons(audit.comparisons)),
        ('Claims of the text, recomputed from the tables', _claims(checked)),
        ('Claims that no table bears on', _unchecked(unchecked)),
        ('Contradictions between and within tables', _findings(audit.contradictions)),
        ('Against publications that print the same rows', _sources(audit)),
        ('Misprints, and what was measured', _misprints(audit.misprints)),
        (
            'Measured otherwise, not listed as misprints',
            _findings(audit.measured_otherwise),
        ),
        ('Bold differences and chance', _leads(audit)),
        ('Readings of the block', _readings(audit.search)),
        ('What does not hold', _list(audit.findings)),
    ]
    parts: list[Part] = []
    for title, of_section in sections:
        parts += [f'{title}\n{"=" * len(title)}', *of_section]
    return [*parts, summary(audit)]


def summary(audit: Audit) -> str:
    """Return one line: the claims by verdict, and how many things do not hold."""
    counts = Counter(claim.verdict for claim in audit.claims)
    verdicts = ', '.join(f'{counts[v]} {v}' for v in ClaimVerdict if counts[v])
    return f'{len(audit.claims)} claims: {verdicts}. {len(audit.findings)} findings.'


def _comparisons(comparisons: Sequence[Comparison]) -> list[Part]:
    if not comparisons:
        return ['No MAFormer and its rival print FLOPs of two conventions.']
    rows = []
    for pair in comparisons:
        cells = pair.ours, pair.rival
        row = [f'T{pair.table} {pair.ours.model}, {pair.rival.model}']
        row.append(', '.join(f'{cell.paper} {cell.convention}' for cell in cells))
        row.append(f'{pair.printed_ratio:.2f}')
        for convention in ('total', 'layer'):
            row.append(', '.join(f'{cell.flops(convention):.0f}' for cell in cells))
            row.append(f'{pair.ratio(convention):.2f}')
        rows.append(row)
    heads = ['G', 'printed', 'ratio', 'all total', 'ratio', 'all layer', 'ratio']
    legend = (
        'The tables set MAFormer beside CSWin, which the text calls the previous best. MAFormer-S '
        'is the one of its two depths whose FLOPs are nearest to the printed. Total counts the '
        'products of attention, layer does not.'
    )
    return [TextTable(heads, rows), legend]


def _claims(claims: Sequence[JudgedClaim]) -> list[Part]:
    rows = [[c.claim.place, c.claim.says, c.claim.printed, c.computed, c.verdict] for c in claims]
    heads = ['place', 'claim', 'text', 'tables', '']
    legend = (
        '"text" is what the sentence says, "tables" what the cells give. Unlike rows: the numbers '
        'agree, but one row has token labeling and the other has not. In one reading: of the rows '
        'that the sentence may mean, some agree.'
    )
    return [TextTable(heads, rows), legend]


def _unchecked(claims: Sequence[JudgedClaim]) -> list[Part]:
    rows = [[c.claim.place, c.claim.says, c.claim.printed, c.evidence] for c in claims]
    return [TextTable(['place', 'claim', 'text', 'why not'], rows)]


def _findings(findings: Sequence[Finding]) -> list[Part]:
    rows = [[f.place, f.says, f.evidence] for f in findings]
    heads = ['place', 'printed', 'evidence']
    return [TextTable(heads, rows) if rows else 'None.']


def _sources(audit: Audit) -> list[Part]:
    """Return what differs from every source, what differs from some, and what has no source."""
    counts = Counter(cell.verdict for cell in audit.sourced)
    verdicts = ', '.join(f'{counts[v]} {v}' for v in SourceVerdict)
    partly = [
        [f'T{cell.table} {cell.model}', cell.field, cell.printed, cell.evidence]
        for cell in audit.sourced
        if cell.verdict is SourceVerdict.PARTLY
    ]
    without = ', '.join(unsourced(audit.sourced))
    return [
        f"{len(audit.sourced)} cells of the rivals' rows, against the publications of "
        f'reproduce/paper/sources: {verdicts}. These agree with none:',
        *_findings(audit.sources),
        'These agree with some:',
        TextTable(['row', 'metric', 'printed', 'sources'], partly),
        f'No source here prints an accuracy of: {without or "none"}.',
    ]


def _misprints(misprints: Sequence[MeasuredMisprint]) -> list[Part]:
    rows = [
        [f'T{m.table} {m.model}', m.metric, m.printed, m.likely, f'{m.reason} {m.measured}'.strip()]
        for m in misprints
    ]
    heads = ['row', 'metric', 'printed', 'likely', 'reason, measured']
    return [TextTable(heads, rows)]


def _leads(audit: Audit) -> list[Part]:
    """Return how many leads of MAFormer chance could explain, and which."""
    resolved = sum(lead.resolved for lead in audit.leads)
    beyond = sum(lead.beyond_seeds for lead in audit.leads)
    text = (
        f'In {len(audit.leads)} cells a MAFormer is better than every rival of its group. A test '
        f'on the data set would show {resolved} of these differences, by the sampling errors of '
        f'reproduce/paper/tolerances.toml, and {beyond} are larger than two seeds may differ. The '
        'others:'
    )
    small = [lead for lead in audit.leads if not (lead.resolved and lead.beyond_seeds)]
    heads = ['row', 'metric', 'over', 'by', 'shown from', 'seeds']
    return [text, TextTable(heads, [_lead(lead) for lead in small])]


def _lead(lead: Lead) -> list[str]:
    values = (lead.difference, lead.resolvable, lead.seeds)
    row = f'T{lead.table} {lead.model}'
    return [row, lead.metric, lead.rival, *(f'{value:.2f}' for value in values)]


def _readings(search: Search) -> list[Part]:
    small, *large = search.variants
    rows = [
        [
            ranked.reading.label,
            f'{ranked.fixed}',
            f'{ranked.deviation:.1%}',
            f'{ranked.printed}',
            f'{ranked.best}',
            ', '.join(map(show, nearest(ranked.depths, search.variants[small].depths)[:3])),
            'yes' if ranked.reading.buildable else '',
        ]
        for i, ranked in enumerate(search.ranked)
        if i < _READINGS or ranked.reading in map(Reading, GLOBAL_BRANCHES)
    ]
    sizes = ', '.join(name.rpartition('-')[2] for name in large)
    letter = small.rpartition('-')[2]
    heads = [
        *('reading', f'{sizes} /{search.fixed_cells}', 'off by', f'{letter} /{search.small_cells}'),
        *('best', 'with depths', 'built'),
    ]
    every = sum(ranked.fixed == search.fixed_cells for ranked in search.ranked)
    depths = show(search.variants[small].depths)
    legend = (
        f'{len(search.ranked)} readings by the parameter and FLOP cells of Tables 1, 5, 6 and 7 '
        f'that they meet; {every} meet all {search.fixed_cells} of {sizes}. "off by" is the mean '
        f'distance from those. {letter}: with its depths {depths} as printed, and with those that '
        'meet most, of which the ones nearest to the printed are shown. "built": the constructor '
        'of model.maformer builds it; the others are counted in closed form only. An MLP counts '
        'the same after the local attention and after the fusion.'
    )
    return [legend, TextTable(heads, rows)]


def _list(findings: Sequence[Finding]) -> list[Part]:
    return [
        '\n'.join(
            f'{i:3}. {finding.place}: {finding.says}. {finding.evidence.rstrip(".")}.'
            for i, finding in enumerate(findings, 1)
        )
    ]
