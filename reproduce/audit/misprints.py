"""The listed misprints with what was measured, and what else was measured otherwise."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

from reproduce.audit.findings import Finding
from reproduce.audit.measured import MeasuredTables
from reproduce.base.files import read_csv
from reproduce.judge.verdict import Verdict
from reproduce.paper import FOLDER, TABLES


class Misprint(BaseModel):
    """A line of `misprints.csv`: a printed value that is likely another."""

    model_config = ConfigDict(frozen=True)
    table: int
    model: str
    metric: str
    printed: str
    likely: str
    reason: str

    @field_validator('table')
    @classmethod
    def _exists(cls, table: int) -> int:
        if table not in TABLES:
            raise ValueError(f'there is no Table {table}')
        return table

    @property
    def key(self) -> tuple[int, str, str]:
        return self.table, self.model, self.metric


class MeasuredMisprint(Misprint):
    """A misprint and what this project measured for its cell."""

    measured: str


def load_misprints(folder: Path = FOLDER) -> list[Misprint]:
    """Return the listed misprints.

    Raises:
        UserError: if the file is missing or malformed.
    """
    return [misprint for _, misprint in read_csv(folder / 'misprints.csv', Misprint)]


def measure_misprints(
    misprints: Iterable[Misprint], measured: MeasuredTables
) -> list[MeasuredMisprint]:
    """Return each misprint with the measured values of its cell."""
    return [
        MeasuredMisprint(
            **misprint.model_dump(),
            measured='; '.join(
                f'{cell.measured:.4g} ({cell.system})'
                for cell in measured.of(*misprint.key)
                if cell.measured is not None
            ),
        )
        for misprint in misprints
    ]


def measured_otherwise(measured: MeasuredTables, misprints: Sequence[Misprint]) -> list[Finding]:
    """Return parameters and FLOPs that no system of their row has, listed misprints left out."""
    listed = {misprint.key for misprint in misprints}
    rows: dict[tuple[int, str, str], list] = {}
    for cell in measured.cells:
        if cell.measured is not None and cell.column.metric.is_complexity:
            rows.setdefault((cell.table, cell.model, cell.metric), []).append(cell)
    return [
        Finding(
            f'Table {table}, {model}',
            f'{metric} {cells[0].paper}',
            '; '.join(f'{c.measured:.4g} measured ({c.system}): {c.reason}' for c in cells),
            ((table, model, metric),),
        )
        for (table, model, metric), cells in rows.items()
        if (table, model, metric) not in listed
        and all(cell.verdict in (Verdict.KNOWN, Verdict.WORSE) for cell in cells)
    ]
