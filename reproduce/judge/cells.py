"""The cells of the results: what `results/tableN.csv` holds, one line a cell."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from reproduce.base.errors import UserError
from reproduce.base.files import NumberText, OptionalNumber, read_csv, write_csv
from reproduce.base.folders import PAPER_OPTION, RESULTS
from reproduce.evaluate.accuracies import NotRun
from reproduce.judge.verdict import Agreement, Verdict
from reproduce.paper import TABLES, Column, Row, load_table
from reproduce.systems import load_systems


class Cell(BaseModel, extra='forbid', frozen=True):
    """One number of one row; docs/results.md describes the columns of the CSV."""

    table: int
    model: str
    system: str
    metric: str
    convention: str = ''
    paper: NumberText
    reference: NumberText = ''
    measured: OptionalNumber
    difference: OptionalNumber = None
    tolerance: OptionalNumber = None
    verdict: Verdict
    reference_verdict: Verdict
    reason: str = ''
    layer_flops_g: OptionalNumber = None
    total_flops_g: OptionalNumber = None
    record: str = ''
    variant: str = ''
    published: Agreement | Literal[''] = ''
    reference_source: str = ''
    resolvable: OptionalNumber = None
    backbone: OptionalNumber = None
    satisfied_by: str = ''  # another system of the row, whose accuracy makes up for this one's
    missing: NotRun | None = Field(None, exclude=True)
    row: Row | None = Field(None, exclude=True)  # None for a cell that a user adds

    @property
    def column(self) -> Column:
        """The column of the paper's table, which knows its metric and its framework."""
        return TABLES[self.table].columns[self.metric]

    @property
    def key(self) -> tuple[int, str, str, str]:
        """What distinguishes the cell from all others."""
        return self.table, self.model, self.system, self.metric

    @property
    def deviates(self) -> bool:
        """Whether it was measured and is not within the tolerance of the printed value."""
        fine = (Verdict.MATCH, Verdict.UNPRINTED)
        return self.measured is not None and self.verdict not in fine

    @property
    def printed(self) -> str:
        """The printed value where it is the system's own, and '' where it is not.

        A row has one accuracy, which is not shown as that of a variant that the paper has not.
        """
        return self.paper if self.column.metric.is_complexity or not self.variant else ''

    @property
    def value(self) -> float | None:
        """The measured value; where there is none, the printed one if it is the system's own."""
        if self.measured is not None:
            return self.measured
        return float(self.printed) if self.printed else None

    @property
    def distinct_convention(self) -> str:
        """The cell's FLOP convention; '' where both count the same, as without attention."""
        return '' if self.layer_flops_g == self.total_flops_g is not None else self.convention

    def flops(self, convention: str) -> float | None:
        """Return the FLOPs that 'layer' or 'total' names, in G, where they were counted."""
        return self.layer_flops_g if convention == 'layer' else self.total_flops_g


def write(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Write `tableN.csv` for each table in `cells`, and return the paths.

    A file is replaced whole or not at all. The same cells give the same bytes.

    Raises:
        UserError: if a file cannot be written; earlier files are unchanged then.
    """
    paths = []
    for table in sorted({cell.table for cell in cells}):
        lines = [cell.model_dump(mode='json') for cell in cells if cell.table == table]
        lines = [
            {k: f'{v:.6f}' if isinstance(v, float) else v for k, v in line.items()}
            for line in lines
        ]
        paths.append(folder / f'table{table}.csv')
        write_csv(paths[-1], Cell, lines)
    return paths


def load_results(folder: Path = RESULTS, tables: Iterable[int] = TABLES) -> list[Cell]:
    """Return the cells of the `tables`, in the order of the files.

    Raises:
        UserError: as `load_cells` does.
    """
    return [cell for number in tables for cell in load_cells(folder / f'table{number}.csv', number)]


def load_cells(path: Path, table: int) -> list[Cell]:
    """Return the cells of one file of results, in its order, each with its printed row.

    Raises:
        UserError: if it is missing, empty or malformed, naming the line and the column, or a cell
            is of no system and metric of the table, or is there twice.
    """
    again = f'write it with `python -m reproduce{PAPER_OPTION} table {table}`.'
    if not path.is_file():
        raise UserError(f'{path} does not exist: {again}')
    rows = {
        (table, row.model, system.name, column.name): row
        for row in load_table(table)
        for system in load_systems()
        if system.stands_for(row)
        for column in system.columns(table)
    }
    cells: dict[tuple[int, str, str, str], Cell] = {}
    for number, cell in read_csv(path, Cell):
        if cell.key in cells or cell.key not in rows:
            problem = 'is there twice' if cell.key in cells else 'is not a cell of the table'
            what = '/'.join(map(str, cell.key))
            raise UserError(f'{path}, line {number}: {what} {problem}; {again}')
        cells[cell.key] = cell.model_copy(update={'row': rows[cell.key]})
    if not cells:
        raise UserError(f'{path} has no rows: {again}')
    return list(cells.values())
