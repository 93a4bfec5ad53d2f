"""Rows of the printed tables, found by name and by what they have in common."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from reproduce.base.errors import UserError
from reproduce.paper import PAPER, TABLES, Row

Tables = Mapping[int, Sequence[Row]]

_PRINTED = re.compile(r'(?:(\w+):)?T(\d)\[([^]]+)]\.(\w+)')


def find_row(tables: Tables, table: int, name: str) -> Row:
    """Return the one row named 'MODEL', or 'MODEL, column=value' where a model has several."""
    model, *others = (part.strip() for part in name.split(','))
    wanted = {'model': model, **dict(part.partition('=')[::2] for part in others)}
    found = [row for row in tables[table] if wanted.items() <= row.description.items()]
    if len(found) != 1:
        raise UserError(f"Table {table} has {len(found)} rows '{name}', expected one.")
    return found[0]


def number(row: Row, column: str) -> Decimal:
    """Return a printed number of a row; UserError if the paper does not print it."""
    printed = row.cells.get(column)
    if printed is None:
        raise UserError(f"Table {row.table} prints no '{column}' of {row.model}.")
    return Decimal(printed.text)


def printed_value(text: str, publications: Mapping[str, Tables]) -> Decimal | int:
    """Return a printed number, the difference of two, or by how many percent one exceeds the other.

    Args:
        text: 'T4[Swin-T].top1' for a number of the paper, 'cswin:T4[CSWin-S].flops_g' for one of a
            source, 'A - B' for a difference, 'A % B' for percent.
        publications: the tables of the sources by name, those of the paper under ''.
    """
    values = [
        number(find_row(publications[source], int(table), row), column)
        for source, table, row, column in _PRINTED.findall(text)
    ]
    if ' % ' in text:
        return round(100 * (values[0] / values[1] - 1))
    return values[0] - sum(values[1:])


def best_rivals(tables: Tables, row: Row) -> dict[str, Row]:
    """Return the best baseline of the block of `row` in each accuracy that both print, by column.

    Models of the row's own family are not among them.
    """
    rivals = [
        other
        for other in tables[row.table]
        if other.block == row.block and not other.own and family(other) != family(row)
    ]
    best = {}
    for name, column in TABLES[row.table].columns.items():
        printed = [rival for rival in rivals if rival.cells[name]]
        if printed and row.cells[name] and not column.metric.is_complexity:
            best[name] = max(printed, key=lambda rival: number(rival, name))
    return best


def family(row: Row) -> str:
    """Return the name of a row's model without its size: 'CSWin' of 'CSWin-T'."""
    return row.model.rpartition('-')[0] or row.model


def same_model(a: Row, b: Row) -> bool:
    """Return whether both rows are of the model of one name."""
    return PAPER.aliases.get(a.model, a.model) == PAPER.aliases.get(b.model, b.model)
