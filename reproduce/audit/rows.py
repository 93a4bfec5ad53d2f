"""Rows of the printed tables, found by name and by what they have in common."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from reproduce.base.errors import UserError
from reproduce.paper import TABLES, Row

Tables = Mapping[int, Sequence[Row]]

# Table 3 prints DS-Net without its size; parameters and Top-1 are those of DS-Net-S in Table 4.
_ALIASES = {'DS-Net': 'DS-Net-S'}


def find_row(tables: Tables, table: int, name: str) -> Row:
    """Return a row by 'MODEL', or by 'MODEL, column=value' where a model has several rows.

    Raises:
        UserError: if not exactly one row has that name.
    """
    model, *others = (part.strip() for part in name.split(','))
    wanted = {'model': model, **dict(part.partition('=')[::2] for part in others)}
    found = [row for row in tables.get(table, ()) if wanted.items() <= row.description.items()]
    if len(found) != 1:
        raise UserError(
            f"Table {table} has {len(found)} rows '{name}', expected one: give the printed model "
            'and, where it is printed more than once, column=value.'
        )
    return found[0]


def number(row: Row, column: str) -> Decimal:
    """Return a printed number of a row.

    Raises:
        UserError: if the paper does not print it.
    """
    printed = row.cells.get(column)
    if printed is None:
        raise UserError(f"Table {row.table} prints no '{column}' of {row.model}.")
    return Decimal(printed.text)


def best_rivals(tables: Tables, row: Row) -> dict[str, Row]:
    """Return the best baseline of the block of `row` in each accuracy that both print, by column.

    Models of the row's own family are not among them.
    """
    best = {}
    for name, column in TABLES[row.table].columns.items():
        rivals = [
            other
            for other in tables[row.table]
            if other.block == row.block and not other.own and family(other) != family(row)
        ]
        printed = [rival for rival in rivals if rival.cells[name]]
        if printed and row.cells[name] and not column.metric.is_complexity:
            best[name] = max(printed, key=lambda rival: number(rival, name))
    return best


def family(row: Row) -> str:
    """Return the name of a row's model without its size: 'CSWin' of 'CSWin-T'."""
    return row.model.rpartition('-')[0] or row.model


def same_model(a: Row, b: Row) -> bool:
    """Return whether both rows are of the model of one name."""
    return _ALIASES.get(a.model, a.model) == _ALIASES.get(b.model, b.model)
