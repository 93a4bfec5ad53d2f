"""The accuracies of the tables: measured where data and weights are there, else from records."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.folders import EVALUATIONS
from reproduce.base.progress import progress
from reproduce.evaluate import apart, records
from reproduce.evaluate.records import Evaluation
from reproduce.evaluate.unmeasured import Accuracy, Failed, NotRun
from reproduce.systems import System
from reproduce.tasks import TASKS
from reproduce.weights.store import expected, in_folder

if TYPE_CHECKING:
    from reproduce.tasks.job import DataSet


@dataclass(frozen=True)
class Request:
    """What the tables are evaluated on, as far as it is there, and how.

    Attributes:
        data: the folder of a data set, or of several; or None.
        weights: a folder with one checkpoint for each system, or None.
        folder: of the evaluation records.
        processes, limit, batch_size, workers, amp: as for one evaluation.
    """

    data: Path | None = None
    weights: Path | None = None
    folder: Path = EVALUATIONS
    processes: int = 1
    limit: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    amp: str | None = None


@dataclass(frozen=True)
class Inputs:
    """The checkpoint and the images that a system is evaluated with, as far as they are there."""

    system: System
    checkpoint: Path | None
    data: 'DataSet | None'

    @property
    def complete(self) -> bool:
        """Whether the system can be evaluated now."""
        return self.checkpoint is not None and self.data is not None


def find_inputs(systems: Iterable[System], request: Request) -> list[Inputs]:
    """Return what there is to evaluate each system with, those that are only cited left out.

    Raises:
        UserError: if the folder of the data or of the weights is not what it should be.
    """
    chosen = [s for s in systems if s.cited is None]
    if request.weights is not None and not request.weights.is_dir():
        raise UserError(
            f'{request.weights} is not a folder: expected one with a checkpoint for each system, '
            f'such as {expected(request.weights, "maformer_small")}.'
        )
    data, missing = {}, None
    for task in sorted({s.task for s in chosen}) if request.data else ():
        try:
            data[task] = TASKS[task].load_data(request.data, limit=request.limit)
        except DataNotFound as error:
            missing = error
    if missing is not None and not data:
        raise missing
    return [
        Inputs(s, request.weights and in_folder(request.weights, s.name), data.get(s.task))
        for s in chosen
    ]


def measure(systems: Iterable[System], request: Request) -> Mapping[tuple[str, str], Accuracy]:
    """Return the evaluation of each system and metric on the complete data, or why there is none.

    Systems whose checkpoint and data are there are evaluated now, each in a process of its own that
    leaves a record. One that fails does not keep the others from being evaluated.

    Raises:
        UserError: if the folder of the data or of the weights is not what it should be, or a
            record is damaged.
    """
    inputs = find_inputs(systems, request)
    earlier = records.load_all(request.folder)
    names = ('processes', 'limit', 'batch_size', 'workers', 'amp')
    options = {name: getattr(request, name) for name in names}
    failures: dict[str, Failed] = {}
    complete = [one for one in inputs if one.complete]
    with progress('evaluating', len(complete)) as step_done:
        for system, checkpoint in ((one.system, one.checkpoint) for one in complete):
            what = (system.task, system.name, checkpoint, request.data)
            multi_scale = 'ms_miou' in system.accuracies
            try:
                record = apart.evaluate(
                    *what, output=request.folder, multi_scale=multi_scale, **options
                )
                earlier.append(records.load(record))
            except UserError as error:
                failures[system.name] = Failed(str(error))
            step_done(system.name)
    return {
        (one.system.name, metric): failures.get(one.system.name)
        or on_record(one, metric, request, earlier)
        for one in inputs
        for metric in one.system.accuracies
    }


def on_record(
    inputs: Inputs, metric: str, request: Request, earlier: Collection[Evaluation]
) -> Evaluation | NotRun:
    """Return the latest evaluation of a system on the complete data, or why there is none."""
    system = inputs.system
    if (found := records.latest(earlier, system.name, metric)) is not None:
        return found
    part = records.latest(earlier, system.name, metric, complete=False)
    data, validation_set = '', TASKS[system.task].validation_set
    if inputs.data is None:
        data = f'{validation_set} at {request.data or "DATA"}'
    elif part is not None and inputs.checkpoint is not None:
        data = f'all of {validation_set} at {request.data}'
    return NotRun(
        weights_folder=str(request.weights or 'CHECKPOINTS') if inputs.checkpoint is None else '',
        data=data,
        part=part and (part.metrics[metric], part.data.images, part.stem),
    )
