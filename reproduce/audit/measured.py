"""What was measured: the cells of `results/table1.csv` ... `table7.csv`."""

from collections.abc import Iterator
from pathlib import Path

from reproduce.judge.cells import Cell, load_results


class MeasuredTables:
    """The cells of all tables.

    Raises:
        UserError: if a table is missing or malformed.
    """

    def __init__(self, folder: Path) -> None:
        self.cells = load_results(folder)

    def of(self, table: int, model: str, metric: str) -> Iterator[Cell]:
        """Return the cells of the rows printed as `model`, one for each of their systems."""
        for cell in self.cells:
            if (cell.table, cell.model, cell.metric) == (table, model, metric):
                yield cell

    def convention(self, table: int, model: str, metric: str) -> str | None:
        """Return what the printed FLOPs count: 'layer', 'total', or '' where that is unknown."""
        return next((cell.convention for cell in self.of(table, model, metric)), None)
