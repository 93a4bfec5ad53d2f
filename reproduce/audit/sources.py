"""The paper's baselines compared with other publications, and the register of misprints."""

from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import NamedTuple

from pydantic import BaseModel

from reproduce import paper
from reproduce.audit.rows import Tables, same_model
from reproduce.base.files import read_toml
from reproduce.paper import Printed, Row

FOLDER = paper.FOLDER / 'sources'


class Misprint(BaseModel, frozen=True):
    """A line of `misprints.csv`: a printed value that is probably another."""

    table: int
    model: str
    metric: str
    printed: str
    likely: str
    reason: str

    @property
    def key(self) -> tuple[int, str, str]:
        """The cell: table, model and metric."""
        return self.table, self.model, self.metric


@cache
def load_misprints() -> list[Misprint]:
    """Return the registered misprints."""
    return paper.lines_of('misprints.csv', Misprint)


class Source(BaseModel, extra='forbid', arbitrary_types_allowed=True):
    """A publication that prints rows of the paper's baselines; `paper` is its title.

    Attributes:
        address: where the version is that was read.
        headings: what it calls its tables, under the numbers of the paper's tables.
    """

    paper: str
    address: str
    headings: dict[int, str]
    note: str = ''
    tables: dict[int, tuple[Row, ...]] = {}


class SourcedCell(NamedTuple):
    """A printed cell and what the sources print for it: the title of each, and the text."""

    table: int
    model: str
    field: str
    printed: str
    sources: list[tuple[str, str]]

    @property
    def agreement(self) -> list[bool]:
        """Whether each source prints the same, up to rounding."""
        return [_same(self.printed, text) for _, text in self.sources]

    def __str__(self) -> str:
        theirs = ', '.join(f'{text} in {title}' for title, text in self.sources)
        return f'Table {self.table}, {self.model}, {self.field}: {self.printed}; {theirs}.'


def load_sources() -> dict[str, Source]:
    """Return the publications of `sources.toml`, by name, each with the tables in its folder."""
    path = FOLDER / 'sources.toml'
    found = read_toml(path, dict[str, Source]) if path.is_file() else {}
    for name, source in found.items():
        source.tables = {n: paper.load_table(n, FOLDER / name) for n in source.headings}
    return found


def compare_sources(tables: Tables, sources: Mapping[str, Source]) -> list[SourcedCell]:
    """Return every printed cell of the baselines, with what the sources print for it.

    A column that describes a row, such as its image size, is returned where a source has it.
    """
    cells = []
    for row in (row for rows in tables.values() for row in rows if not row.own):
        twins = [
            (source.paper, twin)
            for source in sources.values()
            # A table that repeats rows has them where the sources do.
            for twin in source.tables.get(paper.PAPER.repeats.get(row.table, row.table), ())
            if same_model(twin, row)
        ]
        for field in (*row.description, *row.cells):
            theirs = [(title, text) for title, twin in twins if (text := _text(twin, field))]
            ours = _text(row, field)
            if ours and field != 'model' and (theirs or field in row.cells):
                cells.append(SourcedCell(row.table, row.model, field, ours, theirs))
    return cells


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
