"""The lines and columns of the tables that are shown, which the cells of the results form."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from reproduce.judge.cells import Cell
from reproduce.paper import TABLES, Column, Row
from reproduce.report.speeds import Speed
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

# Columns that the paper does not print, after its FLOPs where they are asked for. The last two are
# what `make benchmark` measured.
_EXTRAS = {
    'layer_flops_g': 'Layer FLOPs (G)',
    'total_flops_g': 'Total FLOPs (G)',
    'images_per_s': 'Images/s',
    'peak_memory_mib': 'Peak memory (MiB)',
}


@dataclass(frozen=True)
class ShownColumn:
    """A column of a shown table.

    Attributes:
        name: unique in its table.
        heading: of the column.
        printed: the column of the paper's table that holds the same numbers, or the FLOPs that an
            extra column belongs to; None for a column that describes the row.
        extra: what a column shows that the paper does not print, such as 'total_flops_g'; '' for
            the others.
    """

    name: str
    heading: str
    printed: Column | None = None
    extra: str = ''

    @property
    def group(self) -> str:
        """The heading above the column's own; '' where there is none."""
        return self.printed.group if self.printed else ''

    @property
    def names(self) -> set[str]:
        """What users may call the column: its own name, or that of its metric."""
        return {self.name, self.extra or (self.printed.metric.name if self.printed else self.name)}


@cache
def columns(table: int) -> tuple[ShownColumn, ...]:
    """Return all columns that `table` can show, in order."""
    found = []
    for name in _ORDER.get(table, TABLES[table].columns):
        printed = TABLES[table].columns.get(name)
        if printed is None:
            found.append(ShownColumn(name, _DESCRIPTIONS[name]))
            continue
        found.append(ShownColumn(name, printed.metric.heading, printed))
        if printed.metric.name == 'flops_g':
            prefix = name.removesuffix('flops_g')
            found += [ShownColumn(prefix + e, text, printed, e) for e, text in _EXTRAS.items()]
    return tuple(found)


@dataclass(frozen=True)
class Line:
    """One line of a shown table: a row, built in one way.

    Attributes:
        row: the printed row, or the one that a user added.
        variant: that of its cells; '' for the system that is built as the row is printed.
        cells: by column; those of Table 7 are of two systems, one for each framework.
        extras: the values of the extra columns, where they are known.
        added: whether a user added the line.
        partial: the images that its accuracies were measured on, if they are not the complete
            validation set; such accuracies are never the best ones.
    """

    row: Row
    variant: str
    cells: Mapping[str, Cell]
    extras: Mapping[str, float] = field(default_factory=dict)
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

    def described(self, column: str) -> str:
        """Return a description as the paper writes it: '[3, 5, 8, 3]', '224²'."""
        text = self.row.description.get(column, '')
        if column == 'depths' and self.variant:
            text = self.variant
        if column in ('embed_dims', 'depths') and text:
            return f'[{text.replace("-", ", ")}]'
        return f'{text}²' if column in ('train_size', 'test_size') and text else text


def all_lines(
    cells: Iterable[Cell], speeds: Mapping[str, Speed] | None = None
) -> dict[int, list[Line]]:
    """Return the lines of every table that has cells, in the order of the cells.

    Args:
        speeds: what the benchmark measured, by timm model or system.
    """
    rows: dict[Row, dict[str, dict[str, Cell]]] = {}
    for cell in cells:
        rows.setdefault(cell.row, {}).setdefault(cell.variant, {})[cell.metric] = cell
    found: dict[int, list[Line]] = {number: [] for number in sorted({row.table for row in rows})}
    for row, variants in rows.items():
        for variant, of_line in variants.items():
            line = Line(row, variant, of_line, extra_values(of_line, speeds or {}))
            found[row.table].append(line)
    return found


def line_of_cells(tables: Mapping[int, Iterable[Line]]) -> dict[tuple[int, str, str, str], Line]:
    """Return the line of each cell, by the key of the cell."""
    every = (line for of_table in tables.values() for line in of_table)
    return {cell.key: line for line in every for cell in line.cells.values()}


def extra_values(cells: Mapping[str, Cell], speeds: Mapping[str, Speed]) -> dict[str, float]:
    """Return the values of the extra columns of a line, by column, where they are known."""
    values: dict[str, float | None] = {}
    for cell in cells.values():
        for column in columns(cell.table):
            if not column.extra or column.printed is not cell.column:
                continue
            if column.extra.endswith('_flops_g'):
                values[column.name] = cell.flops(column.extra.removesuffix('_flops_g'))
            elif speed := speed_of(cell.system, speeds):
                values[column.name] = getattr(speed, column.extra)
    return {name: value for name, value in values.items() if value is not None}


def speed_of(system: str, speeds: Mapping[str, Speed]) -> Speed | None:
    """Return the measured speed of a system, by its own name or that of its timm model."""
    known = systems_by_name().get(system)
    return speeds.get(system) or speeds.get((known and known.model) or '')


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
        if not column.extra or (column.extra == 'total_flops_g' and column.printed.name in mixed)
    ]


def off_by(cell: Cell) -> str:
    """Return the measured value less the printed one, as text; '' where one is missing."""
    if cell.difference is None:
        return ''
    relative = f' ({cell.difference / float(cell.paper):+.1%})'
    return f'{cell.difference:+.2f}' + (relative if cell.column.metric.is_complexity else '')
