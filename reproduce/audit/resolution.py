"""Differences of the paper that a test on its data sets could, or could not, tell from chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.audit.claims import Claim
from reproduce.audit.expressions import evaluate
from reproduce.audit.findings import Finding
from reproduce.audit.rows import Tables, accuracies, family, group
from reproduce.paper import TABLES, Tolerance
from reproduce.paper.printed import Row

# The tables that compare MAFormer with other networks, and print the best of a group in bold.
_COMPARING = (4, 5, 6, 7)


@dataclass(frozen=True)
class Lead:
    """A cell in which MAFormer is better than every rival of its group.

    Attributes:
        table, model, metric: the cell.
        rival: the best of the rivals.
        difference: by how much it is better, in percent.
        resolvable: the smallest difference that a test on the data set shows.
        seeds: how far two networks that differ in nothing but their seeds may lie apart.
    """

    table: int
    model: str
    metric: str
    rival: str
    difference: float
    resolvable: float
    seeds: float

    @property
    def resolved(self) -> bool:
        """Whether a test on the data set would show it."""
        return self.difference > self.resolvable

    @property
    def beyond_seeds(self) -> bool:
        """Whether two seeds do not explain it."""
        return self.difference > self.seeds


def leads(tables: Tables, tolerances: Mapping[str, Tolerance]) -> list[Lead]:
    """Return the cells of the tables in which a MAFormer is the best of its group."""
    found = []
    for number in _COMPARING:
        for row in tables[number]:
            if family(row) == 'MAFormer':
                found += _leads_of(row, tables[number], tolerances)
    return found


def _leads_of(row: Row, rows: Sequence[Row], tolerances: Mapping[str, Tolerance]) -> list[Lead]:
    rivals = [rival for rival in group(rows, row) if family(rival) != 'MAFormer']
    found = []
    for name, ours in accuracies(row).items():
        printed = [rival for rival in rivals if name in accuracies(rival)]
        best = max(printed, key=lambda rival: accuracies(rival)[name], default=None)
        if best is None or ours <= accuracies(best)[name]:
            continue
        tolerance = tolerances[TABLES[row.table].columns[name].metric.name]
        found.append(
            Lead(
                row.table,
                row.model,
                name,
                best.model,
                float(ours - accuracies(best)[name]),
                tolerance.resolvable,
                2**0.5 * tolerance.seeds.width,
            )
        )
    return found


def unresolved(
    claims: Sequence[Claim], tables: Tables, tolerances: Mapping[str, Tolerance]
) -> list[Finding]:
    """Return the claims of one network over another that a test on the data would not show."""
    findings = []
    for claim in claims:
        for reading in claim.cells.split(' | '):
            metric = _difference_of(reading)
            if metric is None or tolerances[metric].resolvable is None:
                continue
            found = abs(float(evaluate(reading, tables).value))
            if found < tolerances[metric].resolvable:
                findings.append(_finding(claim, found, tolerances[metric]))
    return findings


def _difference_of(expression: str) -> str | None:
    """Return the metric of a difference of two cells of one; None for other expressions."""
    first, minus, second = expression.strip().partition(' - ')
    names = {side.rpartition('.')[2] for side in (first, second)}
    if not minus or len(names) != 1:
        return None
    return next(
        (
            column.metric.name
            for table in TABLES.values()
            for name, column in table.columns.items()
            if names == {name} and not column.metric.is_complexity
        ),
        None,
    )


def _finding(claim: Claim, found: float, tolerance: Tolerance) -> Finding:
    return Finding(
        claim.place,
        f'{claim.says}: {claim.printed} (smaller than what chance does)',
        f'On {tolerance.sampling.images:,} images a test shows differences of two networks from '
        f'about {tolerance.resolvable:.2f} on, and another seed moves one by '
        f'{tolerance.seeds.width:.1f}; the difference is {found:.1f}.',
    )
