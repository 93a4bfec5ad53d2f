"""Cells of the written tables and evaluation records, found by the names that readers give them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reproduce.base.errors import UserError
from reproduce.base.wording import nearest
from reproduce.evaluate import records
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell, load_cells
from reproduce.paper import TABLES


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        cells: lines of `results/tableN.csv`.
        evaluations: the records that they come from, or the one that was asked for, by file.
        latest: the latest record for each of the cells, by the cell's key, where there is one.
    """

    cells: list[Cell]
    evaluations: dict[Path, Evaluation]
    latest: dict[tuple[int, str, str, str], Evaluation]


def find_record(name: str, folder: Path) -> tuple[Path, Evaluation]:
    """Return the record of the given file, stem or hash, and its file.

    Args:
        folder: that of the records.

    Raises:
        UserError: if there is no such record, naming what is nearest, or a file is damaged.
    """
    kept = records.load_all(folder)
    if (found := _record(name, kept, folder)) is not None:
        return found
    near = nearest(name, [e.stem for e in kept])
    there = f'the nearest are {", ".join(near)}' if near else f'{folder} has none that resembles it'
    raise UserError(f"no record is called '{name}': {there}; name its file or its stem.")


def find(words: Sequence[str], tables: Path, folder: Path) -> Found:
    """Return a record, by its file, its stem or its hash, or cells.

    Cells are named by any of table, row or system, and metric, in any order, with slashes or spaces
    between them: 'table4/swin_tiny_patch4_window7_224/top1', '4 Swin-T top1', 'Swin-T'. A part of a
    name is enough where none is the whole of it.

    Args:
        tables: the folder of the tables' CSVs.
        folder: that of the records.

    Raises:
        UserError: if nothing has such a name, naming what is nearest, or a file is damaged.
    """
    kept = records.load_all(folder)
    paths = {number: tables / f'table{number}.csv' for number in TABLES}
    cells = [c for n, path in paths.items() if path.is_file() for c in load_cells(path, n)]
    latest = {cell.key: found for cell in cells if (found := _latest(cell, kept)) is not None}
    if len(words) == 1 and (record := _record(words[0], kept, folder)) is not None:
        path, evaluation = record
        of_it = [c for c in cells if latest.get(c.key) == evaluation]
        return Found(of_it, {path: evaluation}, latest)
    if not cells:
        raise UserError(f'{tables} has no tables: write them with `python -m reproduce table`.')
    chosen = _named('/'.join(words), cells, kept)
    behind = [latest[cell.key] for cell in chosen if cell.key in latest]
    return Found(chosen, {folder / f'{e.stem}.json': e for e in kept if e in behind}, latest)


def address(cell: Cell) -> str:
    """Return the unique name of a cell: 'table5/SYSTEM/METRIC'."""
    return f'table{cell.table}/{cell.system}/{cell.metric}'


def _latest(cell: Cell, kept: Iterable[Evaluation]) -> Evaluation | None:
    """Return the latest record of a cell's system; one on a part of the data if need be."""
    what = kept, cell.system, cell.column.metric.name
    return records.latest(*what) or records.latest(*what, complete=False)


def _record(name: str, kept: Iterable[Evaluation], folder: Path) -> tuple[Path, Evaluation] | None:
    path = Path(name)
    if path.suffix == '.json' and path.is_file():
        return path, records.load(path)
    for evaluation in kept:
        if f'{path.name}.'.startswith(f'{evaluation.stem}.') or name == evaluation.key:
            return folder / f'{evaluation.stem}.json', evaluation
    return None


def _named(name: str, cells: list[Cell], kept: Iterable[Evaluation]) -> list[Cell]:
    """Return those of `cells` that fit every part of `name`."""
    for part in name.split('/'):
        wanted = _plain(part)
        fitting = [c for c in cells if wanted in map(_plain, _names(c))] or [
            c
            for c in cells
            if wanted and any(f'_{wanted}' in f'_{_plain(known)}' for known in (c.model, c.system))
        ]
        if not fitting:
            known = [*(n for c in cells for n in _names(c)), *(e.stem for e in kept)]
            near = nearest(part, known) or sorted({address(c) for c in cells})[:3]
            raise UserError(
                f"no cell or record is called '{name}': for '{part}', the nearest are "
                f'{", ".join(near)}.'
            )
        cells = fitting
    return cells


def _names(cell: Cell) -> tuple[str, ...]:
    return f'table{cell.table}', cell.model, cell.system, cell.metric, cell.column.metric.name


def _plain(word: str) -> str:
    """Return a name in lower case with underscores; of a table 'table_4', also for '4' or 'T4'."""
    plain = re.sub(r'[\s\-_.…*]+', '_', word.lower()).strip('_')
    table = re.fullmatch(r'(?:table|t)?_?(\d+)', plain)
    return f'table_{table[1]}' if table else plain
