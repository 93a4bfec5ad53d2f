"""The paper's baselines against publications that print them too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from reproduce import paper
from reproduce.audit.findings import Finding
from reproduce.audit.rows import Tables, accuracies, family, group
from reproduce.files import read_toml
from reproduce.paper import Printed, Row

FOLDER = paper.FOLDER / 'sources'


class _Entry(BaseModel):
    model_config = ConfigDict(extra='forbid')
    paper: str


@dataclass(frozen=True)
class Source:
    """A publication, and its tables under the numbers of the paper's."""

    title: str
    tables: Mapping[int, Sequence[Row]]


def load_sources(folder: Path = FOLDER) -> list[Source]:
    """Return the publications of `sources.toml`, each with the tables in its folder.

    Raises:
        UserError: if a file is missing or malformed.
    """
    entries = read_toml(folder / 'sources.toml', dict[str, _Entry])
    return [
        Source(
            entry.paper,
            {
                number: paper.load_table(number, folder / name)
                for number in paper.TABLES
                if (folder / name / f'table{number}.csv').exists()
            },
        )
        for name, entry in entries.items()
    ]


def differences(tables: Tables, sources: Sequence[Source]) -> list[Finding]:
    """Return cells that at least one source prints, and none as the paper does, up to rounding."""
    findings = []
    for number, rows in tables.items():
        for row in rows:
            twins = [
                (source, twin)
                for source in sources
                for twin in source.tables.get(number, ())
                if twin.model == row.model
            ]
            for field in (*row.description, *row.cells):
                ours = _printed(row, field)
                theirs = [
                    (source, text) for source, twin in twins if (text := _printed(twin, field))
                ]
                if ours and theirs and not any(_same(ours, text) for _, text in theirs):
                    findings.append(
                        Finding(
                            f'Table {number}, {row.model}',
                            f'{field} {ours}',
                            '; '.join(f'{text} in {source.title}' for source, text in theirs),
                            ((number, row.model, field),),
                        )
                    )
    return findings


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
