"""Cells of the written tables and evaluation records, found by the names that readers give them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reproduce.base.errors import UserError
from reproduce.base.folders import PAPER_OPTION
from reproduce.evaluate import records
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell, load_cells
from reproduce.paper import TABLES


class Found(NamedTuple):
    """Lines of `results/tableN.csv`, and the records that they come from, by file."""

    cells: list[Cell]
    evaluations: dict[Path, Evaluation]


def find_record(name: str, folder: Path) -> tuple[Path, Evaluation]:
    """Return the record of the given file, stem or key, and its file.

    Args:
        folder: that of the records.

    Raises:
        UserError: if there is no such record, or a file is damaged.
    """
    path = Path(name)
    if path.suffix == '.json' and path.is_file():
        return path, records.load(path)
    for evaluation in records.load_all(folder):
        if f'{path.name}.'.startswith(f'{evaluation.stem}.') or name == evaluation.key:
            return folder / f'{evaluation.stem}.json', evaluation
    raise UserError(f"no record in {folder} is called '{name}': name its file, stem or key.")


def find(words: Sequence[str], tables: Path, folder: Path) -> Found:
    """Return a record with its cells, or cells with their records.

    Cells are named by any of table, row or system, and metric, in any order, with slashes or spaces
    between them: 'table4/swin_tiny_patch4_window7_224/top1', '4 Swin-T top1', 'Swin-T'.

    Args:
        words: of the name of a cell, or the name of a record as `find_record` takes it.
        tables: the folder of the tables' CSVs.
        folder: that of the records.

    Raises:
        UserError: if nothing has such a name, or a file is damaged.
    """
    paths = {number: tables / f'table{number}.csv' for number in TABLES}
    cells = [c for n, path in paths.items() if path.is_file() for c in load_cells(path, n)]
    kept = {e.stem: e for e in records.load_all(folder)}
    name = '/'.join(words)
    if name.endswith('.json') or name in {word for e in kept.values() for word in (e.stem, e.key)}:
        path, evaluation = find_record(name, folder)
        return Found([c for c in cells if c.record == evaluation.stem], {path: evaluation})
    if not cells:
        again = f'write them with `python -m reproduce{PAPER_OPTION} table`.'
        raise UserError(f'{tables} has no tables: {again}')
    for part in name.split('/'):
        fitting = [c for c in cells if part.lower() in map(str.lower, _names(c))]
        if not fitting:
            raise UserError(f"no cell or record is called '{name}': '{part}' is not found.")
        cells = fitting
    stems = sorted({c.record for c in cells} & kept.keys())
    return Found(cells, {folder / f'{stem}.json': kept[stem] for stem in stems})


def address(cell: Cell) -> str:
    """Return the unique name of a cell: 'table5/SYSTEM/METRIC'."""
    return f'table{cell.table}/{cell.system}/{cell.metric}'


def _names(cell: Cell) -> tuple[str, ...]:
    table = f'table{cell.table}', str(cell.table)
    return *table, cell.model, cell.system, cell.metric, cell.column.metric.name
