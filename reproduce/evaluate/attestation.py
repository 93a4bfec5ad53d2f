"""One hash over everything that a measurement rests on."""

import hashlib
import json
from typing import Any

from reproduce.evaluate.records import Attestation, Evaluation


def attest(evaluation: Evaluation, predictions: bytes, statistics: bytes) -> Attestation:
    """Return the attestation of a measurement, by the files that are kept beside its record."""
    of_files = {'predictions': _digest(predictions), 'statistics': _digest(statistics)}
    of_all = parts(evaluation) | of_files
    return Attestation(sha256=hashed(of_all), parts=of_all)


def parts(evaluation: Evaluation) -> dict[str, str]:
    """Return the hash of each part that a record itself holds, in 64 hex digits.

    They are weights, data (its fingerprint), code (the commit, and whether files were changed
    since), configuration (model, preprocessing, precision, batches), libraries (their versions) and
    metrics (with intervals and single classes).
    """
    content = evaluation.model_dump(mode='json')
    provenance, data = content['provenance'], content['data']
    return {
        'weights': evaluation.checkpoint.sha256,
        'data': hashed({name: data[name] for name in ('split', 'images', 'fingerprint')}),
        'code': hashed(provenance['commit']),
        'configuration': hashed(
            {
                **{
                    name: content[name]
                    for name in (
                        *('task', 'system', 'model', 'arguments', 'precision', 'preprocessing'),
                        *('overridden', 'from_weights'),
                    )
                },
                **{name: provenance[name] for name in ('batch_size', 'threads')},
                **({'compiled': True} if provenance['compiled'] else {}),
            }
        ),
        'libraries': hashed(provenance['versions']),
        'metrics': hashed({name: content[name] for name in ('metrics', 'intervals', 'per_class')}),
    }


def hashed(content: Any) -> str:
    """Return the SHA-256 of plain data as JSON."""
    return _digest(json.dumps(content, sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
