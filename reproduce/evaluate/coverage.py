"""How many cells of the tables are measured, and how many could be with weights that are public."""

from collections.abc import Collection, Iterable
from enum import StrEnum

from reproduce.evaluate.records import Evaluation, latest
from reproduce.paper import Metric, Row
from reproduce.systems import System


class Coverage(StrEnum):
    """What keeps a cell from being measured, if something does."""

    COMPLEXITY = 'complexity'  # parameters and FLOPs: nothing
    EVALUATED = 'evaluated'  # an evaluation is on record
    PUBLIC = 'public'  # takes data, and weights that can be fetched
    UNRELEASED = 'unreleased'  # takes weights that nobody has released
    CITED = 'cited'  # no implementation here


def coverage(
    rows: Collection[Row], systems: Collection[System], records: Iterable[Evaluation]
) -> dict[Coverage, int]:
    """Return how many of the cells that `table` writes are in each state."""
    evaluations = list(records)
    counts = dict.fromkeys(Coverage, 0)
    for row in rows:
        for system in systems:
            if system.stands_for(row):
                for column in system.columns(row.table):
                    counts[_covered(system, column.metric, evaluations)] += 1
    return counts


def summary(counts: dict[Coverage, int]) -> str:
    """Return the counts as one sentence."""
    return (
        f'Of {sum(counts.values())} cells, {counts[Coverage.COMPLEXITY]} are parameters and FLOPs, '
        f'which need no weights; {counts[Coverage.EVALUATED]} accuracies are on record, '
        f'{counts[Coverage.PUBLIC]} more take public weights and data, '
        f'{counts[Coverage.UNRELEASED]} take weights that are not public; '
        f'{counts[Coverage.CITED]} are cited.'
    )


def _covered(system: System, metric: Metric, evaluations: list[Evaluation]) -> Coverage:
    if system.cited is not None:
        return Coverage.CITED
    if metric.is_complexity:
        return Coverage.COMPLEXITY
    if latest(evaluations, system.name, metric.name) is not None:
        return Coverage.EVALUATED
    return Coverage.UNRELEASED if system.weights is None else Coverage.PUBLIC
