"""The accuracies of the tables: measured where data and weights are there, else from records."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import load
from reproduce.distributed import check_alone
from reproduce.errors import DataNotFound, UserError
from reproduce.evaluate import records
from reproduce.evaluate.harness import DataSet, Job, evaluate
from reproduce.evaluate.records import Evaluation
from reproduce.folders import EVALUATIONS
from reproduce.judge.verdict import COMPLEXITY_METRICS
from reproduce.paper import METRICS, unprefixed
from reproduce.systems import System
from reproduce.tasks import TASKS
from reproduce.weights import store

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
    folder: Path = EVALUATIONS
    processes: int = 1
    limit: int | None = None
    batch_size: int | None = None
    workers: int = 4
    amp: str | None = None


@dataclass(frozen=True)
class Prospect:
    """What the evaluation of a system takes, as far as it is there.

    Attributes:
        checkpoint: its file, or None.
        data: the images, or None.
    """

    system: System
    checkpoint: Path | None
    data: DataSet | None

    @property
    def runs(self) -> bool:
        """Whether the system can be evaluated now."""
        return self.checkpoint is not None and self.data is not None


def prospects(systems: Iterable[System], request: Request) -> list[Prospect]:
    """Of each system that is not only cited what there is to evaluate it with.

    Raises:
        UserError: if the folder of the data or of the weights is not what it should be.
    """
    chosen = [s for s in systems if s.cited is None]
    if request.weights is not None and not request.weights.is_dir():
        raise UserError(
            f'{request.weights} is not a folder: expected one with a checkpoint for each system, '
            f'such as {store.expected(request.weights, "maformer_small")}.'
        )
    data = _data({s.task for s in chosen}, request)
    return [
        Prospect(
            system,
            request.weights and store.in_folder(request.weights, system.name),
            data.get(system.task),
        )
        for system in chosen
    ]


def standing(systems: Iterable[System], request: Request) -> Standing:
    """Of each system and metric its evaluation on the complete data, or why there is none.

    Those whose checkpoint is there are evaluated now; each leaves its record at once. One that
    fails does not keep the others from being evaluated.

    Raises:
        UserError: if the folder of the data or of the weights is not what it should be, or a
            record is damaged.
    """
    if request.data is not None:
        check_alone()
    found = prospects(systems, request)
    earlier = records.load_all(request.folder)
    failures: dict[str, Exception] = {}
    for prospect in found:
        if not prospect.runs:
            continue
        try:
            outcome = evaluate(job(prospect, request), request.processes)
            outcome.save(request.folder)
        except Exception as error:  # whatever a foreign model raises is its own cell's
            # Its frames hold the model, on the device that the next one needs.
            failures[prospect.system.name] = error.with_traceback(None)
        else:
            earlier.append(outcome.evaluation)
    return {
        (prospect.system.name, metric): failures.get(prospect.system.name)
        or on_record(prospect, metric, request, earlier)
        for prospect in found
        for metric in _metrics(prospect.system)
    }


def on_record(
    prospect: Prospect, metric: str, request: Request, earlier: Collection[Evaluation]
) -> Evaluation | str:
    """The last evaluation of a system on the complete data, or why there is none."""
    return records.latest(earlier, prospect.system.name, metric) or _missing(
        prospect, metric, request, earlier
    )


def _metrics(system: System) -> set[str]:
    columns = {name for table in METRICS for name in system.columns(table)}
    return {unprefixed(name) for name in columns} - set(COMPLEXITY_METRICS)


def job(prospect: Prospect, request: Request) -> Job:
    """How the system is evaluated; to be run, it takes a checkpoint and data."""
    system = prospect.system
    return Job(
        task=system.task,
        model=system.name,
        checkpoint=prospect.checkpoint,
        data=request.data,
        limit=request.limit,
        batch_size=request.batch_size,
        workers=request.workers,
        amp=request.amp,
        multi_scale=system.framework == 'upernet',
    )


def _data(tasks: set[str], request: Request) -> dict[str, DataSet]:
    """The data set of each of `tasks` whose own is in the folder of the data.

    Raises:
        UserError: if none is, or one is not what it should be.
    """
    if request.data is None:
        return {}
    found, missing = {}, None
    for task in sorted(tasks):
        try:
            found[task] = load(task, request.data, limit=request.limit)
        except DataNotFound as error:
            missing = error
    if not found and missing is not None:
        raise missing
    return found


def _missing(
    prospect: Prospect, metric: str, request: Request, earlier: Collection[Evaluation]
) -> str:
    system = prospect.system
    subset = records.latest(earlier, system.name, metric, complete=False)
    takes = []
    if prospect.checkpoint is None:
        takes.append(store.expected(request.weights or 'CHECKPOINTS', system.name))
    if prospect.data is None:
        takes.append(f'{TASKS[system.task].validation_set} at {request.data or "DATA"}')
    elif subset is not None and prospect.checkpoint is not None:
        takes.append(f'all of {TASKS[system.task].validation_set} at {request.data}')
    told = 'no evaluation on record'
    if subset is not None:
        told = (
            f'only a part was evaluated, {subset.metrics[metric]:.2f} on {subset.data.images:,} '
            'images, which is not held against the paper'
        )
    return f'{told}; it takes {" and ".join(takes)}'
