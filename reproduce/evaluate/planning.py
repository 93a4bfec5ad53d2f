"""What the tables would evaluate, before they do: what is there, what it costs, what is missing.

Nothing is evaluated. Costs are those of the forward passes alone.
"""

import textwrap
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from reproduce.base.errors import UserError
from reproduce.base.terminal import Part, TextTable
from reproduce.base.wording import duration
from reproduce.complexity.forward_costs import ForwardCost, forward_costs
from reproduce.evaluate import accuracies, records
from reproduce.evaluate.accuracies import Inputs, Request
from reproduce.evaluate.decoding import DecodingRate, decoding_rate
from reproduce.evaluate.devices import Devices, named
from reproduce.evaluate.records import Evaluation
from reproduce.evaluate.unmeasured import NotRun
from reproduce.paper import Column, Row
from reproduce.systems import System
from reproduce.tasks import TASKS

_PART = 'a part, which is not held against the paper'


class CellState(StrEnum):
    """What would become of a cell."""

    COUNT = 'count'  # parameters and FLOPs take neither weights nor data
    EVALUATE = 'evaluate'  # weights and data are there
    RECORD = 'record'  # an earlier evaluation stands
    MISSING = 'missing'  # the reason says what is needed
    CITED = 'cited'  # no implementation here


@dataclass(frozen=True)
class PlannedCell:
    """One number of one row, and what would become of it.

    Attributes:
        reason: a sentence on the evaluation or on what is missing; '' where there is none.
        missing: what keeps the cell from being measured.
    """

    table: int
    model: str
    system: str
    metric: str
    state: CellState
    reason: str = ''
    missing: NotRun | None = None

    def as_dict(self) -> dict[str, Any]:
        content = asdict(self)
        del content['missing']
        return content


@dataclass(frozen=True)
class Cost:
    """What the evaluation of a system takes.

    Attributes:
        images: how many.
        size: height and width of one; of one in the form of most where they differ.
        params: the network's.
        flops: multiply-adds of an image in all its views, those in attention included.
        memory: bytes on one device in fp32: parameters, and the intermediates of a batch.
        seconds: of all images on all devices.
    """

    images: int
    size: tuple[int, int]
    params: int
    flops: int
    memory: int
    seconds: float


@dataclass(frozen=True)
class Step:
    """A system: which of its inputs were found, and its cost, where there is one or why not."""

    inputs: Inputs
    cost: Cost | str | None

    def as_dict(self) -> dict[str, Any]:
        p = self.inputs
        return {
            'system': p.system.name,
            'task': p.system.task,
            'runs': p.complete,
            'checkpoint': p.checkpoint and str(p.checkpoint),
            'data': p.data and str(p.data.root),
            'complete': p.data and p.data.complete,
            'cost': asdict(self.cost) if isinstance(self.cost, Cost) else None,
            'error': self.cost if isinstance(self.cost, str) else None,
        }


@dataclass(frozen=True)
class Plan:
    """What would become of every cell, and what is needed for it.

    Attributes:
        cells: in printed order.
        steps: the systems that are not only cited.
        device: what would compute.
        readings: by task, how fast a core of this machine reads its images.
    """

    cells: list[PlannedCell]
    steps: list[Step]
    device: Devices
    readings: dict[str, DecodingRate]

    def seconds(self, runs: bool) -> float:
        """Of the systems that would be evaluated, or of those that lack something."""
        return sum(
            step.cost.seconds
            for step in self.steps
            if isinstance(step.cost, Cost) and step.inputs.complete is runs
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            'device': asdict(self.device),
            'cells': [cell.as_dict() for cell in self.cells],
            'systems': [step.as_dict() for step in self.steps],
            'seconds': self.seconds(True),
            'seconds_of_missing': self.seconds(False),
            'reading': {
                task: {**asdict(one), 'workers': self.workers(task)}
                for task, one in self.readings.items()
            },
        }

    def workers(self, task: str) -> int:
        """Return how many processes have to read for each device, for its fastest system."""
        return self.readings[task].workers(self.fastest(task)[1])

    def fastest(self, task: str) -> tuple[str, float]:
        """Return the system of `task` of which a device computes most images/s, and how many."""
        rates = {
            step.inputs.system.name: self.device.rate / step.cost.flops
            for step in self.steps
            if isinstance(step.cost, Cost) and step.inputs.system.task == task
        }
        return max(rates.items(), key=lambda item: item[1])


def plan(
    rows: Collection[Row],
    systems: Collection[System],
    request: Request,
    device: str | None = None,
) -> Plan:
    """Return what `accuracies.standing` would evaluate for `rows`, and what is needed.

    Args:
        device: such as '8xV100' or 'A100', of PEAKS; None measures this machine.

    Raises:
        UserError: if the device is unknown or does not compute in the precision, a number is less
            than 1, the folder of the data or of the weights is not what it should be, a record is
            damaged, or a package that a system needs is missing.
    """
    given = {
        '--processes': request.processes,
        '--limit': request.limit,
        '--batch-size': request.batch_size,
    }
    for option, n in given.items():
        if n is not None and n < 1:
            raise UserError(f'{option} {n} leaves nothing to evaluate: give 1 or more.')
    on = named(device, request) if device is not None else _this_machine(request)
    inputs = {one.system.name: one for one in accuracies.find_inputs(systems, request)}
    earlier = records.load_all(request.folder)
    cells = [
        _cell(row, system, column, inputs.get(system.name), request, earlier)
        for row in rows
        for system in systems
        if system.stands_for(row)
        for column in system.columns(row.table)
    ]
    costly = {c.system for c in cells if c.state in (CellState.EVALUATE, CellState.MISSING)}
    costs = forward_costs([one for one in inputs.values() if one.system.name in costly], request)
    steps = [
        Step(one, _cost(one, costs[name], request, on) if name in costly else None)
        for name, one in inputs.items()
    ]
    tasks = {s.inputs.system.task: s.inputs.data for s in steps if isinstance(s.cost, Cost)}
    readings = {name: decoding_rate(TASKS[name], data) for name, data in tasks.items()}
    return Plan(cells, steps, on, readings)


def _this_machine(request: Request) -> Devices:
    # Imported here: a plan for GPUs that are named does without torch.
    from reproduce.evaluate.calibration import calibrated

    return calibrated(request)


def _cell(
    row: Row,
    system: System,
    column: Column,
    inputs: Inputs | None,
    request: Request,
    earlier: Collection[Evaluation],
) -> PlannedCell:
    cell = partial(PlannedCell, row.table, row.model, system.name, column.name)
    if inputs is None:
        return cell(CellState.CITED, system.cited)
    if column.metric.is_complexity:
        return cell(CellState.COUNT)
    if inputs.complete:
        return cell(CellState.EVALUATE, '' if inputs.data.complete else _PART)
    found = accuracies.on_record(inputs, column.metric.name, request, earlier)
    if isinstance(found, Evaluation):
        return cell(CellState.RECORD, found.origin)
    return cell(CellState.MISSING, found.sentence(system.name), found)


def _cost(inputs: Inputs, one: ForwardCost | str, request: Request, device: Devices) -> Cost | str:
    """Return what an evaluation costs whose images take `one` each, or why that is unknown."""
    if isinstance(one, str):
        return one
    images = TASKS[inputs.system.task].images
    if inputs.data is not None:
        images = len(inputs.data.samples)
    elif request.limit is not None:
        images = min(images, request.limit)
    return Cost(
        images=images,
        size=(one.height, one.width),
        params=one.params,
        flops=one.flops,
        memory=4 * one.params + one.intermediates,
        seconds=images * one.flops / (device.rate * device.count),
    )


def render(plan: Plan) -> list[Part]:
    """Return the plan as text: the systems to evaluate, what is found and missing, sums."""
    steps = {step.inputs.system.name: step for step in plan.steps}
    groups: dict[tuple[str, CellState, str], list[PlannedCell]] = {}
    missing: dict[NotRun, set[str]] = {}
    for cell in plan.cells:
        if cell.state not in (CellState.COUNT, CellState.CITED):
            groups.setdefault((cell.system, cell.state, cell.reason), []).append(cell)
        if cell.missing is not None:
            missing.setdefault(cell.missing, set()).add(cell.system)
    lines = [
        [name, textwrap.fill(_names(cells), 36), state, *_costs(steps[name].cost, state)]
        for (name, state, _), cells in groups.items()
    ]
    heads = ['system', 'cells', '', 'images', 'pixels', 'G/image', 'time', 'GiB']
    parts: list[Part] = [TextTable(heads, lines)]
    parts += [_found(step) for step in plan.steps if step.inputs.complete]
    parts += [
        f'record, {name}: {reason}.' for name, state, reason in groups if state is CellState.RECORD
    ]
    parts += [
        f'missing, {len(systems)} systems: {what.sentence("SYSTEM")}.'
        for what, systems in missing.items()
    ]
    parts += [
        f'error, {step.inputs.system.name}: {step.cost}.'
        for step in plan.steps
        if isinstance(step.cost, str)
    ]
    counts = {state: sum(cell.state is state for cell in plan.cells) for state in CellState}
    device = plan.device
    parts += [
        f'{len(plan.cells)} cells: ' + ', '.join(f'{n} {s}' for s, n in counts.items() if n) + '.',
        f'{device.count} x {device.name}, {device.rate / 1e9:,.0f} G multiply-adds/s each '
        f'({device.basis}): {sum(s.inputs.complete for s in plan.steps)} evaluations take '
        f'{duration(plan.seconds(True))}; what is missing would take '
        f'{duration(plan.seconds(False))}. Forward passes only: reading images and, of detectors, '
        'NMS and masks come on top. Memory is in fp32, without what the device itself needs.',
    ]
    return [*parts, *(_read(plan, task) for task in plan.readings)]


def _read(plan: Plan, task: str) -> str:
    one, (name, computed) = plan.readings[task], plan.fastest(task)
    return (
        f'{task}: one core reads {one.images_per_s:,.0f} images/s ({one.basis}), and a device '
        f'computes at most {computed:,.0f} ({name}): --workers {plan.workers(task)} keep it busy.'
    )


def _names(cells: Iterable[PlannedCell]) -> str:
    of_table: dict[int, dict[str, None]] = {}
    for cell in cells:
        of_table.setdefault(cell.table, {})[cell.metric] = None
    return '; '.join(f'T{table} {", ".join(names)}' for table, names in of_table.items())


def _costs(cost: Cost | str | None, state: CellState) -> list[str]:
    if not isinstance(cost, Cost) or state is CellState.RECORD:
        return [''] * 5
    return [
        f'{cost.images:,}',
        f'{cost.size[0]} x {cost.size[1]}',
        f'{cost.flops / 1e9:,.1f}',
        duration(cost.seconds),
        f'{cost.memory / 2**30:.1f}',
    ]


def _found(step: Step) -> str:
    checkpoint, data = step.inputs.checkpoint, step.inputs.data
    extent = 'complete' if data.complete else _PART
    return (
        f'evaluate, {step.inputs.system.name}: {checkpoint} on {data.root}, '
        f'{len(data.samples):,} images, {extent}.'
    )
