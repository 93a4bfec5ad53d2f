"""`python -m reproduce accept`: make a measured result the reference of its weights."""

from datetime import UTC, datetime
from typing import Annotated

import tomlkit
from typer import Option

from reproduce.base.errors import UserError
from reproduce.base.files import write_atomically
from reproduce.base.folders import EVALUATIONS
from reproduce.commands import options
from reproduce.evaluate.attestation import check_attested
from reproduce.judge.lookup import find_record
from reproduce.weights import registry


def accept(
    record: options.Record,
    reason: Annotated[str, Option(help='Why the new value is right.')],
    manifest: options.Manifest = registry.MANIFEST,
    evaluations: options.Evaluations = EVALUATIONS,
) -> None:
    """Make a measured result the reference of its weights for the regression gate.

    The reference that the manifest has for these weights on these images is replaced; comments and
    order of the file stay.
    """
    if not reason.strip():
        raise UserError('a reference is not replaced without a reason: give --reason.')
    path, evaluation = find_record(record, evaluations)
    check_attested(path)
    manifest = manifest.resolve()  # a link to a manifest stays one
    weights, data, measured = evaluation.checkpoint, evaluation.data, evaluation.provenance
    if evaluation.precision != 'fp32':
        raise UserError(
            f'{evaluation.stem} was measured in {evaluation.precision}, the gate measures in fp32: '
            'evaluate again without --amp.'
        )
    found = [
        (i, j)
        for i, entry in enumerate(registry.load_manifest(manifest))
        for j, reference in enumerate(entry.reference)
        if entry.sha256 == weights.sha256 and reference.holds_for(data.fingerprint, data.complete)
    ]
    if len(found) != 1:
        raise UserError(
            f'{manifest} has {len(found)} references of {weights.file} (SHA-256 '
            f'{weights.sha256[:16]}...) on the images of the record; expected one.'
        )
    document = tomlkit.parse(manifest.read_text())
    ((i, j),) = found
    reference = document['checkpoint'][i]['reference'][j]
    old = reference['metrics'].unwrap()
    if missing := sorted(old.keys() - evaluation.metrics.keys()):
        raise UserError(f'the record has no {", ".join(missing)}, which the reference has.')
    new = {metric: evaluation.metrics[metric] for metric in old}
    versions = ''.join(f', {n} {v}' for n, v in measured.versions.items() if n in ('torch', 'timm'))
    reference['metrics'].update(new)
    reference['source'] = (
        f'{reason.strip().rstrip(".")}; accepted {datetime.now(UTC):%Y-%m-%d} from '
        f'{evaluation.stem}: {evaluation.origin}{versions}, `{measured.command}`'
    )
    write_atomically(manifest, tomlkit.dumps(document))
    registry.load_manifest.cache_clear()
    for metric, value in new.items():
        print(f'{metric}  {old[metric]:.2f} -> {value:.2f}  ({value - old[metric]:+.2f})')
    print(f'Written: {manifest}, the reference of {document["checkpoint"][i]["name"]}.')
