"""The cells of the results: what `results/tableN.csv` holds, one line a cell."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import pandas as pd

from reproduce.errors import UserError
from reproduce.files import write_atomically
from reproduce.folders import RESULTS
from reproduce.judge.verdict import Verdict
from reproduce.paper import METRICS, read_csv


@dataclass(frozen=True)
class Cell:
    """One number of one row. Every field but the last is a column of the CSV, in this order.

    `metric` is the column of the paper's table. `layer_flops_g` and `total_flops_g` give both
    counts where `metric` is a FLOP figure; `measured` is the one that `convention` names.
    `satisfied_by` is another system of the same row whose accuracy makes up for this one's.
    """

    table: int
    model: str
    system: str
    metric: str
    convention: str
    paper: str
    reference: str
    measured: float | None
    difference: float | None
    tolerance: float | None
    verdict: Verdict
    reference_verdict: Verdict
    reason: str
    layer_flops_g: float | None = None
    total_flops_g: float | None = None
    satisfied_by: str = field(default='', metadata={'column': False})

    @property
    def deviates(self) -> bool:
        """Whether it was measured and is not within the tolerance of the printed value."""
        fine = (Verdict.MATCH, Verdict.UNPRINTED)
        return self.measured is not None and self.verdict not in fine

    @property
    def value(self) -> float | None:
        """The measured value; the printed one where there is none."""
        if self.measured is not None:
            return self.measured
        return float(self.paper) if self.paper else None


COLUMNS = tuple(f.name for f in fields(Cell) if f.metadata.get('column', True))


def write(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Write `tableN.csv` for each table in `cells`; a file is replaced whole or not at all.

    The content depends on nothing but the cells, so the same inputs give the same bytes.

    Raises:
        UserError: if a file cannot be written; those that stood there are as they were.
    """
    paths = []
    for table in METRICS:
        chosen = [asdict(cell) for cell in cells if cell.table == table]
        if not chosen:
            continue
        frame = pd.DataFrame(chosen, columns=COLUMNS)
        path = folder / f'table{table}.csv'
        write_atomically(path, frame.to_csv(index=False, float_format='%.6f'))
        paths.append(path)
    return paths


def load_results(folder: Path = RESULTS, tables: Iterable[int] = METRICS) -> list[Cell]:
    """The cells of the `tables`, in the order of the files.

    Raises:
        UserError: if a file is missing or malformed, or holds a cell twice.
    """
    return [cell for number in tables for cell in load_cells(folder / f'table{number}.csv', number)]


def load_cells(path: Path, table: int) -> list[Cell]:
    """The cells of one file, all of which belong to `table`, in its order.

    Raises:
        UserError: if it is missing or malformed, naming the line and the column.
    """
    if not path.is_file():
        raise UserError(f'{path} does not exist: write it with `make reproduce-table{table}`.')
    cells = [
        Cell(**{name: _field(path, line, name, record) for name in COLUMNS})
        for line, record in read_csv(path, set(COLUMNS))
    ]
    for cell in cells:
        if cell.table != table:
            raise UserError(f'{path}, column table: {cell.table}; expected {table}.')
        if cell.metric not in METRICS[table]:
            raise UserError(
                f'{path}, column metric: {cell.metric!r} is no column of Table {table}; expected '
                f'one of {", ".join(METRICS[table])}.'
            )
    keys = Counter((cell.model, cell.system, cell.metric) for cell in cells)
    if doubled := [key for key, n in keys.items() if n > 1]:
        raise UserError(f'{path} holds {", ".join(doubled[0])} twice: remove one line.')
    return cells


def number(path: Path, line: int, column: str, text: str) -> float:
    """The finite number in a field of a CSV file.

    Raises:
        UserError: if it is none, naming the column.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f'{path}, line {line}, column {column}: {text!r} is not a number.')
    return value


def _field(path: Path, line: int, name: str, record: Mapping[str, str]) -> object:
    text = record[name]
    if name == 'table':
        return int(number(path, line, name, text))
    if name in ('verdict', 'reference_verdict'):
        try:
            return Verdict(text)
        except ValueError:
            known = ', '.join(Verdict)
            raise UserError(
                f'{path}, line {line}, column {name}: {text!r}; expected one of {known}.'
            ) from None
    if Cell.__annotations__[name] == float | None:
        return number(path, line, name, text) if text else None
    if name in ('paper', 'reference') and text:
        number(path, line, name, text)
    return text
