"""The cells of a table, assembled and judged."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from reproduce.complexity import Complexity
from reproduce.errors import UserError
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell
from reproduce.judge.verdict import COMPLEXITY_METRICS, Verdict, judge, judge_reference
from reproduce.paper import Row, Tolerance, read_toml, unprefixed
from reproduce.systems import System
from reproduce.weights import registry

KNOWN = Path(__file__).parent / 'known.toml'

OUTSIDE = (Verdict.BETTER, Verdict.WORSE)


class KnownDeviation(BaseModel):
    """Cells that are outside their tolerance, and why."""

    model_config = ConfigDict(extra='forbid')
    tables: list[int]
    systems: list[str]
    metrics: list[str]
    reason: str


class _Register(BaseModel):
    model_config = ConfigDict(extra='forbid')
    known: list[KnownDeviation]


def load_known(path: Path = KNOWN) -> dict[tuple[int, str, str], str]:
    """The register of known deviations: the reason of each (table, system, metric).

    Raises:
        UserError: if the file is malformed.
    """
    return {
        (table, system, metric): entry.reason
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
    cells = {(row.table, s.name, c) for row, s, c in _cells(rows, systems)}
    for table, system, metric in known:
        if table in {row.table for row in rows} and (table, system, metric) not in cells:
            raise UserError(
                f'{KNOWN} registers table {table}, {system}, {metric}, which is no cell: '
                'correct or remove the entry.'
            )


def assemble(
    rows: Collection[Row],
    systems: Collection[System],
    complexities: Mapping[str, Complexity | Exception],
    tolerances: Mapping[str, Tolerance],
    known: Mapping[tuple[int, str, str], str],
    evaluations: Mapping[tuple[str, str], Evaluation | Exception | str],
) -> list[Cell]:
    """The judged cells of `rows` for those of `systems` that stand for them, in printed order.

    Args:
        evaluations: of each system and accuracy its evaluation on the complete data, why it
            failed, or why there is none.
    """
    cells = []
    for row in rows:
        of_row = [
            _judged(
                row,
                system,
                column,
                complexities.get(system.name),
                evaluations.get((system.name, unprefixed(column))),
                tolerances,
                known.get((row.table, system.name, column)),
            )
            for _, system, column in _cells([row], systems)
        ]
        cells += [_satisfied(cell, of_row) for cell in of_row]
    return cells


def _satisfied(cell: Cell, of_row: Collection[Cell]) -> Cell:
    """An accuracy that one system of a row does not have, another may: a row has one number."""
    if unprefixed(cell.metric) in COMPLEXITY_METRICS:
        return cell
    good = (Verdict.MATCH, Verdict.BETTER)
    enough = {
        Verdict.NOT_RUN: (*good, Verdict.WORSE, Verdict.KNOWN, Verdict.UNPRINTED),
        Verdict.WORSE: good,
    }.get(cell.verdict, ())
    for other in of_row:
        if other.metric == cell.metric and other.verdict in enough:
            reason = f'the row is satisfied by {other.system} ({other.verdict}); {cell.reason}'
            return replace(cell, satisfied_by=other.system, reason=reason)
    return cell


def _cells(rows: Collection[Row], systems: Collection[System]) -> Iterator[tuple[Row, System, str]]:
    for row in rows:
        for system in systems:
            if system.stands_for(row):
                yield from ((row, system, column) for column in system.columns(row.table))


def _judged(
    row: Row,
    system: System,
    column: str,
    complexity: Complexity | Exception | None,
    evaluation: Evaluation | Exception | str | None,
    tolerances: Mapping[str, Tolerance],
    deviation: str | None,
) -> Cell:
    metric, target = unprefixed(column), row.cells[column]
    tolerance = tolerances[metric]
    value = layer = total = reference = reference_verdict = None
    if system.cited is not None:
        verdict, reason = Verdict.CITED, system.cited
    elif metric not in COMPLEXITY_METRICS and isinstance(evaluation, Evaluation):
        value, data, weights = evaluation.metrics[metric], evaluation.data, evaluation.checkpoint
        verdict = judge(metric, value, target, tolerance, deviation is not None)
        release = registry.released(weights.sha256, weights.released)
        found = release and release.reference_on(data.fingerprint, data.complete)
        reference = found and found.metrics.get(metric)
        reference_verdict = judge_reference(value, reference, data.images, tolerances['reference'])
        protocol = release.protocol if release else ''
        # Weights of another protocol are neither better nor worse than the row's: they are other
        # weights, unless they miss even what their publisher measured with them.
        if protocol and reference_verdict is not Verdict.WORSE and verdict in OUTSIDE:
            verdict = Verdict.KNOWN
        remark = f'released weights: {protocol}' if protocol else system.note
        reason = '; '.join(filter(None, (deviation, remark, evaluation.origin)))
    elif metric not in COMPLEXITY_METRICS and isinstance(evaluation, Exception):
        verdict, reason = Verdict.ERROR, str(evaluation)
    elif metric not in COMPLEXITY_METRICS:
        verdict = Verdict.NOT_RUN
        reason = evaluation
    elif isinstance(complexity, Complexity):
        value = complexity.params / 1e6
        if metric == 'flops_g':
            layer, total = complexity.layer_flops / 1e9, complexity.total_flops / 1e9
            value = layer if system.convention == 'layer' else total
        verdict = judge(metric, value, target, tolerance, deviation is not None)
        reason = {
            Verdict.KNOWN: deviation,
            Verdict.ERROR: f'registered as a known deviation, but it matches: correct {KNOWN.name}',
        }.get(verdict, system.note)
        if not math.isfinite(value):
            value, reason = None, f'the measurement is {value}'
    else:
        verdict = Verdict.ERROR
        reason = f'{type(complexity).__name__}: {complexity}'.splitlines()[0]
    return Cell(
        table=row.table,
        model=row.model,
        system=system.name,
        metric=column,
        convention=system.convention if metric == 'flops_g' else '',
        paper=target.text if target else '',
        reference='' if reference is None else str(reference),
        measured=value,
        difference=value - target.value if value is not None and target else None,
        tolerance=tolerance.width(target) if target else None,
        verdict=verdict,
        reference_verdict=reference_verdict
        or (Verdict.UNPRINTED if value is not None else verdict),
        reason=reason,
        layer_flops_g=layer,
        total_flops_g=total,
    )


def count(cells: Iterable[Cell]) -> dict[str, int]:
    """How many cells have each verdict, in the order of the verdicts, zeros left out."""
    counts = Counter(cell.verdict for cell in cells)
    return {str(verdict): counts[verdict] for verdict in Verdict if counts[verdict]}


def exit_code(cells: Collection[Cell], strict: bool) -> int:
    """0, or 1 if a cell is `worse` or, with `strict`, `not-run`, or 2 if one is an `error`.

    A cell counts by both of its verdicts, but for one that another system of its row satisfies.
    """
    verdicts = {cell.verdict for cell in cells if not cell.satisfied_by}
    references = {cell.reference_verdict for cell in cells}
    if Verdict.ERROR in verdicts | references:
        return 2
    worse = Verdict.WORSE in verdicts | references
    return int(worse or (strict and Verdict.NOT_RUN in verdicts))
