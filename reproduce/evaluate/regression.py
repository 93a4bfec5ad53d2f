"""The regression gate: every released checkpoint still scores what it scored."""

import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from datasets import shapes
from reproduce import checkpoints, records
from reproduce.errors import UserError
from reproduce.evaluate.imagenet import Job, evaluate
from reproduce.paper import load_tolerances
from reproduce.verdict import Verdict, judge_reference


@dataclass(frozen=True)
class Check:
    """One reference of one released checkpoint, and what its weights score now, in percent."""

    name: str
    data: str
    reference: float
    measured: float | None
    verdict: Verdict
    reason: str = ''

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(
    processes: int = 1,
    batch_size: int = 64,
    workers: int = 2,
    imagenet: Path | None = None,
    manifest: Path | None = None,
    output: Path | None = None,
) -> list[Check]:
    """Evaluate each reference of the manifest; the embedded data are made for it.

    One that fails is its own error and does not keep the others from being evaluated.

    Args:
        imagenet: ImageNet-1K; references on it are `not-run` without.
        manifest: another than `checkpoints.MANIFEST`.
        output: folder for the records; None keeps none.

    Raises:
        UserError: if the manifest is malformed, or has no reference.
    """
    manifest = manifest or checkpoints.MANIFEST
    entries = checkpoints.load_manifest(manifest)
    if not any(entry.reference for entry in entries):
        raise UserError(f'{manifest} has no reference to hold anything against: add one.')
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        if any(reference.data == 'shapes' for entry in entries for reference in entry.reference):
            shapes.write(Path(folder), train=0)
        roots = {'shapes': Path(folder) / 'imagenet', 'imagenet': imagenet}
        for entry in entries:
            for reference in entry.reference:
                told = (entry.name, reference.data, reference.top1)
                if roots[reference.data] is None:
                    reason = "it takes ImageNet-1K's 50,000 validation images at --data"
                    checks.append(Check(*told, None, Verdict.NOT_RUN, reason))
                    continue
                try:
                    job = Job(
                        model=entry.model,
                        arguments=entry.arguments,
                        preprocessing=entry.preprocessing,
                        checkpoint=checkpoints.obtain(entry, manifest),
                        data=roots[reference.data],
                        batch_size=batch_size,
                        workers=workers,
                    )
                    outcome = evaluate(job, processes)
                    if output is not None:
                        predictions = outcome.predictions.to_csv()
                        records.save(outcome.evaluation, predictions, output)
                    checks.append(_held(told, outcome.evaluation, reference))
                except Exception as error:  # its own error, and the others still count
                    reason = f'{error}'.splitlines()[0]
                    checks.append(Check(*told, None, Verdict.ERROR, reason))
    return checks


def _held(
    told: tuple[str, str, float],
    evaluation: records.Evaluation,
    reference: checkpoints.Reference,
) -> Check:
    value, data = evaluation.metrics['top1'], evaluation.data
    if not reference.holds_for(data.fingerprint, data.complete):
        reason = (
            f'the images are not those of the reference: {data.images:,} with fingerprint '
            f'{data.fingerprint}, expected {reference.images:,}'
            + (f' with {reference.fingerprint}' if reference.fingerprint else '')
        )
        return Check(*told, value, Verdict.ERROR, reason)
    tolerance = load_tolerances()['reference']
    verdict = judge_reference(value, reference.top1, data.images, tolerance)
    return Check(*told, value, verdict, f'{data.images:,} images')


def exit_code(checks: Collection[Check]) -> int:
    """0, or 1 if a check is `worse`, or 2 if one is an `error`."""
    verdicts = {check.verdict for check in checks}
    return 2 if Verdict.ERROR in verdicts else int(Verdict.WORSE in verdicts)


def render(checks: Collection[Check]) -> str:
    """The checks as a table."""
    rows = [
        [
            check.name,
            check.data,
            f'{check.reference:.2f}',
            '' if check.measured is None else f'{check.measured:.2f}',
            check.verdict,
            check.reason,
        ]
        for check in checks
    ]
    heads = ['checkpoint', 'data', 'reference', 'measured', 'verdict', '']
    return tabulate(rows, heads, 'simple', disable_numparse=True)
