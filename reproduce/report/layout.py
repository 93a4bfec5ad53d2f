"""The lines and columns of the tables that are shown, which the cells of the results form."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from reproduce.base.errors import UserError
from reproduce.base.wording import nearest
from reproduce.judge.cells import Cell
from reproduce.paper import TABLES, Column, Row
from reproduce.systems import System, load_systems

DAGGER = '†'  # at the name of a model with token labeling

CONVENTION_MARKS = {'layer': 'ˡ', 'total': 'ᵗ'}
CONVENTION_MEANINGS = {
    'layer': 'layer FLOPs, of convolutions and linear layers',
    'total': "total FLOPs, attention's products included",
}

_DESCRIPTIONS = {
    'embed_dims': 'Dim',
    'depths': 'Blocks',
    'local_attention': 'Local attention',
    'global_features': 'Global features',
    'dual_stream': 'Dual-stream design',
    'train_size': 'Train size',
    'test_size': 'Test size',
}
# Those of them that distinguish the rows of the ablations, which have one label.
_DESIGNS = ('local_attention', 'global_features', 'dual_stream')

# The printed order of the columns after the model, where it is not that of the numbers. Token
# labeling is a dagger at the name of the model.
_ORDER = {
    1: ('embed_dims', 'depths', 'params_m', 'flops_g', 'top1'),
    2: ('params_m', 'local_attention', 'global_features', 'top1'),
    3: ('params_m', 'dual_stream', 'top1'),
    4: ('train_size', 'test_size', 'params_m', 'flops_g', 'top1'),
}


@dataclass(frozen=True)
class ShownColumn:
    """A column of a shown table.

    Attributes:
        name: unique in its table.
        heading: of the column.
        printed: the column of the paper's table with the same numbers; None for a description.
        convention: of a column with the FLOPs of all models in one convention, which the paper does
            not print: 'layer' or 'total'; '' for the others.
    """

    name: str
    heading: str
    printed: Column | None = None
    convention: str = ''

    @property
    def group(self) -> str:
        """The heading above the column's own; '' where there is none."""
        return self.printed.group if self.printed else ''

    @property
    def names(self) -> set[str]:
        """What users may call the column: its own name, or that of its metric."""
        if self.convention:
            return {self.name, f'{self.convention}_flops_g'}
        return {self.name, self.printed.metric.name if self.printed else self.name}


@cache
def columns(table: int) -> tuple[ShownColumn, ...]:
    """Return all columns that `table` can show, in order."""
    found = []
    for name in _ORDER.get(table, TABLES[table].columns):
        printed = TABLES[table].columns.get(name)
        heading = printed.metric.heading if printed else _DESCRIPTIONS[name]
        found.append(ShownColumn(name, heading, printed))
        if printed and printed.metric.name == 'flops_g':
            prefix = name.removesuffix('flops_g')
            for one in CONVENTION_MARKS:
                title = f'{one.capitalize()} FLOPs (G)'
                found.append(ShownColumn(f'{prefix}{one}_flops_g', title, printed, one))
    return tuple(found)


@dataclass(frozen=True)
class Line:
    """One line of a shown table: a row, built in one way.

    Attributes:
        row: the printed row, or the one that a user added.
        variant: that of its cells; '' for the system that is built as the row is printed.
        cells: by column; those of Table 7 are of two systems, one for each framework.
        added: whether a user added the line.
        partial: the images that its accuracies were measured on, if they are not the complete
            validation set; such accuracies are never the best ones.
    """

    row: Row
    variant: str
    cells: Mapping[str, Cell]
    added: bool = False
    partial: str = ''

    @property
    def is_labeled(self) -> bool:
        """Whether the row is of a model with token labeling, in the table that says so."""
        return self.row.table == 4 and self.row.description.get('token_labeling') == 'true'

    @property
    def label(self) -> str:
        """The name of the model, with its dagger, variant and images."""
        notes = ''.join(f' ({note})' for note in (self.variant, self.partial) if note)
        return f'{self.row.model}{DAGGER if self.is_labeled else ""}{notes}'

    @property
    def name(self) -> str:
        """The label with the design of the row, which distinguishes the rows of the ablations."""
        design = [self.row.description.get(key, '') for key in _DESIGNS]
        design = [text for text in design if text not in ('', 'None')]
        return f'{self.label}: {", ".join(design)}' if design else self.label

    @property
    def systems(self) -> tuple[str, ...]:
        """The names of the systems of the cells."""
        return tuple(dict.fromkeys(cell.system for cell in self.cells.values()))

    @property
    def names(self) -> set[str]:
        """What users may call the line: its printed name, its label, or a system."""
        return {self.row.model, self.label, *self.systems}

    def flops(self, column: ShownColumn) -> float | None:
        """Return the FLOPs in G of a column of one convention, where they were counted."""
        cell = self.cells.get(column.printed.name)
        return cell.flops(column.convention) if cell else None

    def described(self, column: str) -> str:
        """Return a description as the paper writes it: '[3, 5, 8, 3]', '224²'."""
        text = self.row.description.get(column, '')
        if column == 'depths' and self.variant:
            text = self.variant
        if column in ('embed_dims', 'depths') and text:
            return f'[{text.replace("-", ", ")}]'
        return f'{text}²' if column in ('train_size', 'test_size') and text else text


def all_lines(cells: Iterable[Cell]) -> dict[int, list[Line]]:
    """Return the lines of every table that has cells, in the order of the cells."""
    rows: dict[Row, dict[str, dict[str, Cell]]] = {}
    for cell in cells:
        rows.setdefault(cell.row, {}).setdefault(cell.variant, {})[cell.metric] = cell
    found: dict[int, list[Line]] = {number: [] for number in sorted({row.table for row in rows})}
    for row, variants in rows.items():
        found[row.table] += [Line(row, variant, of_line) for variant, of_line in variants.items()]
    return found


def line_of_cells(tables: Mapping[int, Iterable[Line]]) -> dict[tuple[int, str, str, str], Line]:
    """Return the line of each cell, by the key of the cell."""
    every = (line for of_table in tables.values() for line in of_table)
    return {cell.key: line for line in every for cell in line.cells.values()}


@cache
def systems_by_name() -> dict[str, System]:
    """Return all systems of the tables, by name."""
    return {system.name: system for system in load_systems()}


def columns_with_totals(table: int, of_table: Sequence[Line]) -> list[ShownColumn]:
    """Return the printed columns, and the total FLOPs of those that print both conventions."""
    conventions: dict[str, set[str]] = {}
    for line in of_table:
        for name, cell in line.cells.items():
            conventions.setdefault(name, set()).add(cell.distinct_convention)
    mixed = {name for name, found in conventions.items() if len(found - {''}) > 1}
    return [
        column
        for column in columns(table)
        if not column.convention or (column.convention == 'total' and column.printed.name in mixed)
    ]


def select_rows(lines: Mapping[int, Sequence[Line]], names: Sequence[str]) -> dict[int, list[Line]]:
    """Return the lines of each table with these names, all if none; added lines always stay.

    Raises:
        UserError: if a name is that of no line.
    """
    _check(names, [line.names for of_table in lines.values() for line in of_table], '--rows')
    return {
        table: [line for line in of_table if line.added or not names or line.names & set(names)]
        for table, of_table in lines.items()
    }


def select_columns(
    tables: Iterable[int], names: Sequence[str], extras: Sequence[str] = ()
) -> dict[int, list[ShownColumn]]:
    """Return the columns of each table that `names` names, in printed order; all if none.

    Args:
        names: of columns, or of metrics: 'miou' stands for those of both frameworks of Table 7.
        extras: 'layer_flops_g' or 'total_flops_g', which are shown as well.

    Raises:
        UserError: if a name is that of no column.
    """
    found = {table: columns(table) for table in tables}
    every = [column for of_table in found.values() for column in of_table]
    _check(names, [column.names for column in every if not column.convention], '--columns')
    _check(extras, [column.names for column in every if column.convention], '--with')
    chosen = {*names, *extras}
    return {
        table: [c for c in of_table if c.names & chosen or not (c.convention or names)]
        for table, of_table in found.items()
    }


def _check(names: Iterable[str], existing: Iterable[set[str]], option: str) -> None:
    known = set().union(*existing)
    for name in names:
        if name not in known:
            raise UserError(
                f"{option}: nothing in these tables is called '{name}'; the nearest are "
                f'{", ".join(nearest(name, known) or sorted(known))}.'
            )


def off_by(cell: Cell) -> str:
    """Return the measured value less the printed one, as text; '' where one is missing."""
    if cell.difference is None:
        return ''
    relative = f' ({cell.difference / float(cell.paper):+.1%})'
    return f'{cell.difference:+.2f}' + (relative if cell.column.metric.is_complexity else '')
