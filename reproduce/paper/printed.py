"""The paper's tables as printed: their columns, their rows, and the numbers in them.

In the paper's folder `paper.toml` describes the tables. `table1.csv`, ... have one row for each
printed row, in order and to the digit; a value that the paper does not print is an empty field.
Misprints stay in the tables as printed and are listed, with the reason to think so, in
`misprints.csv`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, create_model

from reproduce.base import folders
from reproduce.base.errors import UserError
from reproduce.base.files import Line, NumberText, read_csv, read_toml
from reproduce.paper.metrics import METRICS, Metric

FOLDER = folders.PAPER


class Framework(BaseModel, extra='forbid', frozen=True):
    """What a backbone works in.

    Attributes:
        name: as in `systems/*.toml`.
        task: the name of the task that its models are evaluated on.
        image: height and width in pixels of the image that the FLOPs are counted at.
        heading: above the columns of its results; '' where the paper prints none.
        short_heading: the same where space is scarce.
    """

    name: str
    task: str
    image: tuple[int, int]
    heading: str = ''
    short_heading: str = ''


@dataclass(frozen=True)
class Column:
    """A column of a table that holds numbers.

    Attributes:
        name: unique in its table: the metric's, with the framework's in front of it in a table of
            several frameworks.
        metric: what is printed.
        framework: of the models that it is printed for.
        group: the heading above the column's own; '' where there is none.
    """

    name: str
    metric: Metric
    framework: Framework
    group: str = ''


@dataclass(frozen=True)
class Table:
    """What one of the tables prints.

    Attributes:
        descriptions: the columns that say what a row is.
        columns: those with numbers, by name.
    """

    number: int
    title: str
    descriptions: tuple[str, ...]
    columns: Mapping[str, Column]

    @property
    def frameworks(self) -> list[str]:
        """The names of the frameworks whose models it prints."""
        return list(dict.fromkeys(column.framework.name for column in self.columns.values()))

    @property
    def image(self) -> tuple[int, int]:
        """Height and width in pixels of the image that the FLOPs are counted at."""
        return next(iter(self.columns.values())).framework.image

    def column(self, framework: str, metric: str) -> Column | None:
        """Return the column of a metric of a framework's models, if there is one."""
        for column in self.columns.values():
            if (column.framework.name, column.metric.name) == (framework, metric):
                return column
        return None


@dataclass(frozen=True)
class Printed:
    """A number as printed: its text keeps the digits that its rounding is judged by."""

    text: str

    @property
    def value(self) -> float:
        return float(self.text)

    @property
    def half_unit(self) -> float:
        """Half a unit of the last printed digit."""
        return 0.5 * 10.0 ** -len(self.text.partition('.')[2])


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a table. Two rows are equal only if they are the same object.

    Attributes:
        description: the columns that say what the row is.
        cells: the printed numbers, by column; None where the paper prints nothing.
        block: the own model that the row is compared with; '' in tables without blocks.
        own: whether the row is one of the paper's own models; all others are baselines.
    """

    table: int
    description: Mapping[str, str]
    cells: Mapping[str, Printed | None]
    block: str = ''
    own: bool = False

    @property
    def model(self) -> str:
        return self.description['model']


class _Table(BaseModel, extra='forbid'):
    title: str
    descriptions: tuple[str, ...]
    metrics: dict[str, list[str]]

    def columns(self) -> dict[str, Column]:
        """Return the columns with numbers; one framework's heading is above its accuracies only."""
        several, columns = len(self.metrics) > 1, {}
        for framework, names in self.metrics.items():
            for name in names:
                unique = f'{framework}_{name}' if several else name
                is_grouped = several or not METRICS[name].is_complexity
                group = FRAMEWORKS[framework].heading if is_grouped else ''
                columns[unique] = Column(unique, METRICS[name], FRAMEWORKS[framework], group)
        return columns


class Paper(BaseModel, extra='forbid', frozen=True):
    """What `paper.toml` says of a paper; that of MAFormer describes the fields."""

    title: str
    address: str
    own: frozenset[str]
    designs: tuple[str, ...] = ()
    repeats: dict[int, int] = {}
    aliases: dict[str, str] = {}
    headings: dict[str, str] = {}
    in_windows: str = ''
    framework: dict[str, dict[str, Any]] = {}
    table: dict[int, _Table]


PAPER = read_toml(FOLDER / 'paper.toml', Paper)

_SHARED = read_toml(folders.PAPERS / 'frameworks.toml', dict[str, dict[str, Any]])
FRAMEWORKS = {
    name: Framework(name=name, **framework | PAPER.framework.get(name, {}))
    for name, framework in _SHARED.items()
}

TABLES = {
    number: Table(number, table.title, table.descriptions, table.columns())
    for number, table in PAPER.table.items()
}


def lines_of(name: str, schema: type[Line]) -> list[Line]:
    """Return the lines of a CSV of the paper's folder; none if the paper has no such file."""
    path = FOLDER / name
    return [line for _, line in read_csv(path, schema)] if path.is_file() else []


@cache
def comparisons() -> dict[str, int]:
    """Return the table that compares the models of each framework: accuracies over FLOPs.

    A table of the paper's own models alone compares nothing.
    """
    return {
        framework: number
        for number, table in TABLES.items()
        for framework in table.frameworks
        if table.column(framework, 'flops_g') and not all(row.own for row in load_table(number))
    }


@cache
def load_table(number: int, folder: Path = FOLDER) -> tuple[Row, ...]:
    """Return the printed rows of table `number`, in order.

    Raises:
        UserError: if the file is missing, or a column or a field is missing or malformed.
    """
    table = TABLES[number]
    fields: dict[str, Any] = dict.fromkeys(table.descriptions, str)
    fields |= dict.fromkeys(table.columns, NumberText)
    schema = create_model(f'Table{number}', **fields, block=(str, ''))
    rows = []
    for _, record in read_csv(folder / f'table{number}.csv', schema):
        values = record.model_dump()
        description = {name: values[name] for name in table.descriptions}
        cells = {name: Printed(values[name]) if values[name] else None for name in table.columns}
        own = description['model'] in PAPER.own
        rows.append(Row(number, description, cells, values['block'], own))
    return tuple(rows)


def table_numbers(named: Sequence[int] | None) -> list[int]:
    """Return the named tables once each, in order; all of them if none is named.

    Raises:
        UserError: if the paper has no such table.
    """
    numbers = sorted(set(named or TABLES))
    if unknown := [n for n in numbers if n not in TABLES]:
        first, last = min(TABLES), max(TABLES)
        raise UserError(f'the paper has no Table {unknown[0]}: name tables from {first} to {last}.')
    return numbers
