"""What the audit reads: the printed tables and claims, their sources, and the measured results."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from reproduce import paper
from reproduce.audit import readings
from reproduce.audit.claims import JudgedClaim, judge_claim, load_claims
from reproduce.audit.misprints import Misprint, load_misprints
from reproduce.audit.readings import Search
from reproduce.audit.rows import Tables, find_row, number
from reproduce.audit.sources import Source, SourcedCell, compare_sources, load_sources
from reproduce.judge.cells import Cell, load_results
from reproduce.paper import Row, Tolerance


@dataclass(frozen=True)
class AuditData:
    """What the findings are computed from.

    Attributes:
        tables: the printed ones.
        claims: of the text, judged.
        sources, sourced: other publications, and each baseline's cell compared with them.
        misprints: the registered ones.
        cells: the measured results.
        tolerances: by metric.
        search: the readings of the block.
    """

    tables: Tables
    claims: Sequence[JudgedClaim]
    sources: dict[str, Source]
    sourced: Sequence[SourcedCell]
    misprints: Sequence[Misprint]
    cells: Sequence[Cell]
    tolerances: dict[str, Tolerance]
    search: Search

    def row(self, table: int, name: str, source: str = '') -> Row:
        """Return a row of the paper, or of a source, by the name that `find_row` takes."""
        return find_row(self.sources[source].tables if source else self.tables, table, name)

    def printed(self, table: int, name: str, column: str, source: str = '') -> Decimal:
        """Return a printed number of the paper, or of a source."""
        return number(self.row(table, name, source), column)

    def measured(self, table: int, model: str, column: str, variant: str = '') -> Cell:
        """Return the measured cell of a row, and of the variant with other depths."""
        return next(
            cell
            for cell in self.cells
            if (cell.table, cell.model, cell.metric) == (table, model, column)
            and cell.variant == variant
        )


def load_audit_data(results: Path, folder: Path = paper.FOLDER) -> AuditData:
    """Read all that the audit needs.

    Args:
        results: folder of the measured tables.
        folder: folder of the printed tables, claims, misprints, tolerances and sources.

    Raises:
        UserError: if a file is missing or malformed.
    """
    tables = {table: paper.load_table(table, folder) for table in paper.TABLES}
    cells, tolerances = load_results(results), paper.load_tolerances(folder)
    sources = load_sources(folder / 'sources')
    targets = readings.targets(tables, cells, tolerances)
    return AuditData(
        tables=tables,
        claims=[judge_claim(claim, tables) for claim in load_claims(folder)],
        sources=sources,
        sourced=compare_sources(tables, sources),
        misprints=load_misprints(folder),
        cells=cells,
        tolerances=tolerances,
        search=readings.search(readings.variants(tables), targets),
    )
