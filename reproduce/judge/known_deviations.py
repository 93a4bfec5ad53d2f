"""The register of cells that lie outside their tolerance for a known reason."""

from collections.abc import Collection, Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from reproduce.errors import UserError
from reproduce.files import read_toml
from reproduce.paper import Row
from reproduce.systems import System

KNOWN = Path(__file__).parent / 'known.toml'


class KnownDeviation(BaseModel):
    """Cells that are outside their tolerance, and why."""

    model_config = ConfigDict(extra='forbid')
    tables: list[int]
    systems: list[str]
    metrics: list[str]
    reason: str


class _Register(BaseModel):
    model_config = ConfigDict(extra='forbid')
    known: list[KnownDeviation]


def load_known(path: Path = KNOWN) -> dict[tuple[int, str, str], str]:
    """Return the reason of each registered (table, system, metric).

    Raises:
        UserError: if the file is malformed.
    """
    return {
        (table, system, metric): entry.reason
        for entry in read_toml(path, _Register).known
        for table in entry.tables
        for system in entry.systems
        for metric in entry.metrics
    }


def check_known(
    known: Iterable[tuple[int, str, str]], rows: Collection[Row], systems: Collection[System]
) -> None:
    """Check that every registered deviation of the tables in `rows` is one of their cells.

    Raises:
        UserError: naming the first that is not.
    """
    tables = {row.table for row in rows}
    cells = {
        (row.table, system.name, column.name)
        for row in rows
        for system in systems
        if system.stands_for(row)
        for column in system.columns(row.table)
    }
    for table, system, metric in known:
        if table in tables and (table, system, metric) not in cells:
            raise UserError(
                f'{KNOWN} registers table {table}, {system}, {metric}, which is no cell: '
                'correct or remove the entry.'
            )
