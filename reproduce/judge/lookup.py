"""Cells of the written tables and evaluation records, found by the names that readers give them."""

import re
from collections.abc import Sequence
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
    """Lines of `results/tableN.csv`, and the records that they come from, by file."""

    cells: list[Cell]
    evaluations: dict[Path, Evaluation]


def find_record(name: str, folder: Path) -> tuple[Path, Evaluation]:
    """Return the record of the given file, stem or hash, and its file.

    Args:
        folder: that of the records.

    Raises:
        UserError: if there is no such record, naming what is nearest, or a file is damaged.
    """
    path = Path(name)
    if path.suffix == '.json' and path.is_file():
        return path, records.load(path)
    kept = records.load_all(folder)
    for evaluation in kept:
        if f'{path.name}.'.startswith(f'{evaluation.stem}.') or name == evaluation.key:
            return folder / f'{evaluation.stem}.json', evaluation
    near = nearest(name, [e.stem for e in kept])
    there = f'the nearest are {", ".join(near)}' if near else f'{folder} has none that resembles it'
    raise UserError(f"no record is called '{name}': {there}; name its file or its stem.")


def find(words: Sequence[str], tables: Path, folder: Path) -> Found:
    """Return a record with its cells, or cells with their records.

    A record is named by its file, its stem or its hash. Cells are named by any of table, row or
    system, and metric, in any order, with slashes or spaces between them:
    'table4/swin_tiny_patch4_window7_224/top1', '4 Swin-T top1', 'Swin-T'. A part of a name is
    enough where none is the whole of it.

    Args:
        tables: the folder of the tables' CSVs.
        folder: that of the records.

    Raises:
        UserError: if nothing has such a name, naming what is nearest, or a file is damaged.
    """
    paths = {number: tables / f'table{number}.csv' for number in TABLES}
    cells = [c for n, path in paths.items() if path.is_file() for c in load_cells(path, n)]
    if len(words) == 1:
        try:
            path, evaluation = find_record(words[0], folder)
        except UserError:
            if words[0].endswith('.json'):
                raise
        else:
            return Found([c for c in cells if c.record == evaluation.stem], {path: evaluation})
    if not cells:
        raise UserError(f'{tables} has no tables: write them with `python -m reproduce table`.')
    name = '/'.join(words)
    for part in name.split('/'):
        wanted = _plain(part)
        fitting = [c for c in cells if wanted in map(_plain, _names(c))] or [
            c
            for c in cells
            if wanted and any(f'_{wanted}' in f'_{_plain(known)}' for known in (c.model, c.system))
        ]
        if not fitting:
            known = [*(n for c in cells for n in _names(c)), *(c.record for c in cells if c.record)]
            near = nearest(part, known) or sorted({address(c) for c in cells})[:3]
            raise UserError(
                f"no cell or record is called '{name}': for '{part}', the nearest are "
                f'{", ".join(near)}.'
            )
        cells = fitting
    files = (folder / f'{stem}.json' for stem in sorted({c.record for c in cells if c.record}))
    return Found(cells, {path: records.load(path) for path in files if path.is_file()})


def address(cell: Cell) -> str:
    """Return the unique name of a cell: 'table5/SYSTEM/METRIC'."""
    return f'table{cell.table}/{cell.system}/{cell.metric}'


def _names(cell: Cell) -> tuple[str, ...]:
    return f'table{cell.table}', cell.model, cell.system, cell.metric, cell.column.metric.name


def _plain(word: str) -> str:
    """Return a name in lower case with underscores; of a table 'table_4', also for '4' or 'T4'."""
    plain = re.sub(r'[\s\-_.…*]+', '_', word.lower()).strip('_')
    table = re.fullmatch(r'(?:table|t)?_?(\d+)', plain)
    return f'table_{table[1]}' if table else plain
