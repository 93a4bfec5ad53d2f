"""The register of printed values that are probably misprints."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

from reproduce.base.files import read_csv
from reproduce.paper import FOLDER, TABLES


class Misprint(BaseModel):
    """A line of `misprints.csv`: a printed value that is probably another."""

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
        """The cell: table, model and metric."""
        return self.table, self.model, self.metric


def load_misprints(folder: Path = FOLDER) -> list[Misprint]:
    """Return the registered misprints.

    Raises:
        UserError: if the file is missing or malformed.
    """
    return [misprint for _, misprint in read_csv(folder / 'misprints.csv', Misprint)]
