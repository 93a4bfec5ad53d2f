"""The regression gate: every released checkpoint still scores what it scored.

With a folder of weights, the public ones too: those that lie there.
"""

import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import shapes
from reproduce.base.errors import CheckpointNotFound, DataNotFound, UserError
from reproduce.base.terminal import Part, TextTable
from reproduce.evaluate import apart, records
from reproduce.judge.references import check_reference
from reproduce.judge.verdict import Verdict, exit_status
from reproduce.statistics import significance
from reproduce.statistics.paired import Difference
from reproduce.tasks import TASKS
from reproduce.weights import registry, store


@dataclass(frozen=True)
class Check:
    """One reference of one released checkpoint, and what its weights score now, in percent."""

    name: str
    data: str
    metric: str
    reference: float
    measured: float | None
    verdict: Verdict
    licence: str
    reason: str = ''

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(
    processes: int = 1,
    workers: int | None = None,
    data: Path | None = None,
    manifest: Path | None = None,
    output: Path | None = None,
    weights: Path | None = None,
) -> list[Check]:
    """Evaluate each reference of the manifest; the embedded data are made for it.

    One that fails is its own error and does not keep the others from being evaluated.

    Args:
        data: the folder of a full data set, or of several; references on what is not there are
            `not-run`.
        manifest: another than `registry.MANIFEST`.
        output: folder for the records; None keeps none.
        weights: folder of public weights; those that do not lie there are `not-run`. None leaves
            public weights out.

    Raises:
        UserError: if the manifest is malformed or has no reference, or `weights` is no folder.
    """
    manifest = manifest or registry.MANIFEST
    entries = registry.load_manifest(manifest)
    if weights is not None:
        if not weights.is_dir():
            raise UserError(f'{weights} is not a folder: expected one with public weights.')
        entries += registry.load_public()
    if not any(entry.reference for entry in entries):
        raise UserError(f'{manifest} has no reference to hold anything against: add one.')
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        if any(reference.data == 'shapes' for entry in entries for reference in entry.reference):
            shapes.write(Path(folder), train=0)
        for entry in entries:
            for reference in entry.reference:
                root = data if reference.data == 'full' else Path(folder)
                try:
                    path = _weights(entry, manifest, weights)
                    kept = output or Path(folder) / 'records'
                    record = _evaluate(entry, path, root, kept, processes, workers)
                    checks += _compared(entry, reference, record, manifest)
                except (CheckpointNotFound, DataNotFound) as error:
                    checks += _unmeasured(entry, reference, Verdict.NOT_RUN, error)
                except UserError as error:  # the others still count
                    checks += _unmeasured(entry, reference, Verdict.ERROR, error)
    return checks


def _weights(entry: registry.Released, manifest: Path, folder: Path | None) -> Path:
    if isinstance(entry, registry.Public):
        return store.stored(entry, folder)
    return store.obtain(entry, manifest)


def _evaluate(
    entry: registry.Released,
    path: Path,
    root: Path | None,
    output: Path,
    processes: int,
    workers: int | None,
) -> Path:
    """Evaluate released weights in a process of its own; return the path of the record.

    Raises:
        DataNotFound: if its data are not in the folder `root`.
        UserError: if the evaluation fails.
    """
    if root is None:
        raise DataNotFound(f'it takes {TASKS[entry.task].validation_set} at --data')
    TASKS[entry.task].load_data(root)
    return apart.evaluate(
        entry.task,
        entry.model,
        path,
        root,
        output,
        entry.arguments,
        entry.preprocessing,
        entry.multi_scale,
        processes=processes,
        workers=workers,
    )


def _unmeasured(
    entry: registry.Released,
    reference: registry.Reference,
    verdict: Verdict,
    error: Exception,
) -> list[Check]:
    data, reason = _data(entry, reference), f'{error}'.splitlines()[0]
    return [
        Check(entry.name, data, metric, value, None, verdict, entry.licence, reason)
        for metric, value in reference.metrics.items()
    ]


def _data(entry: registry.Released, reference: registry.Reference) -> str:
    return entry.task if reference.data == 'full' else reference.data


def _compared(
    entry: registry.Released, reference: registry.Reference, record: Path, manifest: Path
) -> list[Check]:
    evaluation = records.load(record)
    data = evaluation.data
    fits = reference.holds_for(data.fingerprint, data.complete)
    reason = f'{data.images:,} images'
    if not fits:
        reason = (
            f'the images are not those of the reference: {data.images:,} with fingerprint '
            f'{data.fingerprint}, expected {reference.images:,}'
            + (f' with {reference.fingerprint}' if reference.fingerprint else '')
        )
    verdicts = check_reference(evaluation, entry, reference).verdicts
    tested: dict[str, Difference] = {}
    if fits and reference.statistics:
        tested = significance.of_reference(
            reference, (record.parent / evaluation.statistics).read_bytes(), manifest
        )
        verdicts |= {name: significance.verdict(d) for name, d in tested.items()}
    return [
        Check(
            name=entry.name,
            data=_data(entry, reference),
            metric=metric,
            reference=target,
            measured=evaluation.metrics.get(metric),
            verdict=verdicts.get(metric, Verdict.ERROR) if fits else Verdict.ERROR,
            licence=entry.licence,
            reason=_reason(reason, metric in verdicts, tested.get(metric)),
        )
        for metric, target in reference.metrics.items()
    ]


def _reason(images: str, measured: bool, tested: Difference | None) -> str:
    if not measured:
        return 'the evaluation does not give this metric'
    return images if tested is None else f'{images}; {significance.sentence(tested)}'


def exit_code(checks: Collection[Check]) -> int:
    """0, or 1 if a check is `worse`, or 2 if one is an `error`."""
    return exit_status(check.verdict for check in checks)


def render(checks: Collection[Check], every: bool = False) -> list[Part]:
    """Return the checks as a table; those not run are counted, and listed only with `every`."""
    shown = [check for check in checks if every or check.verdict is not Verdict.NOT_RUN]
    rows = [
        [
            check.name,
            check.data,
            check.metric,
            f'{check.reference:.2f}',
            '' if check.measured is None else f'{check.measured:.2f}',
            check.verdict,
            check.licence,
            check.reason,
        ]
        for check in shown
    ]
    heads = ['checkpoint', 'data', 'metric', 'reference', 'measured', 'verdict', 'licence', '']
    parts: list[Part] = [TextTable(heads, rows)] if rows else []
    if hidden := len(checks) - len(shown):
        parts.append(f'{hidden} not-run, without weights or data: --all lists them.')
    return parts
