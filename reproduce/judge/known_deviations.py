"""The register of cells that lie outside their tolerance for a known reason."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from reproduce.base.files import read_toml

KNOWN = Path(__file__).parent / 'known.toml'


class KnownDeviation(BaseModel):
    """Cells that are outside their tolerance, and why.

    Attributes:
        tables, systems, metrics: the cells; `metrics` are columns of the paper's tables.
        reason: a sentence. Its numbers are those of the cells themselves or have `evidence`.
        convention: why the count of the other FLOP convention, which would match the printed
            value, is not what the row prints; '' where neither count matches.
        evidence: how the numbers in `reason` and `convention` are computed again, which
            tests/test_register.py does; `known.toml` describes its entries.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    tables: list[int]
    systems: list[str]
    metrics: list[str]
    reason: str
    convention: str = ''
    evidence: list[dict[str, Any]] = []

    @property
    def text(self) -> str:
        """All that is said about the cells."""
        return '; '.join(filter(None, (self.reason, self.convention)))


class _Register(BaseModel):
    model_config = ConfigDict(extra='forbid')
    known: list[KnownDeviation]


def load_known(path: Path = KNOWN) -> dict[tuple[int, str, str], KnownDeviation]:
    """Return the entry of each registered (table, system, metric).

    Raises:
        UserError: if the file is malformed.
    """
    return {
        (table, system, metric): entry
        for entry in read_toml(path, _Register).known
        for table in entry.tables
        for system in entry.systems
        for metric in entry.metrics
    }
