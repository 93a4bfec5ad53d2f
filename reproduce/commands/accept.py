"""`python -m reproduce accept`: make a measured result the reference of its weights."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tomlkit
from typer import Option

from reproduce.base.errors import UserError
from reproduce.base.files import write_atomically
from reproduce.base.folders import EVALUATIONS
from reproduce.commands import options
from reproduce.evaluate.records import Evaluation
from reproduce.judge.lookup import find_record
from reproduce.weights import registry


def accept(
    record: options.Record,
    reason: Annotated[str, Option(help='Why the new value is right.')],
    manifest: options.Manifest = registry.MANIFEST,
    evaluations: options.Evaluations = EVALUATIONS,
    format: options.Format = 'text',
) -> None:
    """Make a measured result the reference of its weights for the regression gate.

    The reference that the manifest has for these weights on these images is replaced; comments and
    order of the file stay.
    """
    if not reason.strip():
        raise UserError('a reference is not replaced without a reason: give --reason.')
    _, evaluation = find_record(record, evaluations)
    accepted = renew(evaluation, reason, manifest)
    if format == 'json':
        options.print_json(accepted)
        return
    print(f'{accepted["name"]}, {accepted["images"]:,} images')
    for metric, change in accepted['changes'].items():
        old, new = change['old'], change['new']
        print(f'{metric}  {old:.2f} -> {new:.2f}  ({new - old:+.2f})')
    print(f'Written: {accepted["manifest"]}.')


def renew(evaluation: Evaluation, reason: str, manifest: Path) -> dict[str, Any]:
    """Replace the reference of an evaluation's weights on its images in a manifest.

    Args:
        reason: why the new value is right; it becomes a part of the reference's source.

    Returns:
        the entry's name, the manifest, the number of images, the source, and the old and new value
        of each metric.

    Raises:
        UserError: if the evaluation is not in fp32 or lacks a metric, or the manifest has no such
            reference.
    """
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
    entry = document['checkpoint'][i]
    reference = entry['reference'][j]
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
    return {
        'name': str(entry['name']),
        'manifest': str(manifest),
        'images': data.images,
        'source': str(reference['source']),
        'changes': {metric: {'old': old[metric], 'new': value} for metric, value in new.items()},
    }
