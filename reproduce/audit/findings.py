"""What a finding is, and how findings are ranked."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Certainty(StrEnum):
    """How sure a finding is, the surest first."""

    CERTAIN = 'certain'  # follows from printed numbers, of the paper and of its sources
    COUNTED = 'counted'  # also rests on counts of networks, in every reading of the block
    LIKELY = 'likely'  # the best explanation of several, or rests on an assumption that is named


class Extent(StrEnum):
    """How much a finding changes, the largest first."""

    RESULT = 'main result'  # a result of the abstract or of the contributions
    COMPARISON = 'comparison'  # a comparison or a claim of a section
    NUMBER = 'number'  # single numbers, from which the paper concludes nothing


@dataclass(frozen=True)
class Finding:
    """Something in the paper that is not so.

    Attributes:
        title: a few words.
        sentence: what is not so, with its numbers.
        evidence: the sentences that show it, with theirs.
        certainty, extent: how sure it is, and how large.
    """

    title: str
    sentence: str
    evidence: tuple[str, ...]
    certainty: Certainty
    extent: Extent


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings by how sure and how large they are, those that are both first."""
    certainties, extents = list(Certainty), list(Extent)

    def rank(finding: Finding) -> tuple[int, int]:
        extent = extents.index(finding.extent)
        return certainties.index(finding.certainty) + extent, extent

    return sorted(findings, key=rank)


def listed(values: Iterable[object]) -> str:
    """Return values as a list in a sentence: '1, 2 and 3'."""
    *first, last = map(str, values)
    return f'{", ".join(first)} and {last}' if first else last
