"""FLOPs of MAFormer and CSWin, which the paper compares although it counts them differently."""

from collections.abc import Sequence
from dataclasses import dataclass

from reproduce.audit.rows import Tables, family
from reproduce.judge.cells import Cell
from reproduce.paper import TABLES, Row

RIVAL = 'CSWin'  # the "previous best" of the abstract and of section 4.3


@dataclass(frozen=True)
class CostComparison:
    """The FLOPs of a MAFormer and of its rival, of which the paper prints two kinds.

    Attributes:
        table, framework: where both are printed.
        ours, rival: the measured cells.
    """

    table: int
    framework: str
    ours: Cell
    rival: Cell

    @property
    def printed_ratio(self) -> float:
        """MAFormer's FLOPs divided by the rival's, as printed."""
        return float(self.ours.paper) / float(self.rival.paper)

    def ratio(self, convention: str) -> float:
        """Return the same ratio with both counted in one convention, 'layer' or 'total'."""
        return self.ours.flops(convention) / self.rival.flops(convention)


def comparisons(tables: Tables, cells: Sequence[Cell]) -> list[CostComparison]:
    """Return the pairs of a MAFormer and its rival whose printed FLOPs are of two conventions.

    MAFormer-S is measured with several depths: the one with the nearest FLOPs is taken.
    """
    found = []
    for table, rows in tables.items():
        for column in TABLES[table].columns.values():
            for row in rows if column.metric.name == 'flops_g' else ():
                if not row.own:
                    continue
                theirs = [r for r in rows if r.block == row.block and family(r) == RIVAL]
                ours = _nearest(cells, row, column.name)
                rival = _nearest(cells, theirs[0], column.name) if theirs else None
                if ours and rival and ours.convention != rival.convention:
                    found.append(CostComparison(table, column.framework.name, ours, rival))
    return found


def _nearest(cells: Sequence[Cell], row: Row, column: str) -> Cell | None:
    """Return the measured cell of a row that is nearest to the printed value."""
    measured = [
        cell
        for cell in cells
        if (cell.table, cell.model, cell.metric) == (row.table, row.model, column)
        and cell.difference is not None
    ]
    return min(measured, key=lambda cell: abs(cell.difference), default=None)
