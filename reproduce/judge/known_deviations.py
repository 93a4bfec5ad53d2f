"""The register of cells that lie outside their tolerance for a known reason."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from reproduce.base.errors import UserError
from reproduce.base.files import read_toml
from reproduce.paper import Row
from reproduce.systems import System

KNOWN = Path(__file__).parent / 'known.toml'


class Evidence(BaseModel):
    """Where a number in the reason of a deviation is from, so that it can be computed again.

    Attributes:
        number: the number as the reason gives it, which sets the digits that it is compared at.
        printed: a printed cell, such as 'T4[Swin-T].top1', or the difference of two.
        source: the folder in `paper/sources` whose tables `printed` reads; '' for the paper's own.
        system: a system whose `count` it is, or whose backbone `config` gets.
        model, arguments, input_size, config: the same of a model that is no system.
        count: what is counted, 'depths' being the blocks of each stage, such as '3-5-8-3', and
            'vil_counter_g' what the counter of ViL's release says of Mask R-CNN with the model.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    number: str
    printed: str = ''
    source: str = ''
    system: str = ''
    model: str | None = None
    arguments: dict[str, Any] = {}
    input_size: int = 224
    config: str | None = None
    count: Literal['', 'params_m', 'layer_flops_g', 'total_flops_g', 'depths', 'vil_counter_g'] = ''

    @model_validator(mode='after')
    def _is_one_of_two(self) -> 'Evidence':
        built = self.model or self.config or self.system
        if bool(self.printed) == bool(self.count) or bool(built) != bool(self.count):
            raise ValueError(f'{self.number} needs either printed, or a count of something built')
        return self


class KnownDeviation(BaseModel):
    """Cells that are outside their tolerance, and why.

    Attributes:
        tables, systems, metrics: the cells; `metrics` are columns of the paper's tables.
        reason: a sentence. Its numbers are those of the cells themselves or have `evidence`.
        convention: why the count of the other FLOP convention, which would match the printed
            value, is not what the row prints; '' where neither count matches.
        evidence: of the numbers in `reason` and `convention`.
    """

    model_config = ConfigDict(extra='forbid', frozen=True)
    tables: list[int]
    systems: list[str]
    metrics: list[str]
    reason: str
    convention: str = ''
    evidence: list[Evidence] = []

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
