"""The claims of the paper's text, recomputed from its tables and judged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from reproduce import paper
from reproduce.audit.expressions import Result, evaluate
from reproduce.audit.rows import Tables, same_model
from reproduce.base.errors import UserError
from reproduce.base.files import read_csv
from reproduce.paper import Printed, Row


class ClaimVerdict(StrEnum):
    """The states of a claim."""

    HOLDS = 'holds'
    FAILS = 'does not hold'
    PARTLY = 'in one reading'  # of several readings not all hold
    UNLIKE = (
        'unlike rows'  # the numbers agree, but one row has token labeling and the other has not
    )
    UNCHECKED = 'cannot be checked'


class Claim(BaseModel):
    """A statement of the text.

    Attributes:
        place: section or caption, and the sentence in it.
        says: what it is about.
        printed: the number as printed; empty for a comparison in words.
        cells: the expression over table cells, alternative readings separated by ' | '; empty
            where no cell bears on it.
        note: how it was read, or why it cannot be checked.
    """

    model_config = ConfigDict(frozen=True)
    place: str
    says: str
    printed: str
    cells: str
    note: str


@dataclass(frozen=True)
class JudgedClaim:
    """`computed` is what the tables give, a value for each reading; `evidence` says why."""

    claim: Claim
    verdict: ClaimVerdict
    computed: str
    evidence: str


def load_claims(folder: Path = paper.FOLDER) -> list[Claim]:
    """Return the claims of `claims.csv`, in the order of the text.

    Raises:
        UserError: if the file is missing or malformed, or a claim lacks what its kind needs.
    """
    path = folder / 'claims.csv'
    claims = []
    for line, claim in read_csv(path, Claim):
        if not claim.place or not claim.says:
            raise UserError(f'{path}, line {line}: a claim needs a place and what it says.')
        if not claim.cells and not claim.note:
            raise UserError(
                f'{path}, line {line}: a claim without cells needs a note that says why.'
            )
        claims.append(claim)
    return claims


def judge_claim(claim: Claim, tables: Tables) -> JudgedClaim:
    """Recompute `claim` from `tables`.

    A number holds when what the cells give rounds to it at its printed digits.

    Raises:
        UserError: if its expression is malformed, or its printed value does not suit it.
    """
    if not claim.cells:
        return JudgedClaim(claim, ClaimVerdict.UNCHECKED, '', claim.note)
    readings = claim.cells.split(' | ')
    try:
        results = [evaluate(reading, tables) for reading in readings]
    except UserError as error:
        raise UserError(f'{_name(claim)}: {error}') from None
    held = [_agrees(claim, result) for result in results]
    computed = ' or '.join(_text(result.value) for result in results)
    evidence = '; '.join(_equation(result) for result in results)
    if not any(held):
        return JudgedClaim(claim, ClaimVerdict.FAILS, computed, _join(evidence, claim.note))
    reading, result = next(
        pair for pair, ok in zip(zip(readings, results, strict=True), held, strict=True) if ok
    )
    if unlike := _unlike(claim, reading, result, tables):
        return JudgedClaim(claim, ClaimVerdict.UNLIKE, computed, _join(evidence, unlike))
    verdict = ClaimVerdict.HOLDS if all(held) else ClaimVerdict.PARTLY
    return JudgedClaim(claim, verdict, computed, _join(evidence, claim.note))


def token_labeling(row: Row, tables: Tables) -> str | None:
    """'true' or 'false', for rows outside Table 4 that of the same model and Top-1 in it.

    None where Table 4 does not tell.
    """
    if row.table == 4:
        return row.description['token_labeling']
    found = {
        twin.description['token_labeling']
        for twin in tables.get(4, ())
        if same_model(twin, row) and twin.cells['top1'] == row.cells.get('top1')
    }
    return found.pop() if len(found) == 1 else None


def _name(claim: Claim) -> str:
    return f"claims.csv, '{claim.place}: {claim.says}'"


def _agrees(claim: Claim, result: Result) -> bool:
    if isinstance(result.value, bool) != (not claim.printed):
        raise UserError(
            f'{_name(claim)}: a comparison has nothing in `printed`, and a number has its digits '
            'there.'
        )
    if isinstance(result.value, bool):
        return result.value
    try:
        half_unit = Decimal(str(Printed(claim.printed).half_unit))
        return abs(result.value - Decimal(claim.printed)) <= half_unit
    except InvalidOperation:
        raise UserError(f"{_name(claim)}: '{claim.printed}' is not a number.") from None


def _unlike(claim: Claim, reading: str, result: Result, tables: Tables) -> str:
    """Return what the comparison of a token-labeled with a plain model comes to among like rows."""
    if '.top1' not in reading and 'leads(' not in reading:
        return ''
    labels = {token_labeling(row, tables) for row in result.rows}
    if not {'true', 'false'} <= labels:
        return ''
    labeled = [row for row in result.rows if token_labeling(row, tables) == 'true']
    plain = next(row for row in result.rows if token_labeling(row, tables) == 'false')
    reason = f'{labeled[0].model} has token labeling, {plain.model} has not'
    for row in labeled:
        if _plain_twin(row, tables) is None:
            return f'{reason}; Table 4 prints no {row.model} without it'
    alike = {n: [_plain_twin(row, tables) or row for row in rows] for n, rows in tables.items()}
    fair = evaluate(reading, alike)
    verdict = 'holds' if _agrees(claim, fair) else 'does not hold'
    return f'{reason}; without it {_equation(fair)}, and the claim {verdict}'


def _plain_twin(row: Row, tables: Tables) -> Row | None:
    """`row` with the Top-1 that Table 4 prints for its model without token labeling."""
    if token_labeling(row, tables) != 'true':
        return None
    twins: Sequence[Row] = [
        twin
        for twin in tables.get(4, ())
        if same_model(twin, row) and twin.description['token_labeling'] == 'false'
    ]
    return replace(row, cells={**row.cells, 'top1': twins[0].cells['top1']}) if twins else None


def _equation(result: Result) -> str:
    if isinstance(result.value, bool):
        return result.shown
    value = _text(result.value)
    return value if result.shown == value else f'{result.shown} = {value}'


def _text(value: Decimal | bool) -> str:
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    return str(value)


def _join(*parts: str) -> str:
    return '; '.join(part.rstrip('.') for part in parts if part)
