"""One hash over a record and its files, and the check of what was changed since."""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from datasets.subset import Split
from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.base.versions import sources_sha256
from reproduce.evaluate import records
from reproduce.evaluate.records import Attestation, Evaluation
from reproduce.statistics import kept
from reproduce.tasks import TASKS

# Metrics that are computed again from the counts of each image agree to this, in percent.
_PRECISION = 1e-9

_FILES = ('predictions', 'statistics')


class State(StrEnum):
    """The result of a check."""

    HOLDS = 'holds'
    DIFFERS = 'differs'  # from what was attested: the record or a file of it was changed
    OTHER = 'other here'  # as attested, but this checkout or machine has another
    UNCHECKED = 'unchecked'  # something that the check needs is missing


class CheckedPart(NamedTuple):
    """A part of a record or of what belongs to it, the result of its check, and why."""

    part: str
    state: State
    reason: str = ''


def attest(evaluation: Evaluation, predictions: bytes, statistics: bytes) -> Attestation:
    """Return the attestation of a measurement, from its record and the content of its files."""
    of_all = _parts(evaluation.model_dump(mode='json'))
    for name, content in zip(_FILES, (predictions, statistics), strict=True):
        of_all[name] = hashlib.sha256(content).hexdigest()
    return Attestation(sha256=content_sha256(of_all), parts=of_all)


def verify(
    path: Path, checkpoint: Path | None = None, data: Path | None = None
) -> list[CheckedPart]:
    """Check everything that a record and its files say, as far as it can be checked.

    Args:
        path: the record, with its files in the same folder.
        checkpoint: the file of the weights, to compare its hash.
        data: the data set's folder, to compare its fingerprint.

    Raises:
        UserError: if the record has no attestation of all its fields, or `data` cannot be read.
    """
    evaluation = records.load(path)
    attested = evaluation.attestation
    if attested is None or 'task' not in attested.parts:
        raise UserError(
            f'{evaluation.stem} has no attestation of all its fields: evaluate again to get one.'
        )
    found = _parts(json.loads(path.read_bytes()))
    known = {name: digest for name, digest in attested.parts.items() if name not in _FILES}
    changed = [name for name in known | found if known.get(name) != found.get(name)]
    record = CheckedPart('record', State.HOLDS)
    if changed:
        record = CheckedPart('record', State.DIFFERS, f'changed since: {", ".join(changed)}')
    checks = [_compared('attestation', attested.sha256, content_sha256(attested.parts)), record]
    for name in _FILES:
        file = path.parent / getattr(evaluation, name)
        checks.append(_compared(name, attested.parts.get(name), _sha256(file)))
    hashes: Mapping[str, str] = {}
    if not changed and checks[-1].state is State.HOLDS:
        images = kept.read(file)
        hashes = images.hashes
        wrong = differing_metrics(evaluation, images.statistics.metrics())
        state = State.DIFFERS if wrong else State.HOLDS
        again = wrong or 'computed again from the counts of each image'
        checks.append(CheckedPart('metrics', state, again))
    split, fingerprint = None, None
    if data is not None:
        split = TASKS[evaluation.task].load_part(data, evaluation.data.images)
        fingerprint = split.fingerprint
    sources = evaluation.provenance.sources
    return [
        *checks,
        _compared('weights', evaluation.checkpoint.sha256, _sha256(checkpoint), State.OTHER),
        _compared('data', evaluation.data.fingerprint, fingerprint, State.OTHER),
        _check_bytes(evaluation.data.sha256, hashes, split),
        _compared('code', sources, sources and sources_sha256(), State.OTHER),
    ]


def differing_metrics(evaluation: Evaluation, counted: Mapping[str, float]) -> str:
    """Return which metrics of a record are not those that were `counted`, '' if all are."""
    return '; '.join(
        f'{name} {value}, counted {counted.get(name)}'
        for name, value in evaluation.metrics.items()
        if abs(counted.get(name, float('inf')) - value) > _PRECISION
    )


def content_sha256(content: Any) -> str:
    """Return the SHA-256 of a value as JSON, with the keys in order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_attested(path: Path, required: bool = False) -> None:
    """Check that a record and its files are what was attested, before they are published.

    Args:
        required: whether a record without an attestation is refused, too.

    Raises:
        UserError: if something differs.
    """
    if not required and records.load(path).attestation is None:
        return
    differs = [f'{one.part}, {one.reason}' for one in verify(path) if one.state is State.DIFFERS]
    if differs:
        raise UserError(f'{path} does not match its attestation: {"; ".join(differs)}.')


def _check_bytes(recorded: str, hashes: Mapping[str, str], data: Split | None) -> CheckedPart:
    found = data.hashes() if data else {}
    digest = content_sha256(found) if found else None
    checked = _compared('bytes', recorded, digest, State.OTHER)
    differ = [name for name in found if hashes and found[name] != hashes.get(name)]
    if differ:
        return checked._replace(reason=f'{len(differ):,} of {len(found):,}, first {differ[0]}')
    return checked


def _parts(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the hash of each field of a record that does not name a file of it, by name."""
    left_out = ('attestation', *_FILES)
    return {name: content_sha256(value) for name, value in content.items() if name not in left_out}


def _compared(
    part: str, recorded: str | None, found: str | None, otherwise: State = State.DIFFERS
) -> CheckedPart:
    if not found:
        return CheckedPart(part, State.UNCHECKED, 'not given, not recorded or not there')
    if found == recorded:
        return CheckedPart(part, State.HOLDS)
    return CheckedPart(part, otherwise, f'attested {(recorded or "")[:16]}, found {found[:16]}')


def _sha256(path: Path | None) -> str | None:
    return sha256_of(path) if path is not None and path.is_file() else None
