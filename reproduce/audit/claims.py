"""The claims of the paper's text, recomputed from its tables."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel

from reproduce import paper
from reproduce.audit.rows import Tables, best_rivals, find_row, number
from reproduce.base.files import NumberText
from reproduce.paper import Printed, Row

_COMPARISONS: dict[str, Callable[[Decimal, Decimal], bool]] = {
    'above': operator.gt,
    'below': operator.lt,
    'at most': operator.le,
    'similar': lambda ours, theirs: ours <= Decimal('1.1') * theirs,
}


class ClaimVerdict(StrEnum):
    """How a claim compares with the tables."""

    HOLDS = 'holds'
    FAILS = 'does not hold'
    PARTLY = 'in one reading'  # the sentence may mean several rows, and some agree
    UNLIKE = 'unlike rows'  # holds, but only one of the rows is of a model with token labeling
    UNCHECKED = 'cannot be checked'


class Claim(BaseModel, frozen=True):
    """A statement of the text.

    Attributes:
        place: section or caption, and the sentence in it.
        says: what it is about.
        printed: the number in the text; '' for a comparison in words.
        relation: what the text says of the row's metric: that it 'is' the number, that it is that
            much 'over' the rival's, or that it is 'above', 'below', 'at most' or 'similar' to (at
            most 10 % more than) the rival's. A row that 'leads' is better than all rivals of its
            group in every accuracy. '' where no table has the number.
        table, row, metric, rival: what is compared; `rival` may name several rows that the sentence
            may mean, separated by ' or '.
        note: how it was read, or why it cannot be checked.
        finding: the finding that it belongs to, where this does not follow from its verdict;
            'token_labeling' where one of the rows is of a model with it, and another is not.
    """

    place: str
    says: str
    printed: str
    relation: Literal['', 'is', 'over', 'above', 'below', 'at most', 'similar', 'leads']
    table: NumberText
    row: str
    metric: str
    rival: str
    note: str
    finding: str


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and what the tables say: the recomputed values, and how they were computed."""

    claim: Claim
    verdict: ClaimVerdict
    computed: str
    evidence: str


def judge_claims(tables: Tables) -> list[JudgedClaim]:
    """Return the claims of `claims.csv`, in the order of the text, recomputed from `tables`."""
    return [_judge(claim, tables) for claim in paper.lines_of('claims.csv', Claim)]


def _judge(claim: Claim, tables: Tables) -> JudgedClaim:
    """Recompute a claim; a number holds when the recomputed one rounds to it."""
    if not claim.relation:
        return JudgedClaim(claim, ClaimVerdict.UNCHECKED, '', claim.note)
    row = find_row(tables, int(claim.table), claim.row)
    if claim.relation == 'leads':
        compared = [_leads(row, tables)]
    else:
        rivals = [find_row(tables, row.table, name) for name in claim.rival.split(' or ') if name]
        compared = [_compare(claim, row, rival) for rival in rivals or [None]]
    held, computed, evidence = zip(*compared, strict=True)
    if not any(held):
        verdict = ClaimVerdict.FAILS
    elif claim.finding == 'token_labeling':
        verdict = ClaimVerdict.UNLIKE
    else:
        verdict = ClaimVerdict.HOLDS if all(held) else ClaimVerdict.PARTLY
    return JudgedClaim(claim, verdict, ' or '.join(computed), '; '.join(evidence))


def _compare(claim: Claim, row: Row, rival: Row | None) -> tuple[bool, str, str]:
    """Return whether a claim holds, the recomputed value, and how it was computed."""
    ours = number(row, claim.metric)
    if rival is None:
        return _rounds_to(ours, claim.printed), str(ours), f'the cell is {ours}'
    theirs = number(rival, claim.metric)
    if claim.relation == 'over':
        found = ours - theirs
        return _rounds_to(found, claim.printed), str(found), f'{ours} - {theirs} = {found}'
    held = _COMPARISONS[claim.relation](ours, theirs)
    return held, 'yes' if held else 'no', f'{row.model} has {ours} and {rival.model} {theirs}'


def _leads(row: Row, tables: Tables) -> tuple[bool, str, str]:
    behind = [
        f'{column} is {number(row, column)}, and {rival.model} has {number(rival, column)}'
        for column, rival in best_rivals(tables, row).items()
        if number(row, column) <= number(rival, column)
    ]
    return not behind, 'no' if behind else 'yes', '; '.join(behind)


def _rounds_to(value: Decimal, printed: str) -> bool:
    return abs(value - Decimal(printed)) <= Decimal(str(Printed(printed).half_unit))
