"""Cells of the written tables and evaluation records, found by the names that readers give them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reproduce.base.errors import UserError
from reproduce.base.folders import PAPER_OPTION, RELEASED
from reproduce.evaluate import records
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell, load_cells
from reproduce.paper import TABLES


class Found(NamedTuple):
    """Lines of `results/tableN.csv`, and the records that they come from, by file."""

    cells: list[Cell]
    evaluations: dict[Path, Evaluation]


def load_kept(folder: Path) -> dict[Path, Evaluation]:
    """Return the records in `folder` and then those of the released weights, by file.

    Raises:
        UserError: if one is malformed.
    """
    return {
        place / f'{evaluation.stem}.json': evaluation
        for place in (folder, RELEASED)
        for evaluation in records.load_all(place)
    }


def find_record(name: str, folder: Path) -> tuple[Path, Evaluation]:
    """Return the record of the given file, stem or key, and its file.

    A name of released weights, of a system or of a model is that of their latest record.

    Args:
        folder: that of the records; those in the repository are found, too.

    Raises:
        UserError: if there is no such record, or a file is damaged.
    """
    path = Path(name)
    if path.suffix == '.json' and path.is_file():
        return path, records.load(path)
    fitting = [
        (file, e)
        for file, e in load_kept(folder).items()
        if f'{path.name}.'.startswith(f'{e.stem}.') or name in {*_names_of(e), e.system, e.model}
    ]
    if fitting:
        return max(fitting, key=lambda found: (not found[1].overridden, found[1].provenance.date))
    raise UserError(f"no record in {folder} or {RELEASED} is '{name}': name its file, stem or key.")


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
    kept = load_kept(folder)
    name = '/'.join(words)
    if name.endswith('.json') or any(name in _names_of(e) for e in kept.values()):
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
    stems = {c.record for c in cells}
    return Found(cells, {path: e for path, e in kept.items() if e.stem in stems})


def address(cell: Cell) -> str:
    """Return the unique name of a cell: 'table5/SYSTEM/METRIC'."""
    return f'table{cell.table}/{cell.system}/{cell.metric}'


def _names_of(e: Evaluation) -> set[str]:
    return {e.stem, e.key, e.checkpoint.released} - {''}


def _names(cell: Cell) -> tuple[str, ...]:
    table = f'table{cell.table}', str(cell.table)
    return *table, cell.model, cell.system, cell.metric, cell.column.metric.name
