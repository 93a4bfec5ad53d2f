"""The lines of a shown table, which its cells form, and their headings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from reproduce.errors import UserError
from reproduce.judge.cells import Cell
from reproduce.paper import TABLES, Row, load_table
from reproduce.systems import System, load_systems

# The tables that compare models of like size, block by block; each block ends with MAFormer.
COMPARISONS = (4, 5, 6, 7)

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

# The columns after the model, in printed order. Token labeling is a dagger at the model's name.
COLUMNS: dict[int, tuple[str, ...]] = {
    **{number: tuple(table.columns) for number, table in TABLES.items()},
    1: ('embed_dims', 'depths', *TABLES[1].columns),
    2: ('params_m', 'local_attention', 'global_features', 'top1'),
    3: ('params_m', 'dual_stream', 'top1'),
    4: ('train_size', 'test_size', *TABLES[4].columns),
}


@dataclass(frozen=True)
class Line:
    """One line of a shown table: a printed row, in one of the ways it is built.

    Attributes:
        variant: the system's; '' for the first system of a row.
        description: the columns that say what the row is.
        block: the MAFormer that the row is compared with; '' in the tables without blocks.
        cells: by column; Table 7's hold two systems, one a framework.
        added: whether it is a row of the user's.
    """

    table: int
    model: str
    variant: str
    description: Mapping[str, str]
    block: str
    cells: Mapping[str, Cell]
    added: bool = False

    @property
    def label(self) -> str:
        dagger = '†' if self.description.get('token_labeling') == 'true' else ''
        return f'{self.model}{dagger}' + (f' ({self.variant})' if self.variant else '')

    @property
    def systems(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.system for cell in self.cells.values()))


def heading(table: int, column: str) -> str:
    """Return the heading of a column of numbers, or of one that says what a row is."""
    columns = TABLES[table].columns
    return columns[column].metric.heading if column in columns else _DESCRIPTIONS[column]


def group(table: int, column: str) -> str:
    """Return the heading above the column's own, '' where there is none."""
    columns = TABLES[table].columns
    return columns[column].group if column in columns else ''


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


def lines(cells: Sequence[Cell], table: int) -> list[Line]:
    """Return the lines of `table`, in printed order; rows of which there is no cell are left out.

    Raises:
        UserError: if a cell's system stands for no printed row of that name.
    """
    rows = load_table(table)
    of_rows: dict[int, list[Cell]] = {}
    for cell in cells:
        if cell.table == table:
            of_rows.setdefault(_row(rows, cell), []).append(cell)
    blocks = _blocks(rows) if table in COMPARISONS else [''] * len(rows)
    return [
        line
        for index in sorted(of_rows)
        for line in lines_of_row(rows[index], blocks[index], of_rows[index])
    ]


def lines_of_row(row: Row, block: str, cells: Sequence[Cell], added: bool = False) -> list[Line]:
    """Return the cells of one row as lines; the n-th systems of its frameworks share a line."""
    systems: dict[str, list[str]] = {}
    for cell in cells:
        names = systems.setdefault(cell.column.framework.name, [])
        if cell.system not in names:
            names.append(cell.system)
    found = []
    for index in range(max(map(len, systems.values()))):
        chosen = [names[index] for names in systems.values() if index < len(names)]
        variant = _variant(chosen[0]) if index else ''
        description = dict(row.description)
        if variant and 'depths' in description:
            description['depths'] = variant
        of_line = {cell.metric: cell for cell in cells if cell.system in chosen}
        found.append(Line(row.table, row.model, variant, description, block, of_line, added))
    return found


def _variant(system: str) -> str:
    known = _systems().get(system)
    return known.variant if known else ''


def _blocks(rows: Sequence[Row]) -> list[str]:
    blocks: list[str] = []
    for row in reversed(rows):
        blocks.append(row.model if row.model.startswith('MAFormer') or not blocks else blocks[-1])
    return blocks[::-1]


@cache
def _systems() -> dict[str, System]:
    return {system.name: system for system in load_systems()}


def _row(rows: Sequence[Row], cell: Cell) -> int:
    system = _systems().get(cell.system)
    for index, row in enumerate(rows):
        if row.model == cell.model and system is not None and system.stands_for(row):
            return index
    raise UserError(
        f'table{cell.table}.csv holds {cell.system} as {cell.model}, which reproduce/systems does '
        f'not know: write the file again with `make reproduce-table{cell.table}`.'
    )
