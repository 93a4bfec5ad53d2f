"""Cells of the written tables and evaluation records, by whatever name a reader has for them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reproduce.base.errors import UserError
from reproduce.base.wording import nearest
from reproduce.evaluate import records
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell, load_cells
from reproduce.paper import TABLES

_TABLE = re.compile(r'(?:table|t)?_?(\d+)')


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
    """Return the record that `name` names, by its file, its stem or its hash, and its file.

    Args:
        folder: that of the records.

    Raises:
        UserError: if there is no such record, naming what is nearest, or a file is damaged.
    """
    kept = _kept(folder)
    if (found := _record([name], kept)) is not None:
        return found
    near = nearest(name, [e.stem for e in kept.values()])
    there = f'the nearest are {", ".join(near)}' if near else f'{folder} has none that resembles it'
    raise UserError(f"no record is called '{name}': {there}; name its file or its stem.")


def _kept(folder: Path) -> dict[Path, Evaluation]:
    return {folder / f'{e.stem}.json': e for e in records.load_all(folder)}


def find(words: Sequence[str], tables: Path, folder: Path) -> Found:
    """Return what `words` names: a record, by its file, its stem or its hash, or cells.

    Cells are named by any of table, row or system, and metric, in any order, with slashes or spaces
    between them: 'table4/swin_tiny_patch4_window7_224/top1', '4 Swin-T top1', 'Swin-T'. A part of a
    name is enough where none is the whole of it.

    Args:
        tables: the folder of the tables' CSVs.
        folder: that of the records.

    Raises:
        UserError: if nothing has such a name, naming what is nearest, or a file is damaged.
    """
    kept = _kept(folder)
    paths = {number: tables / f'table{number}.csv' for number in TABLES}
    cells = [c for n, path in paths.items() if path.is_file() for c in load_cells(path, n)]
    latest = {cell.key: found for cell in cells if (found := _latest(cell, kept)) is not None}
    if (record := _record(words, kept)) is not None:
        path, evaluation = record
        of_it = [c for c in cells if c.key in latest and latest[c.key] == evaluation]
        return Found(of_it, {path: evaluation}, latest)
    if not cells:
        raise UserError(f'{tables} has no tables: write them with `python -m reproduce table`.')
    chosen = _named(words, cells, [e.stem for e in kept.values()])
    behind = [latest[cell.key] for cell in chosen if cell.key in latest]
    return Found(chosen, {path: e for path, e in kept.items() if e in behind}, latest)


def address(cell: Cell) -> str:
    """Return the unique name of a cell: 'table5/SYSTEM/METRIC'."""
    return f'table{cell.table}/{cell.system}/{cell.metric}'


def _latest(cell: Cell, kept: Mapping[Path, Evaluation]) -> Evaluation | None:
    """Return the latest record of a cell's system; one on a part of the data if need be."""
    what = kept.values(), cell.system, cell.column.metric.name
    return records.latest(*what) or records.latest(*what, complete=False)


def _record(
    words: Sequence[str], kept: Mapping[Path, Evaluation]
) -> tuple[Path, Evaluation] | None:
    if len(words) != 1:
        return None
    path = Path(words[0])
    if path.suffix == '.json' and path.is_file():
        return path, records.load(path)
    for known, evaluation in kept.items():
        if f'{path.name}.'.startswith(f'{evaluation.stem}.') or words[0] == evaluation.key:
            return known, evaluation
    return None


def _named(words: Sequence[str], cells: list[Cell], stems: list[str]) -> list[Cell]:
    """Return those of `cells` that fit every part of `words`; `stems` are of the records."""
    for part in '/'.join(words).split('/'):
        name = _plain(part)
        fitting = [c for c in cells if name in {_plain(n) for n in _names(c)}] or [
            c
            for c in cells
            if name and any(f'_{name}' in f'_{_plain(known)}' for known in (c.model, c.system))
        ]
        if not fitting:
            near = nearest(part, [*(n for c in cells for n in _names(c)), *stems])
            raise UserError(
                f"no cell or record is called '{'/'.join(words)}': for '{part}', the nearest are "
                f'{", ".join(near or sorted({address(c) for c in cells})[:3])}.'
            )
        cells = fitting
    return cells


def _names(cell: Cell) -> tuple[str, ...]:
    return f'table{cell.table}', cell.model, cell.system, cell.metric, cell.column.metric.name


def _plain(word: str) -> str:
    plain = re.sub(r'[\s\-_.…*]+', '_', word.lower()).strip('_')
    table = _TABLE.fullmatch(plain)
    return f'table_{table[1]}' if table else plain
