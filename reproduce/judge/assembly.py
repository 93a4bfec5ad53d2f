"""The cells of a table, assembled from what was measured, and judged."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from reproduce.complexity.counts import Complexity
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
            if not system.stands_for(row):
                continue
            for column in system.columns(row.table):
                metric = column.metric
                target, tolerance = row.cells[column.name], tolerances[metric.name]
                deviation = known.get((row.table, system.name, column.name))
                if system.cited is not None:
                    judged = {'verdict': Verdict.CITED, 'reason': system.cited}
                elif metric.is_complexity:
                    complexity = complexities[system.name]
                    judged = _counted(system, column, complexity, target, tolerance, deviation)
                else:
                    accuracy = accuracies[system.name, metric.name]
                    judged = _evaluated(system, column, accuracy, target, tolerance, deviation)
                of_row.append(_cell(row, system, column, target, tolerance, judged))
        cells += [_satisfied(cell, of_row) for cell in of_row]
    return cells


def _counted(
    system: System,
    column: Column,
    complexity: Complexity | str,
    target: Printed | None,
    tolerance: Tolerance,
    deviation: KnownDeviation | None,
) -> dict:
    """Judge parameters or FLOPs."""
    if isinstance(complexity, str):
        return {'verdict': Verdict.ERROR, 'reason': complexity}
    counts, value = {}, complexity.params / 1e6
    if column.metric.name == 'flops_g':
        layer, total = complexity.layer_flops / 1e9, complexity.total_flops / 1e9
        value = layer if system.convention == 'layer' else total
        counts = {'layer_flops_g': layer, 'total_flops_g': total}
    verdict = judge(column.metric, value, target, tolerance, deviation is not None)
    reason = system.note
    if verdict is Verdict.KNOWN:
        reason = deviation.text
        if error := _untrue(system, counts, target, tolerance, deviation):
            verdict, reason = Verdict.ERROR, error
    elif verdict is Verdict.ERROR:
        reason = f'registered as a known deviation, but it matches: correct {KNOWN.name}'
    if not math.isfinite(value):
        value, reason = None, f'the measurement is {value}'
    return {'measured': value, 'verdict': verdict, 'reason': reason, **counts}


def _untrue(
    system: System,
    counts: Mapping[str, float],
    target: Printed,
    tolerance: Tolerance,
    deviation: KnownDeviation,
) -> str:
    """Return why a registered deviation is untrue under the other FLOP convention; '' if it is not.

    Args:
        counts: the FLOPs of the cell in both conventions; empty for parameters.
    """
    other = 'total' if system.convention == 'layer' else 'layer'
    value = counts.get(f'{other}_flops_g')
    matches = value is not None and abs(value - target.value) <= tolerance.width(target)
    if matches and not deviation.convention:
        return (
            f'registered as a known deviation, but its {other} FLOPs, {value:.4g} G, match: '
            f'correct the convention of {system.name}, or say in {KNOWN.name} why that is not what '
            'the row prints'
        )
    if deviation.convention and not matches:
        return (
            f'{KNOWN.name} says why the row does not print {other} FLOPs, which do not match '
            'anyhow: remove `convention`'
        )
    return ''


def _evaluated(
    system: System,
    column: Column,
    accuracy: Accuracy,
    target: Printed | None,
    tolerance: Tolerance,
    deviation: KnownDeviation | None,
) -> dict:
    """Judge an accuracy, against the printed value and against that of the same weights."""
    if isinstance(accuracy, Failed):
        return {'verdict': Verdict.ERROR, 'reason': accuracy.message}
    metric = column.metric.name
    if not isinstance(accuracy, Evaluation):
        stated = registry.reference_of(system)
        published = _published(stated, metric, target, tolerance)
        reason = accuracy.sentence(system.name)
        if published and system.protocol:
            reason += f'; released weights: {system.protocol}'
        return {
            'verdict': Verdict.NOT_RUN,
            'reference_verdict': Verdict.NOT_RUN,
            'reason': reason,
            'missing': accuracy,
            'record': accuracy.part[2] if accuracy.part else '',
            **published,
        }
    value = accuracy.metrics[metric]
    verdict = judge(column.metric, value, target, tolerance, deviation is not None)
    check = check_reference(accuracy)
    reference_verdict = check.verdict(metric)
    # Weights of another protocol are neither better nor worse than the row's: they are other
    # weights, unless they miss even what their publisher measured with them.
    outside = verdict in (Verdict.BETTER, Verdict.WORSE)
    if check.protocol and reference_verdict is not Verdict.WORSE and outside:
        verdict = Verdict.KNOWN
    remark = f'released weights: {check.protocol}' if check.protocol else system.note
    return {
        'measured': value,
        'verdict': verdict,
        'reference_verdict': reference_verdict,
        'reason': '; '.join(
            filter(None, (deviation.text if deviation else '', remark, accuracy.origin))
        ),
        'record': accuracy.stem,
        **_published(check.reference, metric, target, tolerance),
    }


def _published(
    reference: Reference | None, metric: str, target: Printed | None, tolerance: Tolerance
) -> dict[str, str]:
    """Return the fields of a cell about the value that the publisher of the weights states."""
    value = reference and reference.metrics.get(metric)
    if value is None:
        return {}
    return {
        'reference': str(value),
        'reference_source': reference.source,
        'published': compare_published(value, target, tolerance) if target else '',
    }


def _cell(
    row: Row,
    system: System,
    column: Column,
    target: Printed | None,
    tolerance: Tolerance,
    judged: Mapping,
) -> Cell:
    value = judged.get('measured')
    unreferenced = judged['verdict'] if value is None else Verdict.UNPRINTED
    return Cell(
        **{
            'row': row,
            'table': row.table,
            'model': row.model,
            'system': system.name,
            'metric': column.name,
            'convention': system.convention if column.metric.name == 'flops_g' else '',
            'paper': target.text if target else '',
            'reference': '',
            'variant': system.variant,
            'published': '',
            'reference_source': '',
            'measured': None,
            'difference': value - target.value if value is not None and target else None,
            'tolerance': tolerance.width(target) if target else None,
            'resolvable': tolerance.resolvable,
            'reference_verdict': unreferenced,
            **judged,
        }
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


def count(cells: Iterable[Cell]) -> dict[Verdict, int]:
    """Return how many cells have each verdict, in the order of the verdicts, zeros left out."""
    counts = Counter(cell.verdict for cell in cells)
    return {verdict: counts[verdict] for verdict in Verdict if counts[verdict]}


def count_published(cells: Iterable[Cell]) -> dict[Agreement, int]:
    """Return how many published values agree with the paper, are higher and are lower."""
    counts = Counter(cell.published for cell in cells)
    return {agreement: counts[agreement] for agreement in Agreement}


def exit_code(cells: Collection[Cell], strict: bool) -> int:
    """Return 0, or 1 if a cell is `worse` or, with `strict`, `not-run`, or 2 for an `error`.

    A cell counts by both of its verdicts, but for one that another system of its row satisfies.
    """
    verdicts = [cell.verdict for cell in cells if not cell.satisfied_by]
    references = [cell.reference_verdict for cell in cells]
    return max(exit_status(verdicts, strict), exit_status(references))
