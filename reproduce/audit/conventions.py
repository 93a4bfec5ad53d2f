"""The FLOPs that the tables set side by side, in one convention: what the comparison becomes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reproduce.audit.findings import Finding
from reproduce.audit.measured import MeasuredTables
from reproduce.audit.rows import Tables, family, group
from reproduce.judge.cells import Cell
from reproduce.judge.verdict import Verdict
from reproduce.paper import FRAMEWORKS, TABLES, Column, Row

# The rival that the paper's claims are about: its "previous best" (Abstract; Section 4.3).
_RIVAL = 'CSWin'
_CONVENTIONS = ('total', 'layer')


@dataclass(frozen=True)
class Comparison:
    """The FLOPs of a MAFormer and of its rival of the same group, which count different things.

    Attributes:
        table, framework: where they are printed side by side.
        ours, rival: the measured cells of both.
    """

    table: int
    framework: str
    ours: Cell
    rival: Cell

    @property
    def printed_ratio(self) -> float:
        """How many times the rival's FLOPs MAFormer's are, as printed."""
        return float(self.ours.paper) / float(self.rival.paper)

    def ratio(self, convention: str) -> float:
        """The same, with both counted in one convention."""
        return self.ours.flops(convention) / self.rival.flops(convention)


def comparisons(tables: Tables, measured: MeasuredTables) -> list[Comparison]:
    """Return every pair of a MAFormer and its rival whose printed FLOPs are of two conventions.

    MAFormer-S, which stands for two depths, is the one whose FLOPs are nearest to the printed ones.
    """
    return [
        Comparison(number, column.framework.name, ours, rival)
        for number, rows in tables.items()
        for column in TABLES[number].columns.values()
        if column.metric.name == 'flops_g'
        for ours, rival in _pairs(rows, column, measured)
        if {ours.distinct_convention, rival.distinct_convention} == set(_CONVENTIONS)
    ]


def mixed_conventions(
    tables: Tables, measured: MeasuredTables, compared: Sequence[Comparison]
) -> list[Finding]:
    """Return the finding that the tables compare layer with total FLOPs, if they do."""
    if not compared:
        return []
    ours, theirs = compared[0].ours.convention, compared[0].rival.convention
    numbers = sorted({pair.table for pair in compared})
    alike = [
        f'{", ".join(names)} in Table {number}'
        for number in numbers
        if (names := _families(tables[number], measured, ours))
    ]
    return [
        Finding(
            f'Tables {" and ".join(map(str, numbers))}, FLOPs',
            f'{ours} FLOPs of MAFormer stand beside {theirs} FLOPs of {_RIVAL}',
            f"What is printed as {_span([p.printed_ratio for p in compared])} times the rival's "
            f'FLOPs is {_span([p.ratio("total") for p in compared])} times as total and '
            f'{_span([p.ratio("layer") for p in compared])} times as layer FLOPs. Measuring both '
            'shows which a row prints; layer FLOPs, which leave out the products of attention, are '
            f'those of {"; ".join(["MAFormer", *alike])}. '
            f'{" ".join(_sentence(pair) for pair in compared)}',
        )
    ]


def _span(ratios: Sequence[float]) -> str:
    return f'{min(ratios):.2f} to {max(ratios):.2f}'


def _families(rows: Sequence[Row], measured: MeasuredTables, convention: str) -> list[str]:
    """Return the families of rivals whose printed FLOPs match their count in `convention`."""
    found = {
        family(row)
        for row in rows
        for name in row.cells
        for cell in measured.of(row.table, row.model, name)
        if cell.distinct_convention == convention and cell.verdict is Verdict.MATCH
    }
    return sorted(found - {'MAFormer'})


def _sentence(pair: Comparison) -> str:
    counts = ', '.join(
        f'{pair.ours.flops(name):.0f} and {pair.rival.flops(name):.0f} G {name} '
        f'({pair.ratio(name):.2f} times)'
        for name in _CONVENTIONS
    )
    return (
        f'{FRAMEWORKS[pair.framework].heading}, {pair.ours.model} and {pair.rival.model}: '
        f'{pair.ours.paper} and {pair.rival.paper} G printed ({pair.printed_ratio:.2f} times), '
        f'{counts}.'
    )


def _pairs(
    rows: Sequence[Row], column: Column, measured: MeasuredTables
) -> Iterator[tuple[Cell, Cell]]:
    for row in rows:
        if family(row) != 'MAFormer' or row.cells[column.name] is None:
            continue
        rivals = [r for r in group(rows, row) if family(r) == _RIVAL and r.cells[column.name]]
        ours = _nearest(measured, row, column)
        theirs = _nearest(measured, rivals[-1], column) if rivals else None
        if ours and theirs:
            yield ours, theirs


def _nearest(measured: MeasuredTables, row: Row, column: Column) -> Cell | None:
    """Return the measured cell of a row; of several systems, that nearest to the printed value."""
    cells = [c for c in measured.of(row.table, row.model, column.name) if c.measured is not None]
    return min(cells, key=lambda cell: abs(cell.difference), default=None)
