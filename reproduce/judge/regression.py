"""The regression gate: every released checkpoint still scores what it scored.

With a folder of public weights, also those that are in it.
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
from reproduce.judge.references import check_reference, compare_counts
from reproduce.judge.verdict import Verdict
from reproduce.statistics.paired import Difference
from reproduce.tasks import TASKS
from reproduce.weights import registry, store
from reproduce.weights.registry import Public, Reference, Released


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
    """Evaluate each reference of the manifest; the embedded data are drawn for it.

    One that fails is an error of its own and does not keep the others from being evaluated.

    Args:
        data: the folder of a full data set, or of several; references on data that are not there
            are `not-run`.
        manifest: another than `registry.MANIFEST`.
        output: folder for the records; None keeps none.
        weights: folder of public weights; those that are not in it are `not-run`. None leaves
            public weights out.

    Raises:
        UserError: if the manifest is malformed or has no reference, or `weights` is not a folder.
    """
    manifest = manifest or registry.MANIFEST
    entries: tuple[Released, ...] = registry.load_manifest(manifest)
    if weights is not None:
        if not weights.is_dir():
            raise UserError(f'{weights} is not a folder: expected one with public weights.')
        entries += registry.load_public()
    references = [(entry, reference) for entry in entries for reference in entry.reference]
    if not references:
        raise UserError(f'{manifest} has no reference to compare with: add one.')
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        drawn, kept = Path(folder), output or Path(folder) / 'records'
        if any(reference.data == 'shapes' for _, reference in references):
            shapes.write(drawn, train=0)
        for entry, reference in references:
            root = data if reference.data == 'full' else drawn
            try:
                path = (
                    store.stored(entry, weights)
                    if isinstance(entry, Public)
                    else store.obtain(entry, manifest)
                )
                record = _evaluate(entry, path, root, kept, processes, workers)
                checks += _compared(entry, reference, record, manifest)
            except (CheckpointNotFound, DataNotFound) as error:
                checks += _unmeasured(entry, reference, Verdict.NOT_RUN, error)
            except UserError as error:  # the others are still evaluated
                checks += _unmeasured(entry, reference, Verdict.ERROR, error)
    return checks


def _evaluate(
    entry: Released,
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
        *(entry.task, entry.model, path, root, entry.arguments, entry.preprocessing),
        output=output,
        multi_scale=entry.multi_scale,
        processes=processes,
        workers=workers,
    )


def _unmeasured(
    entry: Released, reference: Reference, verdict: Verdict, error: Exception
) -> list[Check]:
    data, reason = _data(entry, reference), f'{error}'.splitlines()[0]
    return [
        Check(entry.name, data, metric, value, None, verdict, entry.licence, reason)
        for metric, value in reference.metrics.items()
    ]


def _data(entry: Released, reference: Reference) -> str:
    return entry.task if reference.data == 'full' else reference.data


def _compared(entry: Released, reference: Reference, record: Path, manifest: Path) -> list[Check]:
    evaluation = records.load(record)
    data, tested = evaluation.data, {}
    verdicts = check_reference(evaluation, entry, reference).verdicts
    reason = f'{data.images:,} images'
    if not reference.holds_for(data.fingerprint, data.complete):
        expected = f' with {reference.fingerprint}' if reference.fingerprint else ''
        reason = (
            f'the images are not those of the reference: {data.images:,} with fingerprint '
            f'{data.fingerprint}, expected {reference.images:,}{expected}'
        )
        verdicts = dict.fromkeys(verdicts, Verdict.ERROR)
    elif reference.statistics:
        tested = compare_counts(reference, record.parent / evaluation.statistics, manifest)
        verdicts |= {name: _verdict(difference) for name, difference in tested.items()}
    checks = []
    for metric, target in reference.metrics.items():
        says = reason if metric in verdicts else 'the evaluation does not give this metric'
        if metric in tested:
            says += f'; {_sentence(tested[metric])}'
        measured, verdict = evaluation.metrics.get(metric), verdicts.get(metric, Verdict.ERROR)
        where = _data(entry, reference)
        checks.append(
            Check(entry.name, where, metric, target, measured, verdict, entry.licence, says)
        )
    return checks


def _verdict(difference: Difference) -> Verdict:
    if not difference.significant:
        return Verdict.MATCH
    return Verdict.BETTER if difference.difference > 0 else Verdict.WORSE


def _sentence(difference: Difference) -> str:
    if difference.difference == 0:
        return 'as the reference'
    what = f'{difference.difference:+.2f}, p {difference.p:.3f}'
    if difference.significant:
        return f'{what}: significant'
    warning = 'WARNING: ' if difference.difference < 0 else ''
    return f'{warning}{what}: not significant'


def render(checks: Collection[Check], every: bool = False) -> list[Part]:
    """Return the checks as a table; those not run are counted, and listed only with `every`."""
    shown = [check for check in checks if every or check.verdict is not Verdict.NOT_RUN]
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
    if hidden := len(checks) - len(shown):
        parts.append(f'{hidden} not-run, without weights or data: --all lists them.')
    return parts
