"""What a record says held against its attestation, and against what is here."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.base.versions import libraries
from reproduce.evaluate.attestation import hashed, parts
from reproduce.evaluate.records import Evaluation, commit_of_checkout
from reproduce.statistics.kept import read
from reproduce.tasks import TASKS

# Metrics that are computed again from the counts of each image agree to this.
_PERCENT = 1e-9


class State(StrEnum):
    """How a part of a record stands."""

    HOLDS = 'holds'
    DIFFERS = 'differs'  # from what was attested: the record or a file of it was changed
    OTHER = 'other here'  # as attested, but this checkout or machine has another
    UNCHECKED = 'unchecked'  # something that the check needs is not here


@dataclass(frozen=True)
class CheckedPart:
    """One part of a record, how it stands, and why."""

    part: str
    state: State
    reason: str = ''

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(
    evaluation: Evaluation,
    folder: Path,
    checkpoint: Path | None = None,
    data: Path | None = None,
) -> list[CheckedPart]:
    """Check each part of a record that can be checked.

    Args:
        folder: of the record and the files beside it.
        checkpoint: the file of the weights, to hold it against their hash.
        data: the data set's folder, to hold it against the fingerprint.

    Raises:
        UserError: if the record has no attestation, or `checkpoint` or `data` cannot be read.
    """
    attested = evaluation.attestation
    if attested is None:
        raise UserError(
            f'{evaluation.stem} has no attestation, as an earlier version wrote it: evaluate again '
            'to have one.'
        )
    checked = {
        part: CheckedPart(part, State.HOLDS)
        if found == attested.parts.get(part)
        else CheckedPart(part, State.DIFFERS, 'what the record says was changed')
        for part, found in parts(evaluation).items()
    }
    for part, name in (
        ('predictions', evaluation.predictions),
        ('statistics', evaluation.statistics),
    ):
        checked[part] = _file(part, folder / name, attested.parts.get(part))
    here = [
        _here('weights', evaluation.checkpoint.sha256, _of_file(checkpoint), '--checkpoint'),
        _here('data', evaluation.data.fingerprint, _fingerprint(evaluation, data), '--data'),
        _here('code', evaluation.provenance.commit, commit_of_checkout(), 'Git'),
        _libraries(evaluation.provenance.versions),
    ]
    for one in here:
        if checked[one.part].state is State.HOLDS:
            checked[one.part] = one
    if checked['metrics'].state is State.HOLDS and checked['statistics'].state is State.HOLDS:
        checked['metrics'] = _metrics(evaluation, folder / evaluation.statistics)
    whole = CheckedPart('attestation', State.HOLDS, attested.short)
    if attested.sha256 != hashed(attested.parts):
        reason = 'the hash is not that of the parts that stand beside it'
        whole = CheckedPart('attestation', State.DIFFERS, reason)
    return [*checked.values(), whole]


def exit_code(checked: list[CheckedPart]) -> int:
    """Return 1 if a part differs from what was attested, and 0 otherwise."""
    return int(any(one.state is State.DIFFERS for one in checked))


def _file(part: str, path: Path, attested: str | None) -> CheckedPart:
    if not path.is_file():
        return CheckedPart(part, State.UNCHECKED, f'{path} is not there')
    if _of_file(path) == attested:
        return CheckedPart(part, State.HOLDS)
    return CheckedPart(part, State.DIFFERS, f'{path} was changed')


def _here(part: str, recorded: str, found: str | None, needed: str) -> CheckedPart:
    if not found:
        return CheckedPart(part, State.UNCHECKED, f'as recorded; comparing it takes {needed}')
    if found == recorded:
        return CheckedPart(part, State.HOLDS)
    return CheckedPart(part, State.OTHER, f'recorded {recorded[:16]}, here {found[:16]}')


def _libraries(recorded: dict[str, str]) -> CheckedPart:
    here = libraries()
    others = [f'{k} {v}, here {here.get(k)}' for k, v in recorded.items() if v != here.get(k)]
    state = State.OTHER if others else State.HOLDS
    return CheckedPart('libraries', state, '; '.join(others))


def _of_file(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}): name the file.') from error


def _fingerprint(evaluation: Evaluation, root: Path | None) -> str | None:
    """Return the fingerprint of the data at `root`, of as many images as were evaluated."""
    if root is None:
        return None
    return TASKS[evaluation.task].load_part(root, evaluation.data.images).fingerprint


def _metrics(evaluation: Evaluation, path: Path) -> CheckedPart:
    """Compute the metrics again from what was counted on each image."""
    found = read(path).statistics.metrics()
    wrong = [
        f'{name} {value}, counted {found.get(name)}'
        for name, value in evaluation.metrics.items()
        if abs(found.get(name, float('inf')) - value) > _PERCENT
    ]
    if wrong:
        return CheckedPart('metrics', State.DIFFERS, '; '.join(wrong))
    return CheckedPart('metrics', State.HOLDS, 'computed again from the counts of each image')
