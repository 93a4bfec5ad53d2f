"""The regression gate: every released checkpoint still scores what it scored.

With a folder of public weights, also those that are in it.
"""

import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from datasets import shapes
from reproduce.base.errors import CheckpointNotFound, DataNotFound, UserError
from reproduce.base.terminal import Part, TextTable
from reproduce.evaluate import apart, records
from reproduce.evaluate.records import Evaluation
from reproduce.judge.references import check_reference
from reproduce.judge.verdict import Verdict
from reproduce.tasks import TASKS
from reproduce.weights import registry, store
from reproduce.weights.registry import Public, Reference, Released


class Check(NamedTuple):
    """One reference of one released checkpoint, and what its weights score now, in percent."""

    name: str
    data: str
    metric: str
    reference: float
    measured: float | None
    verdict: Verdict
    reason: str
    licence: str


def check(
    processes: int = 1,
    workers: int | None = None,
    data: Path | None = None,
    manifest: Path = registry.MANIFEST,
    output: Path | None = None,
    weights: Path | None = None,
) -> list[Check]:
    """Evaluate each reference of the manifest; the embedded data are drawn for it.

    One that fails is an error of its own and does not keep the others from being evaluated.

    Args:
        data: the folder of a full data set, or of several; references on data that are not there
            are `not-run`.
        output: folder for the records; None keeps none.
        weights: folder of public weights; those that are not in it are `not-run`. None leaves
            public weights out.

    Raises:
        UserError: if the manifest is malformed or has no reference.
    """
    entries = (*registry.load_manifest(manifest), *(registry.load_public() if weights else ()))
    references = [(entry, reference) for entry in entries for reference in entry.reference]
    if not references:
        raise UserError(f'{manifest} has no reference to compare with: add one.')
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        drawn, output = Path(folder), output or Path(folder) / 'records'
        if any(reference.data == 'shapes' for _, reference in references):
            shapes.write(drawn, train=0)
        for number, (entry, reference) in enumerate(references, 1):
            root, where = (data, entry.task) if reference.data == 'full' else (drawn, 'shapes')
            try:
                path = _weights(entry, weights, manifest)
                if root is None:
                    raise DataNotFound(f'--data has no {TASKS[entry.task].validation_set}')
                TASKS[entry.task].load_data(root)  # DataNotFound, if they are not there
                record = apart.evaluate(
                    *(entry.task, entry.model, path, root, entry.arguments, entry.preprocessing),
                    multi_scale=entry.multi_scale,
                    output=output,
                    processes=processes,
                    workers=workers,
                )
                found = _compare(entry, reference, records.load(record))
            except UserError as error:  # the others are still evaluated
                absent = isinstance(error, CheckpointNotFound | DataNotFound)
                verdict = Verdict.NOT_RUN if absent else Verdict.ERROR
                found = dict.fromkeys(reference.metrics, (None, verdict, str(error)))
            checks += [
                Check(entry.name, where, metric, value, *found[metric], entry.licence)
                for metric, value in reference.metrics.items()
            ]
            verdicts = ', '.join(dict.fromkeys(verdict for _, verdict, _ in found.values()))
            done = f'{number} of {len(references)}: {entry.name} on {where}: {verdicts}'
            print(done, file=sys.stderr, flush=True)
    return checks


def _weights(entry: Released, weights: Path | None, manifest: Path) -> Path:
    if isinstance(entry, Public):
        return store.stored(entry, weights)
    return store.obtain(entry, manifest)


def _compare(
    entry: Released, reference: Reference, evaluation: Evaluation
) -> dict[str, tuple[float | None, Verdict, str]]:
    """Return what was measured of each metric of a reference, the verdict, and why."""
    data, verdicts = evaluation.data, check_reference(evaluation, entry, reference).verdicts
    reason = f'{data.images:,} images'
    if not reference.holds_for(data.fingerprint, data.complete):
        reason = (
            f'the images are not those of the reference: {data.images:,} with fingerprint '
            f'{data.fingerprint}, expected {reference.images:,} {reference.fingerprint}'
        )
        verdicts = dict.fromkeys(verdicts, Verdict.ERROR)
    found = dict.fromkeys(
        reference.metrics, (None, Verdict.ERROR, 'the evaluation does not give this metric')
    )
    return found | {m: (evaluation.metrics[m], verdict, reason) for m, verdict in verdicts.items()}


def render(checks: Collection[Check]) -> list[Part]:
    """Return the checks as a table; those that were not run are counted."""
    shown = [check for check in checks if check.verdict is not Verdict.NOT_RUN]
    rows = [
        [
            *(c.name, c.data, c.metric, f'{c.reference:.2f}'),
            '' if c.measured is None else f'{c.measured:.2f}',
            *(c.verdict, c.licence, c.reason),
        ]
        for c in shown
    ]
    heads = ['checkpoint', 'data', 'metric', 'reference', 'measured', 'verdict', 'licence', '']
    parts: list[Part] = [TextTable(heads, rows)] if rows else []
    if any(check.verdict is Verdict.WORSE for check in shown):
        parts.append('If a drop is meant: --output keeps the records, and `accept` takes one.')
    if hidden := len(checks) - len(shown):
        parts.append(f'{hidden} not-run, without weights or data: --format json lists them.')
    return parts
