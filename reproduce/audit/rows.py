"""Rows of the printed tables: found by name, and by what they have in common."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from reproduce.base.errors import UserError
from reproduce.paper import TABLES, Row

Tables = Mapping[int, Sequence[Row]]

# Table 3 prints DS-Net without its size; parameters and Top-1 are those of DS-Net-S in Table 4.
_ALIASES = {'DS-Net': 'DS-Net-S'}


def find_row(tables: Tables, table: int, selectors: str) -> Row:
    """Return the row of `table` that 'MODEL, column=value, ...' names.

    Raises:
        UserError: if that is not exactly one row.
    """
    model, *others = (part.strip() for part in selectors.split(','))
    wanted = {'model': model, **dict(part.partition('=')[::2] for part in others)}
    found = [
        row
        for row in tables.get(table, ())
        if all(row.description.get(column) == value for column, value in wanted.items())
    ]
    if len(found) != 1:
        raise UserError(
            f"'T{table}[{selectors}]' names {len(found)} printed rows, expected one: give the "
            'printed model and, where it is printed more than once, column=value.'
        )
    return found[0]


def accuracies(row: Row) -> dict[str, Decimal]:
    """Return the printed accuracies of `row`."""
    return {
        name: Decimal(printed.text)
        for name, column in TABLES[row.table].columns.items()
        if not column.metric.is_complexity and (printed := row.cells[name])
    }


def family(row: Row) -> str:
    """'CSWin' of 'CSWin-T'."""
    return row.model.rpartition('-')[0] or row.model


def group(rows: Sequence[Row], row: Row) -> list[Row]:
    """Return the rows of the same group of sizes as `row`."""
    groups: list[list[Row]] = [[]]
    for i, each in enumerate(rows):
        groups[-1].append(each)
        later = {r.model for r in rows[i + 1 :]}
        if family(each) == 'MAFormer' and each.model not in later:
            groups.append([])
    return next(g for g in groups if row in g)


def same_model(a: Row, b: Row) -> bool:
    """Return whether both rows are of the model of one name."""
    return _ALIASES.get(a.model, a.model) == _ALIASES.get(b.model, b.model)
