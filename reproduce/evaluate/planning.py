"""What the tables would evaluate, what is missing for the rest, and where to get it."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from reproduce.base import terminal
from reproduce.base.errors import UserError
from reproduce.evaluate import accuracies, records
from reproduce.evaluate.accuracies import Inputs, Request
from reproduce.evaluate.records import Evaluation
from reproduce.paper import Column, Row
from reproduce.systems import System
from reproduce.tasks import TASKS


class CellState(StrEnum):
    """What a cell needs to be measured."""

    COUNTED = 'counted'  # parameters and FLOPs need neither weights nor data
    RECORD = 'on record'  # an earlier evaluation has it
    EVALUATE = 'evaluate'  # weights and data are there
    NO_DATA = 'no data'  # weights are there
    PUBLIC = 'public'  # weights that can be downloaded, and data if there are none
    UNRELEASED = 'unreleased'  # weights that nobody has released, and data if there are none
    CITED = 'cited'  # cannot be measured: there is no implementation here


@dataclass(frozen=True)
class PlannedCell:
    """One number of one row, and what it needs.

    Attributes:
        is_printed: whether the paper prints the number and the system is the row as printed: of a
            row with other variants each number is printed once.
        reason: the record, what is evaluated, or a sentence on what is missing; '' for counts.
    """

    table: int
    model: str
    system: str
    metric: str
    is_printed: bool
    state: CellState
    reason: str = ''


@dataclass(frozen=True)
class Plan:
    """What each cell needs.

    Attributes:
        cells: in printed order.
        inputs: the weights and data that were found for each system that is not only cited.
    """

    cells: list[PlannedCell]
    inputs: list[Inputs]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON takes it."""
        return {
            'cells': [asdict(cell) for cell in self.cells],
            'systems': [
                {
                    'system': one.system.name,
                    'task': one.system.task,
                    'runs': one.complete,
                    'weights': one.system.weights,
                    'checkpoint': one.checkpoint and str(one.checkpoint),
                    'data': one.data and str(one.data.root),
                    'images': one.data and len(one.data.samples),
                    'complete': one.data and one.data.complete,
                }
                for one in self.inputs
            ],
        }


def plan(rows: Collection[Row], systems: Collection[System], request: Request) -> Plan:
    """Return what `accuracies.measure` would evaluate for `rows`, and what is missing.

    Raises:
        UserError: if the limit is less than 1, the folder of the data or of the weights is not what
            it should be, or a record is damaged.
    """
    if request.limit is not None and request.limit < 1:
        raise UserError(f'--limit must be at least 1, got {request.limit}.')
    inputs = {one.system.name: one for one in accuracies.find_inputs(systems, request)}
    earlier = records.load_all(request.folder)
    cells = [
        _cell(row, system, column, inputs.get(system.name), request, earlier)
        for row in rows
        for system in systems
        if system.stands_for(row)
        for column in system.columns(row.table)
    ]
    return Plan(cells, list(inputs.values()))


def _cell(
    row: Row,
    system: System,
    column: Column,
    inputs: Inputs | None,
    request: Request,
    earlier: Collection[Evaluation],
) -> PlannedCell:
    is_printed = row.cells[column.name] is not None and not system.variant
    cell = partial(PlannedCell, row.table, row.model, system.name, column.name, is_printed)
    if inputs is None:
        return cell(CellState.CITED, system.cited)
    if column.metric.is_complexity:
        return cell(CellState.COUNTED)
    if inputs.complete:
        images = f'{inputs.checkpoint} on {len(inputs.data.samples):,} images of {inputs.data.root}'
        subset = '' if inputs.data.complete else ', a subset, which is not compared with the paper'
        return cell(CellState.EVALUATE, images + subset)
    found = accuracies.on_record(inputs, column.metric.name, request, earlier)
    if isinstance(found, Evaluation):
        return cell(CellState.RECORD, found.origin)
    if inputs.checkpoint is not None:
        state = CellState.NO_DATA
    else:
        state = CellState.PUBLIC if system.weights is not None else CellState.UNRELEASED
    return cell(state, found.sentence(system.name))


def by_table(plan: Plan) -> list[terminal.Part]:
    """Return for each table how many printed numbers are in each state, and what to do.

    The last column counts the lines of the CSV, which also has variants and unprinted cells.
    """
    counts: dict[int | str, Counter[CellState]] = {}
    lines: Counter[int | str] = Counter()
    for cell in plan.cells:
        for name in (cell.table, 'all'):
            counts.setdefault(name, Counter())[cell.state] += cell.is_printed
            lines[name] += 1
    tables = [name for name in counts if name != 'all']
    shown = [state for state in CellState if counts['all'][state]]
    heads = ['table', 'numbers', *shown, 'lines']
    rows = [
        [str(t), *(str(n) for n in (counts[t].total(), *(counts[t][s] for s in shown), lines[t]))]
        for t in (*tables, *['all'] * (len(tables) > 1))
    ]
    return [terminal.TextTable(heads, rows, heads[1:]), '\n'.join(_to_do(plan))]


def _to_do(plan: Plan) -> list[str]:
    systems = {state: {c.system for c in plan.cells if c.state is state} for state in CellState}
    missing = systems[CellState.NO_DATA] | systems[CellState.PUBLIC] | systems[CellState.UNRELEASED]
    tasks = {i.system.task for i in plan.inputs if i.data is None and i.system.name in missing}
    lines = [f'{len(systems[CellState.EVALUATE])} systems would be evaluated.']
    lines += [f'{TASKS[task].validation_set} are missing: --data FOLDER.' for task in sorted(tasks)]
    if public := systems[CellState.PUBLIC]:
        lines.append(
            f'{len(public)} systems have public weights: `make checkpoints TABLE=N '
            'CHECKPOINTS=FOLDER` downloads those of a table.'
        )
    if unreleased := systems[CellState.UNRELEASED]:
        lines.append(
            f'{len(unreleased)} systems have no public weights: your own are expected as '
            'SYSTEM.safetensors in the folder of --checkpoints.'
        )
    return [*lines, '--systems lists them.'] if plan.inputs else lines


def by_system(plan: Plan) -> str:
    """Return a line for each system and state: its cells, and what was found or is public."""
    weights = {one.system.name: one.system.weights for one in plan.inputs}
    groups: dict[tuple[str, CellState, str], list[PlannedCell]] = {}
    for cell in plan.cells:
        if cell.state is not CellState.COUNTED:
            groups.setdefault((cell.system, cell.state, cell.reason), []).append(cell)
    lines = []
    for (name, state, reason), cells in groups.items():
        what = {CellState.PUBLIC: f' {weights.get(name)}', CellState.UNRELEASED: ''}
        lines.append(f'{name}, {_names(cells)}: {state}{what.get(state, f", {reason}")}')
    return '\n'.join(lines)


def _names(cells: Iterable[PlannedCell]) -> str:
    of_table: dict[int, dict[str, None]] = {}
    for cell in cells:
        of_table.setdefault(cell.table, {})[cell.metric] = None
    return '; '.join(f'T{table} {" ".join(names)}' for table, names in of_table.items())
