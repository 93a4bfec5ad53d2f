"""All of the audit in one: each part, and the list of what does not hold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reproduce import paper
from reproduce.audit.claims import ClaimVerdict, JudgedClaim, judge_claim, load_claims
from reproduce.audit.contradictions import contradictions
from reproduce.audit.conventions import Comparison, comparisons, mixed_conventions
from reproduce.audit.findings import Finding, merged
from reproduce.audit.measured import MeasuredTables
from reproduce.audit.misprints import (
    MeasuredMisprint,
    load_misprints,
    measure_misprints,
    measured_otherwise,
)
from reproduce.audit.readings import Reading, Search, count, nearest, search, show, targets
from reproduce.audit.resolution import Lead, leads, unresolved
from reproduce.audit.sources import (
    SourcedCell,
    compare_sources,
    differences,
    load_sources,
    omissions,
)

_LITERAL = Reading('FC all tokens to half')
_NOT_HELD = (ClaimVerdict.FAILS, ClaimVerdict.PARTLY, ClaimVerdict.UNLIKE)


@dataclass(frozen=True)
class Audit:
    """What was found; `findings` is the list of all that does not hold."""

    comparisons: tuple[Comparison, ...]
    claims: tuple[JudgedClaim, ...]
    contradictions: tuple[Finding, ...]
    sourced: tuple[SourcedCell, ...]
    sources: tuple[Finding, ...]
    misprints: tuple[MeasuredMisprint, ...]
    measured_otherwise: tuple[Finding, ...]
    leads: tuple[Lead, ...]
    unresolved: tuple[Finding, ...]
    search: Search
    findings: tuple[Finding, ...]


def audit(results: Path, folder: Path = paper.FOLDER) -> Audit:
    """Hold the paper's text against its tables, and its tables against each other.

    Args:
        results: folder of the measured tables.
        folder: folder of the printed tables, claims, misprints, tolerances and sources.

    Raises:
        UserError: if a file is missing or malformed.
    """
    tables = {number: paper.load_table(number, folder) for number in paper.TABLES}
    measured = MeasuredTables(results)
    claims = [judge_claim(claim, tables) for claim in load_claims(folder)]
    tolerances = paper.load_tolerances(folder)
    small = unresolved([judged.claim for judged in claims], tables, tolerances)
    best = leads(tables, tolerances)
    compared = comparisons(tables, measured)
    contradicting = contradictions(tables, measured)
    sources = load_sources(folder / 'sources')
    sourced = compare_sources(tables, sources)
    unlike = [*differences(sourced), *omissions(tables, sources)]
    listed = load_misprints(folder)
    misprints = measure_misprints(listed, measured)
    otherwise = measured_otherwise(measured, listed)
    searched = search(*targets(tables, measured, tolerances))
    findings = [
        *mixed_conventions(tables, measured, compared),
        *_claimed([claim for claim in claims if claim.verdict in _NOT_HELD]),
        *small,
        *merged(
            [
                *map(_finding, misprints),
                *_of_readings(searched),
                *contradicting,
                *unlike,
                *otherwise,
            ]
        ),
    ]
    return Audit(
        *map(tuple, (compared, claims, contradicting, sourced, unlike, misprints, otherwise)),
        tuple(best),
        tuple(small),
        searched,
        tuple(findings),
    )


def _claimed(claims: Sequence[JudgedClaim]) -> list[Finding]:
    """Return a finding for each, those that the text makes twice as one."""
    findings: dict[tuple[str, str], Finding] = {}
    for judged in claims:
        claim = judged.claim
        key = claim.cells, claim.printed
        if key in findings:
            findings[key] = replace(findings[key], place=f'{findings[key].place}; {claim.place}')
            continue
        says = f'{claim.says}: {claim.printed}' if claim.printed else claim.says
        findings[key] = Finding(claim.place, f'{says} ({judged.verdict})', judged.evidence)
    return list(findings.values())


def _finding(misprint: MeasuredMisprint) -> Finding:
    likely = f', likely {misprint.likely}' if misprint.likely else ''
    measured = f' Measured: {misprint.measured}.' if misprint.measured else ''
    return Finding(
        f'Table {misprint.table}, {misprint.model}',
        f'{misprint.metric} {misprint.printed}{likely}',
        misprint.reason + measured,
        (misprint.key,),
    )


def _of_readings(searched: Search) -> list[Finding]:
    """Return findings about the block: the smallest model's depths, the size of GLD's layer."""
    small = next(iter(searched.variants))
    variant = searched.variants[small]
    built = next(r for r in searched.ranked if r.reading == Reading())
    literal = next(r for r in searched.ranked if r.reading == _LITERAL)
    most = max(searched.ranked, key=lambda r: r.fixed + r.printed)
    cells = searched.small_cells
    findings = []
    if built.printed < built.best:
        total = searched.fixed_cells + cells
        findings.append(
            Finding(
                f'Table 1, {small}',
                f'depths {show(variant.depths)}',
                f'They meet {built.printed} of the {cells} parameter and FLOP cells of {small}; '
                f'{", ".join(map(show, nearest(built.depths, variant.depths)))} meet {built.best}. '
                f'Of {len(searched.ranked)} readings of the block none meets more than '
                f'{most.fixed + most.printed} of all {total} cells with the depths as printed; '
                f'with others the best meets {searched.ranked[0].fixed + searched.ranked[0].best}.',
                ((1, small, 'depths'),),
            )
        )
    if literal.fixed < built.fixed:
        params = [
            float(count(reading, variant.embed_dims, variant.depths, (224, 224))[0]) / 1e6
            for reading in (literal.reading, built.reading)
        ]
        findings.append(
            Finding(
                '3.2 Global',
                "GLD's layer connects all tokens, as many as half of them",
                f'From all 56x56 and 28x28 tokens {small} without its heads has {params[0]:.1f} M '
                f'parameters, as built {params[1]:.1f} M. So it meets {literal.fixed} of the '
                f'{searched.fixed_cells} cells of the larger models; from a 14x14 grid it meets '
                f'{built.fixed}.',
            )
        )
    return findings
