"""The paper's baselines compared with other publications that print them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from reproduce import paper
from reproduce.audit.rows import Tables, same_model
from reproduce.base.files import read_toml
from reproduce.paper import Printed, Row

FOLDER = paper.FOLDER / 'sources'


class _Entry(BaseModel):
    model_config = ConfigDict(extra='forbid')
    paper: str
    address: str
    tables: dict[int, str]
    note: str = ''


@dataclass(frozen=True)
class Source:
    """A publication: its name and title, the address of the version that was read, and its tables.

    `tables` are under the numbers of the paper's tables, and so is what it calls them, `headings`.
    """

    name: str
    title: str
    address: str
    tables: Tables
    headings: Mapping[int, str]


class SourceVerdict(StrEnum):
    """How a printed cell compares with the publications that also print it, up to rounding."""

    AGREES = 'all agree'
    PARTLY = 'some agree'
    DIFFERS = 'none agrees'
    UNSOURCED = 'no source'


@dataclass(frozen=True)
class SourcedCell:
    """A printed cell and what the sources print for it: the title of each, and the text."""

    table: int
    model: str
    field: str
    printed: str
    sources: tuple[tuple[str, str], ...]

    @property
    def verdict(self) -> SourceVerdict:
        """How the cell compares with its sources."""
        agree = [_same(self.printed, text) for _, text in self.sources]
        if not agree:
            return SourceVerdict.UNSOURCED
        if all(agree):
            return SourceVerdict.AGREES
        return SourceVerdict.PARTLY if any(agree) else SourceVerdict.DIFFERS

    def __str__(self) -> str:
        theirs = ', '.join(f'{text} in {title}' for title, text in self.sources)
        return f'Table {self.table}, {self.model}, {self.field}: {self.printed}; {theirs}.'


def load_sources(folder: Path = FOLDER) -> dict[str, Source]:
    """Return the publications of `sources.toml`, by name, each with the tables in its folder.

    Raises:
        UserError: if a file is missing or malformed.
    """
    found = {}
    for name, entry in read_toml(folder / 'sources.toml', dict[str, _Entry]).items():
        tables = {number: paper.load_table(number, folder / name) for number in entry.tables}
        found[name] = Source(name, entry.paper, entry.address, tables, entry.tables)
    return found


def compare_sources(tables: Tables, sources: Mapping[str, Source]) -> list[SourcedCell]:
    """Return every printed cell of the baselines, with what the sources print for it.

    A column that describes a row, such as its image size, is returned where a source has it.
    """
    cells = []
    for row in (row for rows in tables.values() for row in rows if not row.own):
        twins = [
            (source.title, twin)
            for source in sources.values()
            # Tables 2 and 3 repeat rows of Table 4, where the sources have them.
            for twin in source.tables.get(4 if row.table in (2, 3) else row.table, ())
            if same_model(twin, row)
        ]
        for field in (*row.description, *row.cells):
            theirs = tuple((t, text) for t, twin in twins if (text := _text(twin, field)))
            ours = _text(row, field)
            if ours and field != 'model' and (theirs or field in row.cells):
                cells.append(SourcedCell(row.table, row.model, field, ours, theirs))
    return cells


def without_accuracy(cells: Sequence[SourcedCell]) -> list[str]:
    """Return the rows of which no source prints an accuracy, such as 'Table 4, CrossViT-15'."""
    sourced: dict[str, bool] = {}
    for cell in cells:
        column = paper.TABLES[cell.table].columns.get(cell.field)
        if column is not None and not column.metric.is_complexity:
            row = f'Table {cell.table}, {cell.model}'
            sourced[row] = sourced.get(row, False) or bool(cell.sources)
    return [row for row, found in sourced.items() if not found]


def _text(row: Row, field: str) -> str:
    printed = row.cells.get(field)
    return printed.text if printed else row.description.get(field, '')


def _same(ours: str, theirs: str) -> bool:
    """Return whether `theirs` is `ours`, or rounds to it."""
    try:
        distance = abs(Decimal(ours) - Decimal(theirs))
    except ArithmeticError:
        return ours == theirs
    return distance <= Decimal(str(Printed(ours).half_unit))
