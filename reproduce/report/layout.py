"""The tables that are shown: their lines and columns, and the text and mark of every field."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from reproduce.judge.cells import Cell
from reproduce.judge.verdict import Verdict
from reproduce.paper import PAPER, TABLES, Column, Row

DAGGER = '†'  # at the name of a model with token labeling

# The mark and the meaning of a FLOP convention; '' where both count the same.
CONVENTIONS = {
    '': ('', ''),
    'layer': ('ˡ', 'layer FLOPs, of convolutions and linear layers'),
    'total': ('ᵗ', "total FLOPs, attention's products included"),
}
# Where a number comes from, by the name of its command in LaTeX: its symbol and its meaning.
MARKS = {
    'measured': ('•', 'measured, within the tolerance of the printed value'),
    'deviating': ('≠', 'measured, outside that tolerance'),
    'cited': ('◦', 'as printed: no implementation here'),
    'added': ('⋆', 'added'),
    'printed': ('', 'unmarked: as printed, not measured'),
}


class ShownColumn(NamedTuple):
    """A column of a shown table; `group` is the heading above its own, '' where there is none.

    Attributes:
        metric: of its numbers; 'total_flops_g' for the total FLOPs of all models, which the paper
            does not print.
        printed: the column of the paper's table with the same numbers; None for a description.
    """

    name: str
    metric: str
    heading: str
    printed: Column | None = None
    group: str = ''

    @property
    def is_total(self) -> bool:
        """Whether it has the total FLOPs of all models."""
        return self.metric == 'total_flops_g'


@cache
def columns(table: int) -> tuple[ShownColumn, ...]:
    """Return all columns that `table` can show: descriptions, then numbers."""
    descriptions = [name for name in TABLES[table].descriptions if name in PAPER.headings]
    found = [ShownColumn(name, name, PAPER.headings[name]) for name in descriptions]
    for name, printed in TABLES[table].columns.items():
        metric, group = printed.metric, printed.group
        found.append(ShownColumn(name, metric.name, metric.heading, printed, group))
        if metric.name == 'flops_g':
            own = name.removesuffix(metric.name) + 'total_flops_g'
            found.append(ShownColumn(own, 'total_flops_g', 'Total FLOPs (G)', printed, group))
    return tuple(found)


@dataclass(frozen=True)
class Line:
    """One line of a shown table: a printed row, built in one way, or a row that a user added.

    Attributes:
        variant: that of its cells; '' for the system that is built as the row is printed.
        cells: by column; in a table of several frameworks they are of a system each.
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
        says = 'token_labeling' in TABLES[self.row.table].descriptions
        return says and self.row.description.get('token_labeling') == 'true'

    @property
    def label(self) -> str:
        """The name of the model, with its dagger, variant and images."""
        notes = ''.join(f' ({note})' for note in (self.variant, self.partial) if note)
        return f'{self.row.model}{DAGGER if self.is_labeled else ""}{notes}'

    @property
    def name(self) -> str:
        """The label with what distinguishes rows of one label, as those of the ablations."""
        design = [self.described(key) for key in PAPER.designs]
        design = [text for text in design if text not in ('', 'None')]
        return f'{self.label}: {", ".join(design)}' if design else self.label

    @property
    def systems(self) -> tuple[str, ...]:
        """The names of the systems of the cells."""
        return tuple(dict.fromkeys(cell.system for cell in self.cells.values()))

    @property
    def names(self) -> set[str]:
        """What users may call the line."""
        return {self.row.model, self.label, *self.systems}

    def total_flops(self, column: ShownColumn) -> float | None:
        """Return the total FLOPs in G for a column of them, where they were counted."""
        cell = self.cells.get(column.printed.name)
        return cell.total_flops_g if cell else None

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


def columns_with_totals(table: int, of_table: Sequence[Line]) -> list[ShownColumn]:
    """Return the printed columns, and the total FLOPs of those that print both conventions."""
    conventions: dict[str, set[str]] = {}
    for line in of_table:
        for name, cell in line.cells.items():
            conventions.setdefault(name, set()).add(cell.distinct_convention)
    mixed = {name for name, found in conventions.items() if len(found - {''}) > 1}
    return [
        column for column in columns(table) if not column.is_total or column.printed.name in mixed
    ]


class Field(NamedTuple):
    """What a line shows in a column: a number or a description, '' for nothing.

    Attributes:
        printed: the printed number, which follows in parentheses.
        mark: where a number comes from, a key of `MARKS`; '' where this is not marked.
        convention: the FLOPs that it counts, 'layer' or 'total'; '' where both are the same.
        best: whether it is the best accuracy of its block.
    """

    text: str = ''
    printed: str = ''
    mark: str = ''
    convention: str = ''
    best: bool = False


class ShownTable(NamedTuple):
    """A table as it is written: `rows` has a label and a field for each column, for each line."""

    number: int
    columns: Sequence[ShownColumn]
    lines: Sequence[Line]
    rows: Sequence[Sequence[Field]]

    @property
    def legend(self) -> str:
        """The meaning of the marks that the table has, as a sentence."""
        fields = [field for row in self.rows for field in row]
        marks, conventions = {f.mark for f in fields}, {f.convention for f in fields}
        parts = [f'{DAGGER} with token labeling'] * any(line.is_labeled for line in self.lines)
        parts += [' '.join(of).strip() for name, of in MARKS.items() if name in marks]
        parts += ['in parentheses: as printed'] * any(field.printed for field in fields)
        parts += [' '.join(CONVENTIONS[kind]) for kind in sorted(conventions) if kind]
        return '; '.join(parts) + '.' * bool(parts)


def shown_table(
    lines: Sequence[Line], show: str, rows: Collection[str] = (), names: Collection[str] = ()
) -> ShownTable:
    """Return a table of these lines, with the best accuracies of each block marked.

    Args:
        show: which value, 'measured', 'printed' or 'both'; where there is no measured one it is
            always the printed one.
        rows: the lines to show, by the name of a printed row, a label or a system; all if empty.
            Added lines are always shown.
        names: the columns to show, by name or metric: 'miou' is that of all frameworks of a table;
            all printed ones if empty.
    """
    number = lines[0].row.table
    lines = [line for line in lines if line.added or not rows or line.names & {*rows}]
    shown = [
        column
        for column in columns(number)
        if {column.name, column.metric} & {*names} or not (names or column.is_total)
    ]
    fields = [
        [Field(' '.join(line.label.split())), *(_field(line, column, show) for column in shown)]
        for line in lines
    ]
    for place, column in enumerate(shown, 1):
        if column.printed is None or column.printed.metric.is_complexity:
            continue
        blocks: dict[str, list[list[Field]]] = {}
        for row, line in zip(fields, lines, strict=True):
            if row[place].text and not line.partial:
                blocks.setdefault(line.row.block, []).append(row)
        for of_block in blocks.values():
            best = max(float(row[place].text) for row in of_block)
            for row in of_block:
                if len(of_block) > 1 and float(row[place].text) == best:
                    row[place] = row[place]._replace(best=True)
    return ShownTable(number, shown, lines, fields)


def _field(line: Line, column: ShownColumn, show: str) -> Field:
    if column.printed is None:
        return Field(line.described(column.name))
    if column.is_total:
        flops = line.total_flops(column)
        return Field('' if flops is None else _number(flops))
    cell = line.cells.get(column.name)
    if cell is None:
        return Field()
    measured = cell.measured is not None and (show != 'printed' or line.added)
    text = _number(cell.measured) if measured else cell.printed
    mark = 'cited' if cell.verdict is Verdict.CITED else 'printed'
    if line.added:
        mark = 'added'
    elif cell.measured is not None:
        mark = 'deviating' if cell.deviates else 'measured'
    printed = cell.printed if measured and show == 'both' else ''
    return Field(text, printed, mark, cell.distinct_convention) if text else Field()


def _number(value: float) -> str:
    """Return a number with one decimal, or with two digits where that would leave less."""
    return f'{value:.1f}' if value >= 0.95 or value == 0 else f'{value:.2g}'


def off_by(cell: Cell) -> str:
    """Return the measured value less the printed one, as text; '' where one is missing."""
    if cell.difference is None:
        return ''
    relative = f' ({cell.difference / float(cell.paper):+.1%})'
    return f'{cell.difference:+.2f}' + (relative if cell.column.metric.is_complexity else '')
