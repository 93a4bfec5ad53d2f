"""The lines of a shown table, which its cells form, and their headings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from reproduce.judge.cells import Cell
from reproduce.paper import TABLES, Column, Row
from reproduce.report.speeds import Speed
from reproduce.systems import System, load_systems

# Of the columns that say what a row is.
_DESCRIPTIONS = {
    'embed_dims': 'Dim',
    'depths': 'Blocks',
    'local_attention': 'Local attention',
    'global_features': 'Global features',
    'dual_stream': 'Dual-stream design',
    'train_size': 'Train size',
    'test_size': 'Test size',
}

# Those of them that tell the rows of the ablations apart, which have one label.
_DESIGNS = ('local_attention', 'global_features', 'dual_stream')

# The columns after the model, in printed order. Token labeling is a dagger at the model's name.
COLUMNS: dict[int, tuple[str, ...]] = {
    **{number: tuple(table.columns) for number, table in TABLES.items()},
    1: ('embed_dims', 'depths', *TABLES[1].columns),
    2: ('params_m', 'local_attention', 'global_features', 'top1'),
    3: ('params_m', 'dual_stream', 'top1'),
    4: ('train_size', 'test_size', *TABLES[4].columns),
}

DAGGER = '†'  # at the name of a model with token labeling

CONVENTION_MARKS = {'layer': 'ˡ', 'total': 'ᵗ'}
CONVENTION_MEANINGS = {
    'layer': 'layer FLOPs, of convolutions and linear layers',
    'total': "total FLOPs, attention's products included",
}


# What the benchmark measures of a network.
MEASURED = {'images_per_s': 'Images/s', 'peak_memory_mib': 'Peak memory (MiB)'}


@dataclass(frozen=True)
class Extra:
    """A column that no table prints, shown beside the printed ones where it is asked for.

    Attributes:
        name: unique in its table: a `kind`, with the framework's name in front of it where the
            table prints several.
        kind: 'layer_flops_g', 'total_flops_g' or one of MEASURED.
        beside: the printed column that it stands behind.
    """

    name: str
    kind: str
    heading: str
    beside: Column


def extras(table: int) -> dict[str, Extra]:
    """Return the columns that can be shown beside the printed ones of `table`, by name."""
    columns = TABLES[table].columns
    found = []
    for flops in (c for c in columns.values() if c.metric.name == 'flops_g'):
        prefix = flops.name.removesuffix('flops_g')
        for convention in CONVENTION_MARKS:
            kind = f'{convention}_flops_g'
            heading = f'{convention.capitalize()} FLOPs (G)'
            found.append(Extra(f'{prefix}{kind}', kind, heading, flops))
        for kind, heading in MEASURED.items():
            found.append(Extra(f'{prefix}{kind}', kind, heading, flops))
    return {extra.name: extra for extra in found}


def with_extras(table: int, columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return `columns` with the named extras, each behind the column that it belongs to.

    One whose column is not shown stands at the end.
    """
    chosen = [extra for name, extra in extras(table).items() if name in names]
    beside = {extra.name: extra.beside.name for extra in chosen}
    shown = []
    for column in columns:
        shown += [column, *(name for name, of in beside.items() if of == column)]
    return [*shown, *(name for name in beside if name not in shown)]


@dataclass(frozen=True)
class Line:
    """One line of a shown table: a printed row, in one of the ways it is built.

    Attributes:
        variant: the system's; '' for the first system of a row.
        description: the columns that say what the row is.
        block: the own model that the row is compared with; '' in the tables without blocks.
        cells: by column; Table 7's hold two systems, one a framework.
        added: whether the user added the row.
        extras: the values of the columns that the table does not print, where they are known.
        partial: what its accuracies were measured on, if not the complete validation set; then they
            are no row's best.
        own: whether it is one of the paper's own models.
    """

    table: int
    model: str
    variant: str
    description: Mapping[str, str]
    block: str
    cells: Mapping[str, Cell]
    added: bool = False
    extras: Mapping[str, float] = field(default_factory=dict)
    partial: str = ''
    own: bool = False

    @property
    def is_labeled(self) -> bool:
        """Whether the row is of a model with token labeling, in the table that says so."""
        return self.table == 4 and self.description.get('token_labeling') == 'true'

    @property
    def label(self) -> str:
        notes = ''.join(f' ({note})' for note in (self.variant, self.partial) if note)
        return f'{self.model}{DAGGER if self.is_labeled else ""}{notes}'

    @property
    def name(self) -> str:
        """The label with what tells the row from others of that label, as the ablations have it."""
        design = [self.description.get(key, '') for key in _DESIGNS]
        design = [text for text in design if text not in ('', 'None')]
        return f'{self.label}: {", ".join(design)}' if design else self.label

    @property
    def systems(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.system for cell in self.cells.values()))


def heading(table: int, column: str) -> str:
    """Return the heading of a column of numbers, or of one that says what a row is."""
    columns = TABLES[table].columns
    if column in columns:
        return columns[column].metric.heading
    extra = extras(table).get(column)
    return extra.heading if extra else _DESCRIPTIONS[column]


def group(table: int, column: str) -> str:
    """Return the heading above the column's own, '' where there is none."""
    columns = TABLES[table].columns
    if column in columns:
        return columns[column].group
    extra = extras(table).get(column)
    return extra.beside.group if extra else ''


def is_numeric(table: int, column: str) -> bool:
    """Return whether a column holds numbers; the others say what a row is."""
    return column in TABLES[table].columns or column in extras(table)


def mixed_flops(of_table: Sequence[Line]) -> list[str]:
    """Return the FLOP columns that print both conventions, in rows where these differ."""
    conventions: dict[str, set[str]] = {}
    for line in of_table:
        for name, cell in line.cells.items():
            if cell.distinct_convention:
                conventions.setdefault(name, set()).add(cell.distinct_convention)
    return [name for name, found in conventions.items() if len(found) > 1]


def totals_beside_mixed(table: int, of_table: Sequence[Line]) -> list[str]:
    """Return the extras with the total FLOPs of the columns that print both conventions."""
    mixed = mixed_flops(of_table)
    return [
        name
        for name, extra in extras(table).items()
        if extra.kind == 'total_flops_g' and extra.beside.name in mixed
    ]


def off_by(cell: Cell) -> str:
    """Return how far the measured value is from the printed one; '' where one is missing."""
    if cell.difference is None:
        return ''
    if cell.column.metric.is_complexity:
        return f'{cell.difference:+.2f} ({cell.difference / float(cell.paper):+.1%})'
    return f'{cell.difference:+.2f}'


def described(line: Line, column: str) -> str:
    """Return a descriptive field as the paper writes it: '[3, 5, 8, 3]', '224²'."""
    text = line.description.get(column, '')
    if column in ('embed_dims', 'depths') and text:
        return f'[{text.replace("-", ", ")}]'
    return f'{text}²' if column in ('train_size', 'test_size') and text else text


def lines(
    cells: Sequence[Cell], table: int, speeds: Mapping[str, Speed] | None = None
) -> list[Line]:
    """Return the lines of `table`, in the order of the cells.

    Args:
        speeds: what the benchmark measured, by timm model.
    """
    of_rows: dict[Row, list[Cell]] = {}
    for cell in cells:
        if cell.table == table:
            of_rows.setdefault(cell.row, []).append(cell)
    return [
        line
        for row, of_row in of_rows.items()
        for line in lines_of_row(row, of_row, speeds=speeds or {})
    ]


def lines_of_row(
    row: Row,
    cells: Sequence[Cell],
    added: bool = False,
    speeds: Mapping[str, Speed] | None = None,
    partial: str = '',
) -> list[Line]:
    """Return the cells of one row as lines; the n-th systems of its frameworks share a line."""
    systems: dict[str, list[str]] = {}
    for cell in cells:
        names = systems.setdefault(cell.column.framework.name, [])
        if cell.system not in names:
            names.append(cell.system)
    found = []
    for index in range(max(map(len, systems.values()))):
        chosen = [names[index] for names in systems.values() if index < len(names)]
        variant = next((c.variant for c in cells if c.system == chosen[0]), '') if index else ''
        description = dict(row.description)
        if variant and 'depths' in description:
            description['depths'] = variant
        of_line = {cell.metric: cell for cell in cells if cell.system in chosen}
        extra = _extra_values(row.table, of_line, speeds or {})
        found.append(
            Line(
                *(row.table, row.model, variant, description, row.block, of_line),
                *(added, extra, partial, row.own),
            )
        )
    return found


def _extra_values(
    table: int, cells: Mapping[str, Cell], speeds: Mapping[str, Speed]
) -> dict[str, float]:
    values: dict[str, float | None] = {}
    for name, extra in extras(table).items():
        cell = cells.get(extra.beside.name)
        if cell is None:
            continue
        if extra.kind in ('layer_flops_g', 'total_flops_g'):
            values[name] = cell.flops(extra.kind.partition('_')[0])
            continue
        speed = speed_of(cell.system, speeds)
        values[name] = getattr(speed, extra.kind) if speed else None
    return {name: value for name, value in values.items() if value is not None}


def speed_of(system: str, speeds: Mapping[str, Speed]) -> Speed | None:
    """Return what was measured of a system: under its own name, or under its timm model's."""
    known = _systems().get(system)
    return speeds.get(system) or (speeds.get(known.model or '') if known else None)


@cache
def _systems() -> dict[str, System]:
    return {system.name: system for system in load_systems()}
