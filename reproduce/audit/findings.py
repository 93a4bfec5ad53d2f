"""Things that do not hold, each with its evidence."""

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Finding:
    """Something that does not hold: where, what, and why one can know.

    `cells` are those (table, model, metric) of which one would have to be another.
    """

    place: str
    says: str
    evidence: str
    cells: tuple[tuple[int, str, str], ...] = ()


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return one finding for each suspected cell, which has all the evidence about it."""
    result: list[Finding] = []
    for finding in findings:
        for i, first in enumerate(result):
            if set(first.cells) & set(finding.cells):
                result[i] = replace(first, evidence=f'{first.evidence} {_further(first, finding)}')
                break
        else:
            result.append(finding)
    return result


def _further(first: Finding, finding: Finding) -> str:
    if finding.place == first.place and first.says.startswith(finding.says):
        return finding.evidence
    return f'{finding.place}: {finding.says}. {finding.evidence}'
