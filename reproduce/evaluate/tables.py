"""The accuracies of the tables: measured where data and weights are there, else from records."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import load
from reproduce import checkpoints, records
from reproduce.errors import DataNotFound, UserError
from reproduce.evaluate.harness import Job, evaluate
from reproduce.evaluate.tasks import DATA, job_class
from reproduce.paper import METRICS, unprefixed
from reproduce.records import Evaluation
from reproduce.systems import System
from reproduce.verdict import COMPLEXITY_METRICS

Standing = Mapping[tuple[str, str], Evaluation | Exception | str]


@dataclass(frozen=True)
class Request:
    """What the tables are evaluated on, as far as it is there, and how.

    Attributes:
        data: the folder of a data set, or of several; or None.
        weights: a folder with one checkpoint for each system, or None.
        folder: where the records lie.
        processes, limit, batch_size, workers, amp: as for one evaluation; a batch size of None is
            the task's own.
    """

    data: Path | None = None
    weights: Path | None = None
    folder: Path = records.FOLDER
    processes: int = 1
    limit: int | None = None
    batch_size: int | None = None
    workers: int = 4
    amp: str | None = None


def standing(systems: Iterable[System], request: Request) -> Standing:
    """Of each system and metric its evaluation on the complete data, or why there is none.

    Those whose checkpoint is there are evaluated now; each leaves its record at once. One that
    fails does not keep the others from being evaluated.

    Raises:
        UserError: if the folder of the data or of the weights is not what it should be, or a
            record is damaged.
    """
    chosen = [s for s in systems if s.cited is None]
    if request.weights is not None and not request.weights.is_dir():
        raise UserError(
            f'{request.weights} is not a folder: expected one with a checkpoint for each system, '
            f'such as {checkpoints.expected(request.weights, "maformer_small")}.'
        )
    with_data = _tasks_with_data({s.task for s in chosen}, request)
    earlier = records.load_all(request.folder)
    failures: dict[str, Exception] = {}
    for system in chosen:
        path = _checkpoint(system, request)
        if path is None or system.task not in with_data:
            continue
        try:
            outcome = evaluate(_job(system, path, request), request.processes)
            outcome.save(request.folder)
        except Exception as error:  # whatever a foreign model raises is its own cell's
            failures[system.name] = error
        else:
            earlier.append(outcome.evaluation)
    return {
        (system.name, metric): failures.get(system.name)
        or records.latest(earlier, system.name, metric)
        or _missing(system, metric, request, system.task in with_data, earlier)
        for system in chosen
        for metric in _metrics(system)
    }


def _metrics(system: System) -> set[str]:
    columns = {name for table in METRICS for name in system.columns(table)}
    return {unprefixed(name) for name in columns} - set(COMPLEXITY_METRICS)


def _job(system: System, checkpoint: Path, request: Request) -> Job:
    options = {} if request.batch_size is None else {'batch_size': request.batch_size}
    if system.framework == 'upernet':
        options['multi_scale'] = True
    return job_class(system.task)(
        model=system.name,
        checkpoint=checkpoint,
        data=request.data,
        limit=request.limit,
        workers=request.workers,
        amp=request.amp,
        **options,
    )


def _tasks_with_data(tasks: set[str], request: Request) -> set[str]:
    """Those of `tasks` whose data set is in the folder of the data.

    Raises:
        UserError: if none is, or one is not what it should be.
    """
    if request.data is None:
        return set()
    found, missing = set(), None
    for task in sorted(tasks):
        try:
            load(task, request.data, limit=request.limit)
            found.add(task)
        except DataNotFound as error:
            missing = error
    if not found and missing is not None:
        raise missing
    return found


def _checkpoint(system: System, request: Request) -> Path | None:
    return request.weights and checkpoints.in_folder(request.weights, system.name)


def _missing(
    system: System, metric: str, request: Request, with_data: bool, earlier: list[Evaluation]
) -> str:
    checkpoint = _checkpoint(system, request)
    subset = records.latest(earlier, system.name, metric, complete=False)
    takes = []
    if checkpoint is None:
        takes.append(checkpoints.expected(request.weights or 'CHECKPOINTS', system.name))
    if not with_data:
        takes.append(f'{DATA[system.task]} at {request.data or "DATA"}')
    elif subset is not None and checkpoint is not None:
        takes.append(f'all of {DATA[system.task]} at {request.data}')
    told = 'no evaluation on record'
    if subset is not None:
        told = (
            f'only a part was evaluated, {subset.metrics[metric]:.2f} on {subset.data.images:,} '
            'images, which is not held against the paper'
        )
    return f'{told}; it takes {" and ".join(takes)}'
