"""`python -m reproduce audit`: the paper against itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from typer import Option

from reproduce.audit.claims import ClaimVerdict
from reproduce.audit.findings import AuditData, Finding, listed
from reproduce.audit.findings import audit as run_audit
from reproduce.base.folders import RESULTS
from reproduce.base.terminal import Part, TextTable
from reproduce.commands import options


def audit(
    details: Annotated[
        bool, Option('--details', help='Show the evidence, the claims and the readings, too.')
    ] = False,
    results: options.Results = RESULTS,
    format: options.Format = 'text',
) -> None:
    """Check the paper against itself: its text, its tables, and their sources.

    Lists what is not so, ranked by how sure and how large it is. The exit status is 0 even so.
    """
    data, findings = run_audit(results)
    options.show(format, _as_json(data, findings), *_parts(data, findings, details))


def _parts(data: AuditData, findings: Sequence[Finding], details: bool = False) -> list[Part]:
    """Return the findings in their order, and what was checked.

    With `details` follow the evidence of each finding, the claims, and the options of the readings.
    """
    verdicts = Counter(judged.verdict for judged in data.claims)
    checked = [
        f'{len(data.claims)} claims of the text, of which '
        f'{len(data.claims) - verdicts[ClaimVerdict.UNCHECKED]} can be compared with a table and '
        f'{verdicts[ClaimVerdict.HOLDS]} hold',
        f'{len(data.sourced)} cells of baselines',
    ]
    if data.search is not None:
        checked.append(f'{len(data.search.readings):,} readings of the block')
    summary = f'{listed(checked)} were checked.'
    rows = [[str(i), f.certainty, f.extent, f.sentence] for i, f in enumerate(findings, 1)]
    parts: list[Part] = [TextTable(['', 'sure', 'extent', 'finding'], rows), summary]
    if not details:
        return [*parts, 'With --details the evidence follows.']
    for i, finding in enumerate(findings, 1):
        evidence = [f'  * {sentence}' for sentence in finding.evidence]
        parts.append('\n'.join([f'{i}. {finding.title}', finding.sentence, *evidence]))
    claims = [
        [j.claim.place, j.claim.says, j.claim.printed, j.computed, j.verdict] for j in data.claims
    ]
    parts.append(TextTable(['place', 'claim', 'text', 'tables', 'verdict'], claims))
    if data.search is not None:
        options = [
            [name, option, f'{n:,}']
            for name, of in data.search.by_option.items()
            for option, n in of.items()
        ]
        heads = ['option', 'of the block', 'best readings']
        parts.append(TextTable(heads, options, heads[2:]))
    return parts


def _as_json(data: AuditData, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return findings, claims and readings for JSON."""
    return {
        'findings': [finding.model_dump() for finding in findings],
        'claims': [asdict(j) | {'claim': j.claim.model_dump()} for j in data.claims],
        'readings': data.search
        and {
            'number': len(data.search.readings),
            'by_cells_met': data.search.histogram,
            'best_by_option': data.search.by_option,
        },
    }
