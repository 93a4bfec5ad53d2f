"""What the tables would evaluate, what is missing for the rest, and where to get it."""

from collections import Counter
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import NamedTuple

from reproduce.base.terminal import Part, TextTable
from reproduce.evaluate.accuracies import Inputs
from reproduce.evaluate.records import Evaluation
from reproduce.paper import Row
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


class PlannedCell(NamedTuple):
    """One number of one row, and what it needs."""

    table: int
    system: str
    metric: str
    # Whether the paper prints the number and the system is the row as printed: of a row with other
    # variants each number is printed once.
    is_printed: bool
    state: CellState
    reason: str  # the record, what is evaluated, or what is missing; '' for counts


def plan(
    rows: Collection[Row],
    systems: Collection[System],
    inputs: Collection[Inputs],
    earlier: Collection[Evaluation],
) -> list[PlannedCell]:
    """Return what each cell of `rows` needs, in printed order.

    Args:
        inputs: as `find_inputs` returns them for the systems.
        earlier: the evaluation records.
    """
    there = {one.system.name: one for one in inputs}
    cells = []
    for row in rows:
        for system in (system for system in systems if system.stands_for(row)):
            for column in system.columns(row.table):
                if system.cited is not None:
                    needs = CellState.CITED, system.cited
                elif column.metric.is_complexity:
                    needs = CellState.COUNTED, ''
                else:
                    needs = _needs(there[system.name], column.metric.name, earlier)
                is_printed = row.cells[column.name] is not None and not system.variant
                what = (row.table, system.name, column.name)
                cells.append(PlannedCell(*what, is_printed, *needs))
    return cells


def _needs(inputs: Inputs, metric: str, earlier: Collection[Evaluation]) -> tuple[CellState, str]:
    """Return the state of an accuracy, and the reason."""
    if inputs.complete:
        images = f'{inputs.checkpoint} on {len(inputs.data.samples):,} images of {inputs.data.root}'
        subset = '' if inputs.data.complete else ', a subset, which is not compared with the paper'
        return CellState.EVALUATE, images + subset
    found = inputs.on_record(metric, earlier)
    if isinstance(found, Evaluation):
        return CellState.RECORD, found.origin
    state = CellState.UNRELEASED if inputs.system.weights is None else CellState.PUBLIC
    if inputs.checkpoint is not None:
        state = CellState.NO_DATA
    return state, found.sentence(inputs.system.name)


def by_table(cells: Sequence[PlannedCell], inputs: Collection[Inputs]) -> list[Part]:
    """Return for each table how many printed numbers are in each state, and what to do."""
    tables: dict[int | str, list[PlannedCell]] = {}
    for cell in cells:
        tables.setdefault(cell.table, []).append(cell)
    if len(tables) > 1:
        tables['all'] = list(cells)
    counts = {name: Counter(c.state for c in of if c.is_printed) for name, of in tables.items()}
    shown = [state for state in CellState if any(of[state] for of in counts.values())]
    heads = ['table', 'numbers', *shown]
    rows = [[str(t), str(of.total()), *(str(of[s]) for s in shown)] for t, of in counts.items()]
    systems = {state: {c.system for c in cells if c.state is state} for state in CellState}
    tasks = sorted({one.system.task for one in inputs if one.data is None})
    to_do = [
        f'{len(systems[CellState.EVALUATE])} systems would be evaluated.',
        *(f'{TASKS[task].validation_set} are missing: --data FOLDER.' for task in tasks),
        f'{len(systems[CellState.PUBLIC])} systems have public weights: `make checkpoints TABLE=N '
        'CHECKPOINTS=FOLDER` downloads those of a table.',
        f'{len(systems[CellState.UNRELEASED])} systems have no public weights: your own are '
        'expected as SYSTEM.safetensors in the folder of --checkpoints.',
        '--format json lists every cell.',
    ]
    return [TextTable(heads, rows, heads[1:]), '\n'.join(to_do)]
