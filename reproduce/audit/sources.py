"""The paper's baselines against publications that print them too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from reproduce import paper
from reproduce.audit.findings import Finding
from reproduce.audit.rows import Tables, accuracies, family, group, same_model
from reproduce.base.files import read_toml
from reproduce.paper import Printed, Row

FOLDER = paper.FOLDER / 'sources'


class _Entry(BaseModel):
    model_config = ConfigDict(extra='forbid')
    paper: str
    address: str = ''
    tables: dict[int, str] = {}
    note: str = ''


@dataclass(frozen=True)
class Source:
    """A publication, and its tables under the numbers of the paper's.

    Attributes:
        name: of its folder.
        title: what it is.
        address: the version that was read; '' where that was not recorded.
        tables: what it prints, by the numbers of the paper's tables.
        headings: what it calls these tables.
        note: what is not taken from it.
    """

    name: str
    title: str
    address: str
    tables: Mapping[int, Sequence[Row]]
    headings: Mapping[int, str]
    note: str


class SourceVerdict(StrEnum):
    """How a printed cell compares with the publications that print it too, up to rounding."""

    AGREES = 'all agree'
    PARTLY = 'some agree'
    DIFFERS = 'none agrees'
    UNSOURCED = 'no source'


@dataclass(frozen=True)
class SourcedCell:
    """A printed cell, or a description of its row, beside what the sources print for it.

    Attributes:
        field: its column.
        printed: in the paper.
        sources: what each of the sources prints: its title and the text.
        verdict: how that compares.
    """

    table: int
    model: str
    field: str
    printed: str
    sources: tuple[tuple[str, str], ...]
    verdict: SourceVerdict

    @property
    def evidence(self) -> str:
        """What the sources print, as a phrase."""
        return '; '.join(f'{text} in {title}' for title, text in self.sources)


def load_sources(folder: Path = FOLDER) -> list[Source]:
    """Return the publications of `sources.toml`, each with the tables in its folder.

    Raises:
        UserError: if a file is missing or malformed.
    """
    entries = read_toml(folder / 'sources.toml', dict[str, _Entry])
    return [
        Source(
            name=name,
            title=entry.paper,
            address=entry.address,
            tables={
                number: paper.load_table(number, folder / name)
                for number in paper.TABLES
                if (folder / name / f'table{number}.csv').exists()
            },
            headings=entry.tables,
            note=entry.note,
        )
        for name, entry in entries.items()
    ]


def compare_sources(tables: Tables, sources: Sequence[Source]) -> list[SourcedCell]:
    """Return every cell of every row that is not a MAFormer, with what the sources print for it.

    What describes a row, such as its image size, is returned where a source prints it too.
    """
    cells = []
    for number, rows in tables.items():
        for row in rows:
            if family(row) == 'MAFormer':
                continue
            twins = [
                (source.title, twin)
                for source in sources
                # Tables 2 and 3 repeat rows of Table 4, which is where the sources have them.
                for twin in source.tables.get(4 if number in (2, 3) else number, ())
                if same_model(twin, row)
            ]
            for field in (*row.description, *row.cells):
                theirs = tuple(
                    (title, text) for title, twin in twins if (text := _printed(twin, field))
                )
                ours = _printed(row, field)
                if ours and field != 'model' and (theirs or field in row.cells):
                    verdict = _source_verdict(ours, [text for _, text in theirs])
                    cells.append(SourcedCell(number, row.model, field, ours, theirs, verdict))
    return cells


def differences(cells: Sequence[SourcedCell]) -> list[Finding]:
    """Return cells that at least one source prints, and none as the paper does, up to rounding."""
    return [
        Finding(
            f'Table {cell.table}, {cell.model}',
            f'{cell.field} {cell.printed}',
            cell.evidence,
            ((cell.table, cell.model, cell.field),),
        )
        for cell in cells
        if cell.verdict is SourceVerdict.DIFFERS
    ]


def unsourced(cells: Sequence[SourcedCell]) -> list[str]:
    """Return the rows of which no source prints an accuracy, as 'Table 4, CrossViT-15'."""
    sourced: dict[str, bool] = {}
    for cell in cells:
        column = paper.TABLES[cell.table].columns.get(cell.field)
        if column is not None and not column.metric.is_complexity:
            row = f'Table {cell.table}, {cell.model}'
            sourced[row] = sourced.get(row, False) or bool(cell.sources)
    return [row for row, found in sourced.items() if not found]


def omissions(tables: Tables, sources: Sequence[Source]) -> list[Finding]:
    """Return rows that a table leaves out, others have, and that score above its MAFormer.

    Which MAFormer a row is compared with is that of its group in another table.
    """
    findings = []
    for number, rows in tables.items():
        ours = {row.model: row for row in rows}
        for source in sources:
            for twin in source.tables.get(number, ()):
                rival = ours.get(_maformer_of_its_group(tables, twin.model))
                if twin.model in ours or rival is None:
                    continue
                above = [
                    f'{metric} {value}, {rival.model} {accuracies(rival)[metric]}'
                    for metric, value in accuracies(twin).items()
                    if value > accuracies(rival).get(metric, value)
                ]
                if above:
                    findings.append(
                        Finding(
                            f'Table {number}, {twin.model}',
                            f'left out, though in other tables, and above {rival.model}',
                            f'{"; ".join(above)} ({source.title}).',
                        )
                    )
    return findings


def _printed(row: Row, field: str) -> str:
    printed = row.cells.get(field)
    return printed.text if printed else row.description.get(field, '')


def _source_verdict(ours: str, theirs: Sequence[str]) -> SourceVerdict:
    agree = [_same(ours, text) for text in theirs]
    if not agree:
        return SourceVerdict.UNSOURCED
    if all(agree):
        return SourceVerdict.AGREES
    return SourceVerdict.PARTLY if any(agree) else SourceVerdict.DIFFERS


def _same(ours: str, theirs: str) -> bool:
    """Return whether `theirs` is `ours`, or rounds to it."""
    try:
        distance = abs(Decimal(ours) - Decimal(theirs))
    except ArithmeticError:
        return ours == theirs
    return distance <= Decimal(str(Printed(ours).half_unit))


def _maformer_of_its_group(tables: Tables, model: str) -> str:
    for rows in tables.values():
        for row in rows:
            if row.model == model:
                names = [r.model for r in group(rows, row) if family(r) == 'MAFormer']
                if names:
                    return names[-1]
    return ''
