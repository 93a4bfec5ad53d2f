"""The rows that a user adds to the paper's tables: of CSVs, of records, and of released weights."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import create_model

from reproduce.base.errors import UserError
from reproduce.base.files import NumberText, read_csv
from reproduce.judge.cells import Cell, read_cells
from reproduce.paper import TABLES, Row
from reproduce.report import candidate_rows
from reproduce.report.layout import Line, lines_of_row
from reproduce.report.speeds import Speed


def add(
    lines: Mapping[int, Sequence[Line]],
    what: str,
    evaluations: Path,
    speeds: Mapping[str, Speed],
) -> dict[int, list[Line]]:
    """Return the lines of the tables with further ones in their places.

    Args:
        what: a CSV; or a record or released weights, see `candidate_rows.find`, with a name for the
            row in front of it if need be, as in 'Ours=RECORD'. Rows of the same name join where
            each fills what the other leaves empty, as a FPN's and a UPerNet's of Table 7.
        evaluations: the folder of the records.
        speeds: what the benchmark measured, by timm model.

    Raises:
        UserError: if there is no such file or record, or what it holds has no place here.
    """
    label, equals, name = what.partition('=')
    if Path(what).is_file() or not equals:
        label, name = '', what
    if Path(name).suffix == '.csv':
        if label:
            raise UserError(f'--add {what}: a CSV names its rows itself; leave {label}= out.')
        found = _of_csv(Path(name), lines)
    else:
        candidate = candidate_rows.find(name, evaluations)
        if label:
            candidate = replace(candidate, label=label)
        found = candidate_rows.rows(candidate, lines, speeds)
    together = {table: list(of_table) for table, of_table in lines.items()}
    for line in found:
        _insert(together[line.table], line)
    return together


def _insert(of_table: list[Line], line: Line) -> None:
    """Insert a line at the end of its block, or join it with one of the same name."""
    for index, other in enumerate(of_table):
        same = other.added and (other.model, other.partial) == (line.model, line.partial)
        if same and not other.cells.keys() & line.cells.keys():
            cells, extras = {**other.cells, **line.cells}, {**other.extras, **line.extras}
            of_table[index] = replace(other, cells=cells, extras=extras)
            return
    places = [n for n, other in enumerate(of_table) if other.block == line.block]
    of_table.insert(places[-1] + 1 if places else len(of_table), line)


def _of_csv(path: Path, lines: Mapping[int, Sequence[Line]]) -> list[Line]:
    """Return the rows of a CSV.

    It has either the columns of `results/tableN.csv`, or those of one table of the paper: `model`,
    any of its columns, and `block`, the MAFormer at the end of whose block the row stands (without:
    at the end of the table).

    Raises:
        UserError: if the file is not so, naming the line and the column.
    """
    try:
        with path.open(newline='') as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path} cannot be read as CSV: {error}.') from None
    if 'metric' in header:
        return _added_cells(path, lines)
    if len(lines) == 1:
        (table,) = lines
        blocks = list(dict.fromkeys(line.block for line in lines[table]))
        return _added_rows(path, header, table, blocks)
    raise UserError(
        f'{path} has the columns of one table: name that table, as in '
        f'`python -m reproduce tables 5 --add {path}`.'
    )


def _added_cells(path: Path, lines: Mapping[int, Sequence[Line]]) -> list[Line]:
    models: dict[str, list[Cell]] = {}
    for cell in read_cells(path, lines):
        models.setdefault(cell.model, []).append(cell)
    return [
        line
        for model, of_model in models.items()
        for line in lines_of_row(Row(of_model[0].table, {'model': model}, {}), of_model, added=True)
    ]


def _added_rows(path: Path, header: Sequence[str], table: int, blocks: Sequence[str]) -> list[Line]:
    descriptions, metrics = TABLES[table].descriptions, TABLES[table].columns
    known = ('block', *descriptions, *metrics)
    if unknown := [name for name in header if name not in known]:
        raise UserError(
            f'{path}, column {unknown[0]}: Table {table} has no such column; expected any of '
            f'{", ".join(known)}.'
        )
    if 'model' not in header:
        raise UserError(f'{path}, line 1: there is no column model; expected one.')
    fields = {name: (NumberText if name in metrics else str, ...) for name in header}
    records = read_csv(path, create_model('AddedRow', **fields))
    if not records:
        raise UserError(f'{path} has no rows: expected a line for each model.')
    found = []
    for line, added in records:
        values = added.model_dump()
        if not values['model']:
            raise UserError(
                f'{path}, line {line}, column model: empty; expected the name of a model.'
            )
        block = values.get('block', '')
        if block and block not in blocks:
            raise UserError(
                f'{path}, line {line}, column block: {block!r} ends no block of Table {table}; '
                f'expected {" or ".join(filter(None, blocks)) or "nothing, as it has none"}.'
            )
        cells = {
            column: _added_cell(path, line, table, column, values)
            for column in metrics
            if values.get(column)
        }
        if not cells:
            raise UserError(
                f'{path}, line {line}: no value; expected one in any of {", ".join(metrics)}.'
            )
        description = {name: values.get(name, '') for name in descriptions}
        found.append(Line(table, values['model'], '', description, block, cells, added=True))
    return found


def _added_cell(path: Path, line: int, table: int, column: str, values: Mapping[str, str]) -> Cell:
    value = float(values[column])
    accuracy = not TABLES[table].columns[column].metric.is_complexity
    if value <= (1 if accuracy else 0) or (accuracy and value > 100):
        expected = 'percent, from 1 to 100' if accuracy else 'a positive number'
        raise UserError(f'{path}, line {line}, column {column}: {value:g}; expected {expected}.')
    return candidate_rows.added_cell(table, values['model'], column, measured=value)
