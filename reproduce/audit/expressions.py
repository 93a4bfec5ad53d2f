"""Expressions over printed cells, as `claims.csv` has them: data, never executed as code.

    T4[MAFormer-L].top1 - T4[CSWin-B].top1          numbers, + - * /, < <= > >= == and `and`
    T2[MAFormer-S, global_features=GLD].top1        further columns of the table name a row uniquely
    leads(T6[MAFormer-S])                           the row is above its rivals in every accuracy

A table lists its rows in groups by size, each of which ends with the rows of one MAFormer. The
rivals of a row are those of its group that are of another family and no MAFormer.
"""

import ast
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from reproduce.audit.rows import Tables, accuracies, family, find_row, group
from reproduce.base.errors import UserError
from reproduce.paper import Row

_ROW = r'T(?P<table>\d+)\[(?P<selectors>[^\]]*)\]'
_CELL = re.compile(rf'{_ROW}\.(?P<metric>\w+)|leads\({_ROW.replace("P<", "P<leading_")}\)')
_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}


@dataclass(frozen=True)
class Result:
    """An evaluated expression.

    Attributes:
        value: a number, or whether the comparison holds.
        rows: the printed rows that it reads.
        shown: the expression with the cells' values in place.
    """

    value: Decimal | bool
    rows: tuple[Row, ...]
    shown: str


@dataclass
class _Reader:
    tables: Tables
    rows: list[Row] = field(default_factory=list)
    values: dict[str, Decimal | bool] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)

    def read(self, match: re.Match) -> str:
        if match['leading_table']:
            row = find_row(self.tables, int(match['leading_table']), match['leading_selectors'])
            value, shown, read = _leads(self.tables[row.table], row)
        else:
            row = find_row(self.tables, int(match['table']), match['selectors'])
            value, shown, read = _cell(row, match['metric']), '', [row]
            shown = str(value)
        self.rows.extend(read)
        name = f'cell_{len(self.values)}'
        self.values[name], self.shown[name] = value, shown
        return name


def evaluate(expression: str, tables: Tables) -> Result:
    """Compute `expression` from the printed cells, in decimal.

    Raises:
        UserError: if it is no expression of this grammar, or names a row or a cell that does not
            exist.
    """
    reader = _Reader(tables)
    with_names = _CELL.sub(reader.read, expression)
    try:
        value = _value(ast.parse(with_names.strip(), mode='eval').body, reader.values)
    except (SyntaxError, ValueError, ArithmeticError):
        raise UserError(
            f"'{expression}' is no expression over printed cells: expected numbers, cells such as "
            'T4[MAFormer-L].top1, leads(T6[MAFormer-S]), + - * / and comparisons.'
        ) from None
    shown = re.sub(r'cell_\d+', lambda name: reader.shown[name[0]], with_names)
    return Result(value, tuple(reader.rows), shown)


def _cell(row: Row, metric: str) -> Decimal:
    printed = row.cells.get(metric)
    if printed is None:
        raise UserError(f"Table {row.table} prints no '{metric}' for {row.model}.")
    return Decimal(printed.text)


def _leads(rows: Sequence[Row], row: Row) -> tuple[bool, str, list[Row]]:
    rivals = [rival for rival in group(rows, row) if family(rival) not in (family(row), 'MAFormer')]
    read, behind = [row], []
    for metric, ours in accuracies(row).items():
        printed = [rival for rival in rivals if metric in accuracies(rival)]
        if not printed:
            continue
        best = max(printed, key=lambda rival: accuracies(rival)[metric])
        theirs = accuracies(best)[metric]
        read.append(best)
        if ours <= theirs:
            behind.append(f'{metric} {ours}, {best.model} {theirs}')
    return not behind, '; '.join(behind) or f'{row.model} leads its group', read


def _value(node: ast.expr, values: Mapping[str, Decimal | bool]) -> Decimal | bool:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return Decimal(str(node.value))
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_value(node.left, values), _value(node.right, values))
        case ast.Compare():
            operands = [_value(n, values) for n in (node.left, *node.comparators)]
            operations = [_COMPARISONS.get(type(op)) for op in node.ops]
            if None not in operations:
                pairs = zip(operations, operands[:-1], operands[1:], strict=True)
                return all(operation(a, b) for operation, a, b in pairs)
        case ast.BoolOp(op=ast.And()):
            return all([_value(n, values) for n in node.values])
    raise ValueError('outside the grammar')
