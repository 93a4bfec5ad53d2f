"""The cells of a table, assembled from what was measured, and judged."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reproduce.complexity import Complexity
from reproduce.evaluate.records import Evaluation
from reproduce.evaluate.unmeasured import Accuracy, Failed
from reproduce.judge.cells import Cell
from reproduce.judge.known_deviations import KNOWN, KnownDeviation
from reproduce.judge.references import check_reference
from reproduce.judge.verdict import Agreement, Verdict, compare_published, exit_status, judge
from reproduce.paper import Column, Printed, Row, Tolerance
from reproduce.systems import System
from reproduce.weights import registry
from reproduce.weights.registry import Reference


@dataclass(frozen=True)
class _Target:
    """What a cell is judged by; `deviation` is the entry of a registered one."""

    row: Row
    system: System
    column: Column
    tolerance: Tolerance
    deviation: KnownDeviation | None

    @property
    def printed(self) -> Printed | None:
        return self.row.cells[self.column.name]

    def judge(self, value: float) -> Verdict:
        known = self.deviation is not None
        return judge(self.column.metric, value, self.printed, self.tolerance, known)


def assemble(
    rows: Collection[Row],
    systems: Collection[System],
    complexities: Mapping[str, Complexity | str],
    tolerances: Mapping[str, Tolerance],
    known: Mapping[tuple[int, str, str], KnownDeviation],
    accuracies: Mapping[tuple[str, str], Accuracy],
) -> list[Cell]:
    """Return the judged cells of `rows`, in printed order.

    Args:
        systems: those that stand for the rows.
        complexities: of each system its parameters and FLOPs, or why they could not be counted.
        tolerances: by metric.
        known: the entry of each registered deviation.
        accuracies: of each system and metric its evaluation on the complete data, or why there is
            none.
    """
    cells = []
    for row in rows:
        of_row = []
        for system in systems:
            for column in system.columns(row.table) if system.stands_for(row) else ():
                deviation = known.get((row.table, system.name, column.name))
                metric = column.metric
                target = _Target(row, system, column, tolerances[metric.name], deviation)
                if system.cited is not None:
                    judged = {'verdict': Verdict.CITED, 'reason': system.cited}
                elif metric.is_complexity:
                    judged = _counted(target, complexities[system.name])
                else:
                    judged = _evaluated(target, accuracies[system.name, metric.name])
                of_row.append(_cell(target, **judged))
        cells += [_satisfied(cell, of_row) for cell in of_row]
    return cells


def _counted(target: _Target, complexity: Complexity | str) -> dict[str, Any]:
    """Judge parameters or FLOPs."""
    if isinstance(complexity, str):
        return {'verdict': Verdict.ERROR, 'reason': complexity}
    counts, value = {}, complexity.params / 1e6
    if target.column.metric.name == 'flops_g':
        layer, total = complexity.layer_flops / 1e9, complexity.total_flops / 1e9
        value = layer if target.system.convention == 'layer' else total
        counts = {'layer_flops_g': layer, 'total_flops_g': total}
    verdict, reason = target.judge(value), target.system.note
    if not math.isfinite(value):
        value, reason = None, f'the measurement is {value}'
    elif verdict is Verdict.KNOWN:
        reason = target.deviation.text
    elif verdict is Verdict.ERROR:
        reason = f'registered as a known deviation, but it matches: correct {KNOWN.name}'
    return {'measured': value, 'verdict': verdict, 'reason': reason, **counts}


def _evaluated(target: _Target, accuracy: Accuracy) -> dict[str, Any]:
    """Judge an accuracy, against the printed value and against that of the same weights."""
    if isinstance(accuracy, Failed):
        return {'verdict': Verdict.ERROR, 'reason': accuracy.message}
    system, metric = target.system, target.column.metric.name
    if not isinstance(accuracy, Evaluation):
        # What the authors trained is closer to the row than what others trained.
        authors = registry.result_of_authors(system)
        published = _published(target, authors or registry.reference_of(system))
        reason = accuracy.sentence(system.name)
        if published and system.protocol and authors is None:
            reason += f'; released weights: {system.protocol}'
        return {
            'verdict': Verdict.NOT_RUN,
            'reason': reason,
            'missing': accuracy,
            'record': accuracy.part[2] if accuracy.part else '',
            **published,
        }
    value, check = accuracy.metrics[metric], check_reference(accuracy)
    verdict, reference_verdict = target.judge(value), check.verdict(metric)
    # Weights of another protocol are neither better nor worse than the row's: they are other
    # weights, unless they miss even what their publisher measured with them.
    outside = verdict in (Verdict.BETTER, Verdict.WORSE)
    if check.protocol and reference_verdict is not Verdict.WORSE and outside:
        verdict = Verdict.KNOWN
    remark = f'released weights: {check.protocol}' if check.protocol else system.note
    reasons = (target.deviation.text if target.deviation else '', remark, accuracy.origin)
    return {
        'measured': value,
        'verdict': verdict,
        'reference_verdict': reference_verdict,
        'reason': '; '.join(filter(None, reasons)),
        'record': accuracy.stem,
        **_published(target, check.reference),
    }


def _published(target: _Target, reference: Reference | None) -> dict[str, str]:
    """Return the fields of a cell about the value that the publisher of the weights states."""
    value = reference and reference.metrics.get(target.column.metric.name)
    if value is None:
        return {}
    printed = target.printed
    return {
        'reference': str(value),
        'reference_source': reference.source,
        'published': compare_published(value, printed, target.tolerance) if printed else '',
    }


def _cell(target: _Target, verdict: Verdict, measured: float | None = None, **judged: Any) -> Cell:
    row, system, metric = target.row, target.system, target.column.metric
    printed, tolerance = target.printed, target.tolerance
    return Cell(
        row=row,
        table=row.table,
        model=row.model,
        system=system.name,
        metric=target.column.name,
        convention=system.convention if metric.name == 'flops_g' else '',
        paper=printed.text if printed else '',
        measured=measured,
        difference=measured - printed.value if measured is not None and printed else None,
        tolerance=tolerance.width(printed) if printed else None,
        verdict=verdict,
        variant=system.variant,
        resolvable=tolerance.resolvable,
        **{'reference_verdict': verdict if measured is None else Verdict.UNPRINTED, **judged},
    )


def _satisfied(cell: Cell, of_row: Collection[Cell]) -> Cell:
    """Return `cell`, excused where another system of its row has the accuracy that it lacks.

    A row has one number, and may have two systems.
    """
    if cell.column.metric.is_complexity:
        return cell
    good = (Verdict.MATCH, Verdict.BETTER)
    enough = {
        Verdict.NOT_RUN: (*good, Verdict.WORSE, Verdict.KNOWN, Verdict.UNPRINTED),
        Verdict.WORSE: good,
    }.get(cell.verdict, ())
    for other in of_row:
        if other.metric == cell.metric and other.verdict in enough:
            reason = f'the row is satisfied by {other.system} ({other.verdict}); {cell.reason}'
            return cell.model_copy(update={'satisfied_by': other.system, 'reason': reason})
    return cell


def printed_numbers(cells: Iterable[Cell]) -> list[Cell]:
    """Return one cell for each number that the paper prints, in the order of `cells`.

    Of the systems of a row it is the one as printed or, where another one satisfies the row, that.
    """
    numbers: dict[tuple[Row | str, str], list[Cell]] = {}
    for cell in cells:
        if cell.paper:
            numbers.setdefault((cell.row or cell.system, cell.metric), []).append(cell)
    return [
        min(of, key=lambda cell: (bool(cell.satisfied_by), bool(cell.variant)))
        for of in numbers.values()
    ]


def count(cells: Iterable[Cell]) -> dict[Verdict, int]:
    """Return how many printed numbers have each verdict, in the order of the verdicts.

    Zeros are left out.
    """
    counts = Counter(cell.verdict for cell in printed_numbers(cells))
    return {verdict: counts[verdict] for verdict in Verdict if counts[verdict]}


def count_published(cells: Iterable[Cell]) -> dict[Agreement, int]:
    """Return how many of the published values of printed numbers agree in which way."""
    counts = Counter(cell.published for cell in printed_numbers(cells))
    return {agreement: counts[agreement] for agreement in Agreement}


def exit_code(cells: Collection[Cell], strict: bool) -> int:
    """Return the exit status of `table`.

    A cell counts by both of its verdicts, unless another system of its row satisfies it.
    """
    verdicts = [cell.verdict for cell in cells if not cell.satisfied_by]
    references = [cell.reference_verdict for cell in cells]
    return max(exit_status(verdicts, strict), exit_status(references))
