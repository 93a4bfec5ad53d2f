"""The cells of a table, assembled from what was measured, and judged."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import product
from typing import Any

from pydantic import BaseModel

from reproduce.base.files import read_toml
from reproduce.complexity import Complexity
from reproduce.evaluate.accuracies import NotRun
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell
from reproduce.judge.references import check_reference
from reproduce.judge.verdict import (
    REGISTERED,
    Agreement,
    Verdict,
    compare_published,
    exit_status,
    judge,
)
from reproduce.paper import FOLDER, Column, Printed, Row, Tolerance, load_tolerances
from reproduce.systems import System
from reproduce.weights import registry
from reproduce.weights.registry import Reference

KNOWN = FOLDER / 'known.toml'


class KnownDeviation(BaseModel, extra='forbid'):
    """Cells that are outside their tolerance, and why; MAFormer's file describes the fields."""

    tables: list[int]
    systems: list[str]
    metrics: list[str]
    reason: str
    unresolved: bool = False
    convention: str = ''
    evidence: list[dict[str, Any]] = []

    @property
    def verdict(self) -> Verdict:
        """The verdict on the cells, if they are outside their tolerance."""
        return Verdict.UNRESOLVED if self.unresolved else Verdict.KNOWN

    @property
    def text(self) -> str:
        """All that is said about the cells."""
        said = '; '.join(filter(None, (self.reason, self.convention)))
        return f'unresolved: {said}' if self.unresolved else said


def load_known() -> dict[tuple[int, str, str], KnownDeviation]:
    """Return the entry of each (table, system, metric) in the paper's `known.toml`, if it has one.

    Raises:
        UserError: if the file is malformed.
    """
    registered = read_toml(KNOWN, dict[str, list[KnownDeviation]]) if KNOWN.is_file() else {}
    return {
        key: entry
        for entry in registered.get('known', ())
        for key in product(entry.tables, entry.systems, entry.metrics)
    }


def assemble(
    rows: Collection[Row],
    systems: Collection[System],
    complexities: Mapping[str, Complexity | str],
    accuracies: Mapping[tuple[str, str], Evaluation | NotRun],
) -> list[Cell]:
    """Return the judged cells of `rows`, in printed order.

    Args:
        systems: those that stand for the rows.
        complexities: of each system its parameters and FLOPs, or why they could not be counted.
        accuracies: of each system and metric its evaluation on the complete data, or why there is
            none.
    """
    tolerances, known, cells = load_tolerances(), load_known(), []
    for row in rows:
        of_row = []
        for system in systems:
            for column in system.columns(row.table) if system.stands_for(row) else ():
                name = column.metric.name
                found: Complexity | Evaluation | NotRun | str | None
                if system.cited is not None:
                    found = None
                elif column.metric.is_complexity:
                    found = complexities[system.name]
                else:
                    found = accuracies[system.name, name]
                deviation = known.get((row.table, system.name, column.name))
                of_row.append(_cell(row, system, column, tolerances[name], deviation, found))
        cells += [_satisfied(cell, of_row) for cell in of_row]
    return cells


def _cell(
    row: Row,
    system: System,
    column: Column,
    tolerance: Tolerance,
    deviation: KnownDeviation | None,
    found: Complexity | Evaluation | NotRun | str | None,
) -> Cell:
    """Return the cell of a system in a column, judged.

    Args:
        found: what was measured, or why nothing was; None for a system that is only cited.
    """
    metric, printed = column.metric, row.cells[column.name]
    fields: dict[str, Any] = {'reference_verdict': Verdict.UNPRINTED}
    if isinstance(found, Complexity | Evaluation):
        if isinstance(found, Evaluation):
            value = found.metrics[metric.name]
        else:
            counted, unit = 'params', 1e6
            if metric.name == 'flops_g':
                counted, unit = f'{system.convention or "total"}_flops', 1e9
                fields['layer_flops_g'] = found.layer_flops / unit
                fields['total_flops_g'] = found.total_flops / unit
            value = getattr(found, counted) / unit
            backbone = getattr(found, f'backbone_{counted}') / unit
            tolerance = tolerance.of_part(backbone / value)
            fields['backbone'] = backbone if backbone < value else None
        registered = deviation.verdict if deviation else None
        verdict = judge(metric, value, printed, tolerance, registered)
        fields |= {'measured': value, 'difference': value - printed.value if printed else None}
    if isinstance(found, Complexity):
        reason = system.note
        if deviation and verdict is deviation.verdict:
            reason = deviation.text
        elif verdict is Verdict.ERROR:
            reason = f'registered as a known deviation, but it matches: correct {KNOWN.name}'
    elif isinstance(found, Evaluation):
        check = check_reference(found)
        fields['reference_verdict'] = check.verdicts.get(metric.name, Verdict.UNPRINTED)
        # Weights of another protocol are neither better nor worse than the row's: they are other
        # weights, unless they miss even what their publisher measured with them.
        outside = verdict in (Verdict.BETTER, Verdict.WORSE)
        if check.protocol and outside and fields['reference_verdict'] is not Verdict.WORSE:
            verdict = Verdict.KNOWN
        remark = f'released weights: {check.protocol}' if check.protocol else system.note
        reasons = (deviation.text if deviation else '', remark, found.origin)
        reason = '; '.join(filter(None, reasons))
        fields |= {'record': found.stem, **_published(column, printed, tolerance, check.reference)}
    else:
        if found is None:
            verdict, reason = Verdict.CITED, system.cited
        elif isinstance(found, str) or found.failed:
            verdict, reason = Verdict.ERROR, found if isinstance(found, str) else found.reason
        else:
            reference = registry.reference_of(system)
            fields |= _published(column, printed, tolerance, reference)
            verdict, reason = Verdict.NOT_RUN, found.sentence(system.name)
            if 'reference' in fields and reference.protocol:
                reason += f'; released weights: {reference.protocol}'
            fields |= {'missing': found, 'record': found.record}
        fields |= {'measured': None, 'reference_verdict': verdict}
    return Cell(
        row=row,
        table=row.table,
        model=row.model,
        system=system.name,
        metric=column.name,
        convention=system.convention if metric.name == 'flops_g' else '',
        paper=printed.text if printed else '',
        tolerance=tolerance.width(printed) if printed else None,
        verdict=verdict,
        reason=reason,
        variant=system.variant,
        resolvable=tolerance.resolvable,
        **fields,
    )


def _published(
    column: Column, printed: Printed | None, tolerance: Tolerance, reference: Reference | None
) -> dict[str, str]:
    """Return the fields of a cell about the value that the publisher of the weights states."""
    value = reference.metrics.get(column.metric.name) if reference else None
    if value is None:
        return {}
    return {
        'reference': str(value),
        'reference_source': reference.source,
        'published': compare_published(value, printed, tolerance) if printed else '',
    }


def _satisfied(cell: Cell, of_row: Collection[Cell]) -> Cell:
    """Return `cell`, excused where another system of its row has the accuracy that it lacks.

    A row has one number, and may have two systems.
    """
    if cell.column.metric.is_complexity:
        return cell
    good = (Verdict.MATCH, Verdict.BETTER)
    enough = {
        Verdict.NOT_RUN: (*good, Verdict.WORSE, *REGISTERED, Verdict.UNPRINTED),
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
