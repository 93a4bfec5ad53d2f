"""The register of cells that lie outside their tolerance for a known reason."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from reproduce.base.files import read_toml

KNOWN = Path(__file__).parent / 'known.toml'


class KnownDeviation(BaseModel):
    """Cells that are outside their tolerance, and why; `known.toml` describes the fields."""

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


def load_known(path: Path = KNOWN) -> dict[tuple[int, str, str], KnownDeviation]:
    """Return the entry of each registered (table, system, metric).

    Raises:
        UserError: if the file is malformed.
    """
    return {
        (table, system, metric): entry
        for entry in read_toml(path, dict[str, list[KnownDeviation]])['known']
        for table in entry.tables
        for system in entry.systems
        for metric in entry.metrics
    }
