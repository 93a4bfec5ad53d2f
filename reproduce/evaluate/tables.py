"""The accuracies of Tables 1-4: measured where data and weights are there, else from records."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets.imagenet import load
from reproduce import checkpoints, records
from reproduce.errors import UserError
from reproduce.evaluate.imagenet import Job, evaluate
from reproduce.records import Evaluation
from reproduce.systems import System

_DATA = "ImageNet-1K's 50,000 validation images"


@dataclass(frozen=True)
class Request:
    """What a table is evaluated on, as far as it is there, and how.

    Attributes:
        data: the folder of ImageNet, or None.
        weights: a folder with one checkpoint for each system, or None.
        folder: where the records lie.
        processes, limit, batch_size, workers, amp: as for one evaluation.
    """

    data: Path | None = None
    weights: Path | None = None
    folder: Path = records.FOLDER
    processes: int = 1
    limit: int | None = None
    batch_size: int = 64
    workers: int = 4
    amp: str | None = None


def standing(
    systems: Iterable[System], request: Request
) -> dict[str, Evaluation | Exception | str]:
    """Of each classifier its evaluation on the complete data, why it failed, or why there is none.

    Those whose checkpoint is there are evaluated now; each leaves its record at once. One that
    fails does not keep the others from being evaluated.

    Raises:
        UserError: if the folder of the data or of the weights is not what it should be, or a
            record is damaged.
    """
    chosen = [s for s in systems if s.framework == 'classifier' and s.cited is None]
    if request.weights is not None and not request.weights.is_dir():
        raise UserError(
            f'{request.weights} is not a folder: expected one with a checkpoint for each system, '
            f'such as {checkpoints.expected(request.weights, "maformer_small")}.'
        )
    if request.data is not None and chosen:
        load(request.data, limit=request.limit)
    earlier = records.load_all(request.folder)
    found = {s.name: _checkpoint(s, request) for s in chosen}
    failures: dict[str, Exception] = {}
    for system in chosen:
        if found[system.name] is None or request.data is None:
            continue
        job = Job(
            model=system.name,
            checkpoint=found[system.name],
            data=request.data,
            limit=request.limit,
            batch_size=request.batch_size,
            workers=request.workers,
            amp=request.amp,
        )
        try:
            outcome = evaluate(job, request.processes)
            records.save(outcome.evaluation, outcome.predictions.to_csv(), request.folder)
        except Exception as error:  # whatever a foreign model raises is its own cell's
            failures[system.name] = error
        else:
            earlier.append(outcome.evaluation)
    return {
        s.name: failures.get(s.name)
        or records.latest(earlier, s.name)
        or _missing(s, found[s.name], request, records.latest(earlier, s.name, complete=False))
        for s in chosen
    }


def _checkpoint(system: System, request: Request) -> Path | None:
    return request.weights and checkpoints.in_folder(request.weights, system.name)


def _missing(
    system: System, checkpoint: Path | None, request: Request, subset: Evaluation | None
) -> str:
    takes = []
    if checkpoint is None:
        takes.append(checkpoints.expected(request.weights or 'CHECKPOINTS', system.name))
    if request.data is None:
        takes.append(f'{_DATA} at DATA')
    elif subset is not None and checkpoint is not None:
        takes.append(f'all of {_DATA} at {request.data}')
    told = 'no evaluation on record'
    if subset is not None:
        told = (
            f'only a part was evaluated, {subset.metrics["top1"]:.2f} on {subset.data.images:,} '
            'images, which is not held against the paper'
        )
    return f'{told}; it takes {" and ".join(takes)}'
