"""One hash over a record and its files, and the check of what was changed since."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.base.versions import libraries, sources_sha256
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


@dataclass(frozen=True)
class CheckedPart:
    """A part of a record or of what belongs to it, the result of its check, and why."""

    part: str
    state: State
    reason: str = ''


def attest(evaluation: Evaluation, predictions: bytes, statistics: bytes) -> Attestation:
    """Return the attestation of a measurement, from its record and the content of its files."""
    files = {'predictions': predictions, 'statistics': statistics}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    of_all = parts(evaluation.model_dump(mode='json')) | digests
    return Attestation(sha256=_hashed(of_all), parts=of_all)


def parts(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the hash of each field of a record, in 64 hex digits.

    The attestation itself and the names of the files are left out.

    Args:
        content: the record as JSON has it.
    """
    left_out = ('attestation', *_FILES)
    return {name: _hashed(value) for name, value in content.items() if name not in left_out}


def verify(
    path: Path, checkpoint: Path | None = None, data: Path | None = None
) -> list[CheckedPart]:
    """Check everything that a record and its files say, as far as it can be checked.

    Args:
        path: the record, with its files in the same folder.
        checkpoint: the file of the weights, to compare its hash.
        data: the data set's folder, to compare its fingerprint.

    Raises:
        UserError: if the record has no attestation, or `checkpoint` or `data` cannot be read.
    """
    evaluation = records.load(path)
    attested = evaluation.attestation
    if attested is None:
        raise UserError(
            f'{evaluation.stem} has no attestation because an earlier version wrote it: evaluate '
            'again to get one.'
        )
    record = _record(evaluation, json.loads(path.read_bytes()))
    files = [_file(name, evaluation, path.parent) for name in _FILES]
    whole = CheckedPart('attestation', State.HOLDS, attested.short)
    if attested.sha256 != _hashed(attested.parts):
        whole = CheckedPart('attestation', State.DIFFERS, 'it is not the hash of its parts')
    checks = [whole, record, *files]
    if record.state is State.HOLDS and files[1].state is State.HOLDS:
        checks.append(_metrics(evaluation, path.parent / evaluation.statistics))
    provenance, here = evaluation.provenance, libraries()
    others = [
        f'{name} {version}, here {here.get(name)}'
        for name, version in provenance.versions.items()
        if version != here.get(name)
    ]
    found_data = data and TASKS[evaluation.task].load_part(data, evaluation.data.images).fingerprint
    return [
        *checks,
        _here('weights', evaluation.checkpoint.sha256, checkpoint and _sha256(checkpoint)),
        _here('data', evaluation.data.fingerprint, found_data),
        _here('code', provenance.sources, sources_sha256() if provenance.sources else None),
        CheckedPart('libraries', State.OTHER if others else State.HOLDS, '; '.join(others)),
    ]


def _record(evaluation: Evaluation, content: Mapping[str, Any]) -> CheckedPart:
    """Check the fields of the record."""
    attested = {k: v for k, v in evaluation.attestation.parts.items() if k not in _FILES}
    is_old = 'configuration' in attested
    found = _old_parts(evaluation.model_dump(mode='json')) if is_old else parts(content)
    if changed := [k for k in attested | found if attested.get(k) != found.get(k)]:
        return CheckedPart('record', State.DIFFERS, f'changed since: {", ".join(changed)}')
    if is_old:
        return CheckedPart(
            'record',
            State.HOLDS,
            f'an earlier version attested only {", ".join(attested)}: not whether the data are '
            'complete, problems, classes, warnings, the name of the weights, date, command, device',
        )
    return CheckedPart('record', State.HOLDS)


def _old_parts(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of the parts of a record that earlier versions attested."""
    provenance, data = content['provenance'], content['data']
    configuration = (
        *('task', 'system', 'model', 'arguments', 'precision', 'preprocessing'),
        *('overridden', 'from_weights'),
    )
    compiled = {'compiled': True} if provenance['compiled'] else {}
    return {
        'weights': content['checkpoint']['sha256'],
        'data': _hashed({name: data[name] for name in ('split', 'images', 'fingerprint')}),
        'code': _hashed(provenance['commit']),
        'configuration': _hashed(
            {name: content[name] for name in configuration}
            | {name: provenance[name] for name in ('batch_size', 'threads')}
            | compiled
        ),
        'libraries': _hashed(provenance['versions']),
        'metrics': _hashed({k: content[k] for k in ('metrics', 'intervals', 'per_class')}),
    }


def _file(part: str, evaluation: Evaluation, folder: Path) -> CheckedPart:
    name = getattr(evaluation, part)
    path = folder / name
    if not path.is_file():
        reason = f'{path} does not exist' if name else 'not recorded'
        return CheckedPart(part, State.UNCHECKED, reason)
    if sha256_of(path) == evaluation.attestation.parts.get(part):
        return CheckedPart(part, State.HOLDS)
    return CheckedPart(part, State.DIFFERS, f'{path} was changed')


def _metrics(evaluation: Evaluation, statistics: Path) -> CheckedPart:
    """Compute the metrics again from what was counted on each image."""
    found = kept.read(statistics).statistics.metrics()
    wrong = [
        f'{name} {value}, counted {found.get(name)}'
        for name, value in evaluation.metrics.items()
        if abs(found.get(name, float('inf')) - value) > _PRECISION
    ]
    if wrong:
        return CheckedPart('metrics', State.DIFFERS, '; '.join(wrong))
    return CheckedPart('metrics', State.HOLDS, 'computed again from the counts of each image')


def _here(part: str, recorded: str, found: str | None) -> CheckedPart:
    if found is None:
        reason = {'weights': 'needs --checkpoint', 'data': 'needs --data', 'code': 'not recorded'}
        return CheckedPart(part, State.UNCHECKED, reason[part])
    if found == recorded:
        return CheckedPart(part, State.HOLDS)
    return CheckedPart(part, State.OTHER, f'recorded {recorded[:16]}, here {found[:16]}')


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}): name the file.') from error


def _hashed(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
