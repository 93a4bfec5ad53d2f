"""What was measured: the committed cells of `results/table1.csv` ... `table7.csv`."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from reproduce import paper
from reproduce.errors import UserError
from reproduce.results import Cell


@dataclass(frozen=True)
class MeasuredCell:
    """A line of a results table; numbers are None where they were not measured."""

    table: int
    model: str
    system: str
    metric: str
    convention: str
    paper: str
    value: float | None
    verdict: str
    reason: str


class Measured:
    """The cells of all tables.

    Raises:
        UserError: if a table is missing or malformed.
    """

    def __init__(self, folder: Path) -> None:
        columns = {f.name for f in fields(Cell) if f.metadata.get('column', True)}
        self.cells = [
            _cell(folder / f'table{number}.csv', line, record)
            for number in paper.METRICS
            for line, record in paper.read_csv(folder / f'table{number}.csv', columns)
        ]

    def of(self, table: int, model: str, metric: str) -> Iterator[MeasuredCell]:
        """The cells of the rows printed as `model`, one for each of their systems."""
        for cell in self.cells:
            if (cell.table, cell.model, cell.metric) == (table, model, metric):
                yield cell

    def convention(self, table: int, model: str, metric: str) -> str | None:
        """What the printed FLOPs count, 'layer', 'total', or '' where the row does not tell."""
        return next((cell.convention for cell in self.of(table, model, metric)), None)


def _cell(path: Path, line: int, record: dict[str, str]) -> MeasuredCell:
    try:
        return MeasuredCell(
            table=int(record['table']),
            value=float(record['measured']) if record['measured'] else None,
            **{
                name: record[name]
                for name in (
                    'model',
                    'system',
                    'metric',
                    'convention',
                    'paper',
                    'verdict',
                    'reason',
                )
            },
        )
    except ValueError as error:
        raise UserError(
            f'{path}, line {line}: {error}; write it again with `make reproduce`.'
        ) from None
