"""The listed misprints with what was measured, and what else was measured otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reproduce import paper
from reproduce.audit.findings import Finding
from reproduce.audit.measured import Measured
from reproduce.errors import UserError
from reproduce.judge.verdict import COMPLEXITY_METRICS, Verdict
from reproduce.paper import unprefixed

COLUMNS = {'table', 'model', 'metric', 'printed', 'likely', 'reason'}


@dataclass(frozen=True)
class Misprint:
    """A line of `misprints.csv`; `measured` is what this project measured for the cell."""

    table: int
    model: str
    metric: str
    printed: str
    likely: str
    reason: str
    measured: str


def load_misprints(measured: Measured, folder: Path = paper.FOLDER) -> list[Misprint]:
    """The listed misprints, each with the measured values of its cell.

    Raises:
        UserError: if the file is missing or malformed.
    """
    path = folder / 'misprints.csv'
    misprints = []
    for line, record in paper.read_csv(path, COLUMNS):
        if not record['table'].isdecimal() or int(record['table']) not in paper.METRICS:
            raise UserError(f"{path}, line {line}: there is no Table '{record['table']}'.")
        table = int(record.pop('table'))
        values = [
            f'{cell.measured:.4g} ({cell.system})'
            for cell in measured.of(table, record['model'], record['metric'])
            if cell.measured is not None
        ]
        misprints.append(Misprint(table=table, measured='; '.join(values), **record))
    return misprints


def measured_otherwise(measured: Measured, misprints: Sequence[Misprint]) -> list[Finding]:
    """Parameters and FLOPs that no system of their row comes to, those in `misprints` left out."""
    listed = {(m.table, m.model, m.metric) for m in misprints}
    rows: dict[tuple[int, str, str], list] = {}
    for cell in measured.cells:
        if cell.measured is not None and unprefixed(cell.metric) in COMPLEXITY_METRICS:
            rows.setdefault((cell.table, cell.model, cell.metric), []).append(cell)
    return [
        Finding(
            f'Table {table}, {model}',
            f'{metric} {cells[0].paper}',
            '; '.join(f'{c.measured:.4g} measured ({c.system}): {c.reason}' for c in cells),
            ((table, model, metric),),
        )
        for (table, model, metric), cells in rows.items()
        if (table, model, metric) not in listed
        and all(cell.verdict in (Verdict.KNOWN, Verdict.WORSE) for cell in cells)
    ]
