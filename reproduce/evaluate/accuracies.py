"""The accuracies of the tables: measured where data and weights are there, else from records."""

import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.base.errors import DataNotFound, UserError
from reproduce.base.folders import EVALUATIONS
from reproduce.evaluate import apart, records
from reproduce.evaluate.records import Evaluation
from reproduce.systems import System
from reproduce.tasks import TASKS
from reproduce.weights.store import expected, in_folder

if TYPE_CHECKING:
    from datasets.subset import Split


@dataclass(frozen=True)
class NotRun:
    """An accuracy that was not measured on the complete data."""

    # A sentence in which SYSTEM is the name of the system, so that those that lack the same things
    # have equal values.
    reason: str = ''
    record: str = ''  # the stem of the record of an evaluation on a part of the data
    failed: bool = False  # whether it should have been measured now

    def sentence(self, system: str) -> str:
        """Return the reason for `system`."""
        return self.reason.replace('SYSTEM', system)


@dataclass(frozen=True)
class Inputs:
    """What a system is evaluated with, None where it is missing, and where it is expected."""

    system: System
    checkpoint: Path | None
    data: 'Split | None'
    weights_folder: str | Path
    data_folder: str | Path

    @property
    def complete(self) -> bool:
        """Whether the system can be evaluated now."""
        return self.checkpoint is not None and self.data is not None

    def on_record(self, metric: str, earlier: Collection[Evaluation]) -> Evaluation | NotRun:
        """Return the latest evaluation of a metric on the complete data, or why there is none."""
        name, task = self.system.name, TASKS[self.system.task]
        if (found := records.latest(earlier, name, metric)) is not None:
            return found
        missing = []
        if self.checkpoint is None:
            missing.append(expected(self.weights_folder, 'SYSTEM'))
        if self.data is None or not self.data.complete:
            missing.append(f'{task.validation_set} at {self.data_folder}')
        reason, part = 'no evaluation on record', records.latest(earlier, name, metric, False)
        if part is not None:
            reason = (
                f'only a part was evaluated, {part.metrics[metric]:.2f} on {part.data.images:,} '
                'images, which is not compared with the paper'
            )
        reason += f'; it takes {" and ".join(missing or ["an evaluation without other options"])}'
        return NotRun(reason, record=part.stem if part else '')


def find_inputs(
    systems: Iterable[System],
    data: Path | None = None,
    weights: Path | None = None,
    limit: int | None = None,
) -> list[Inputs]:
    """Return what there is to evaluate each system with, those that are only cited left out.

    Args:
        data: the folder of a data set, or of several.
        weights: a folder with one checkpoint for each system.
        limit: as many images of each data set only.

    Raises:
        UserError: if the data are not what they should be.
    """
    chosen = [s for s in systems if s.cited is None]
    found, missing = {}, None
    for task in sorted({s.task for s in chosen}) if data else ():
        try:
            found[task] = TASKS[task].load_data(data, limit=limit)
        except DataNotFound as error:
            missing = error
    if missing is not None and not found:
        raise missing
    folders = weights or 'CHECKPOINTS', data or 'DATA'
    return [
        Inputs(s, weights and in_folder(weights, s.name), found.get(s.task), *folders)
        for s in chosen
    ]


def measure(
    systems: Iterable[System],
    data: Path | None = None,
    weights: Path | None = None,
    folder: Path = EVALUATIONS,
    **options: Any,
) -> Mapping[tuple[str, str], Evaluation | NotRun]:
    """Return the evaluation of each system and metric on the complete data, or why there is none.

    Systems whose checkpoint and data are there are evaluated now, each in a process of its own that
    leaves a record. One that fails does not keep the others from being evaluated.

    Args:
        data, weights: as in `find_inputs`.
        folder: of the evaluation records.
        options: those of one evaluation: processes, limit, workers, amp.

    Raises:
        UserError: as `find_inputs` does, or if a record is malformed.
    """
    inputs = find_inputs(systems, data, weights, options.get('limit'))
    earlier, failures = records.load_all(folder), {}
    complete = [one for one in inputs if one.complete]
    for i, one in enumerate(complete):
        name = one.system.name
        print(f'evaluating {i + 1}/{len(complete)} {name}', file=sys.stderr, flush=True)
        what = (one.system.task, name, one.checkpoint, data)
        options['multi_scale'] = 'ms_miou' in one.system.accuracies
        try:
            earlier.append(
                records.load(apart.evaluate(*what, output=folder, resume=True, **options))
            )
        except UserError as error:
            failures[name] = NotRun(str(error), failed=True)
    return {
        (one.system.name, metric): failures.get(one.system.name) or one.on_record(metric, earlier)
        for one in inputs
        for metric in one.system.accuracies
    }
