"""Readings of the MAF block, compared with the paper's own parameters and FLOPs.

Tables 1, 5, 6 and 7 print 26 parameter and FLOP cells for MAFormer. Each reading meets some of
them; what nearly all of them leave open, the paper does not determine.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from reproduce.audit.closed_form import BUILT, OPTIONS, Dims, Reading, count, count_all
from reproduce.audit.rows import Tables
from reproduce.base.errors import UserError
from reproduce.judge.cells import Cell
from reproduce.paper import TABLES, Row, Tolerance

_PRINTED_IN = (1, 5, 6, 7)  # the tables with parameters and FLOPs of all sizes
_SMALL = 'MAFormer-S'
_FEWER = 2  # S is also counted with up to this many blocks fewer than printed in each stage
# Other widths of S that are tried with the printed depths.
_WIDTHS = (range(32, 97, 8), range(96, 193, 16), range(256, 385, 32), range(384, 641, 64))


class Variant(NamedTuple):
    """Channels and blocks of the four stages."""

    dims: Dims
    depths: Dims


@dataclass(frozen=True)
class Target:
    """A printed cell of MAFormer, in parameters or multiply-adds.

    Attributes:
        width: the tolerance.
        measure: index into a count: 0 parameters, 1 layer, 2 total multiply-adds.
        rest: what the framework has in common for all backbones.
    """

    model: str
    framework: str
    image: Dims
    measure: int
    printed: float
    width: float
    rest: float


@dataclass(frozen=True)
class Search:
    """How many of the printed cells each reading meets.

    Attributes:
        variants: what Table 1 prints of each size.
        targets: the printed cells.
        readings: all combinations of the options; the arrays are in their order.
        met: cells that each meets with the best depths of S, and `met_as_printed` with the printed
            ones.
        met_in_total: cells that each would meet if all printed FLOPs were total.
        depths: (D, 4), the depths of S that were tried; `best_depths` indexes each reading's best.
    """

    variants: Mapping[str, Variant]
    targets: Sequence[Target]
    readings: Sequence[Reading]
    met: np.ndarray
    met_as_printed: np.ndarray
    met_in_total: np.ndarray
    depths: np.ndarray
    best_depths: np.ndarray

    @property
    def most(self) -> int:
        """Cells that the best readings meet."""
        return int(self.met.max())

    @property
    def best(self) -> np.ndarray:
        """Indices of the readings that meet the most cells."""
        return np.flatnonzero(self.met == self.most)

    @property
    def histogram(self) -> dict[int, int]:
        """How many readings meet each number of cells, most cells first."""
        return dict(sorted(Counter(self.met.tolist()).items(), reverse=True))

    @property
    def by_option(self) -> dict[str, dict[str, int]]:
        """How many of the best readings have each option."""
        best = [self.readings[i] for i in self.best]
        return {
            name: {option: sum(r[name] == option for r in best) for option in options}
            for name, options in OPTIONS.items()
        }

    def flops(self, model: str, framework: str, convention: str) -> np.ndarray:
        """Return FLOPs in G of a size in a framework for every reading; S has its best depths."""
        target = next(t for t in self.targets if t.framework == framework and t.measure)
        variant = self.variants[model]
        depths = self.depths if model == _SMALL else np.array([variant.depths])
        counted = count_all(framework, variant.dims, depths, target.image)
        counted = counted[{'layer': 1, 'total': 2}[convention]]
        chosen = self.best_depths if model == _SMALL else 0
        return (counted[np.arange(len(counted)), chosen] + target.rest) / 1e9


def variants(tables: Tables) -> dict[str, Variant]:
    """Return the widths and depths that Table 1 prints for each size.

    Raises:
        UserError: if they are not four numbers each.
    """
    return {row.model: Variant(_four(row, 'embed_dims'), _four(row, 'depths')) for row in tables[1]}


def _four(row: Row, column: str) -> Dims:
    numbers = row.description[column].split('-')
    if len(numbers) != 4 or not all(number.isdecimal() for number in numbers):
        raise UserError(
            f"Table 1, {row.model}: {column} is '{row.description[column]}', expected four numbers "
            'such as 3-5-8-3.'
        )
    return tuple(map(int, numbers))


def targets(
    tables: Tables, cells: Sequence[Cell], tolerances: Mapping[str, Tolerance]
) -> list[Target]:
    """Return the printed parameters and FLOPs of MAFormer in Tables 1, 5, 6 and 7.

    Raises:
        UserError: if one of them is not measured.
    """
    sizes, found = variants(tables), []
    measured = {
        (cell.table, cell.model, cell.metric): cell
        for cell in cells
        if not cell.variant and cell.measured is not None
    }
    for row in (row for table in _PRINTED_IN for row in tables[table] if row.own):
        for column in TABLES[row.table].columns.values():
            printed, metric = row.cells[column.name], column.metric.name
            if not column.metric.is_complexity or printed is None:
                continue
            cell = measured.get((row.table, row.model, column.name))
            if cell is None or row.model not in sizes:
                raise UserError(
                    f'the results have no measured {column.name} of {row.model} in Table '
                    f'{row.table}: write them with `make reproduce`.'
                )
            unit = 1e6 if metric == 'params_m' else 1e9
            measure = {'': 0, 'layer': 1, 'total': 2}[cell.convention]
            framework = column.framework.name, TABLES[row.table].image
            own = count(BUILT, framework[0], *sizes[row.model], framework[1]).measures[measure]
            width = tolerances[metric].width(printed)
            found.append(
                Target(
                    *(row.model, *framework, measure),
                    *(printed.value * unit, width * unit, cell.measured * unit - own),
                )
            )
    return found


def search(sizes: Mapping[str, Variant], cells: Sequence[Target]) -> Search:
    """Count the cells that each reading meets.

    B and L have the printed depths. S is counted with the printed ones, and with all that have up
    to two blocks fewer in each stage; of those that meet the most, the ones with the most blocks
    are taken.
    """
    printed = sizes[_SMALL].depths
    fewer = [range(d, max(d - _FEWER, 1) - 1, -1) for d in printed]
    grid = np.array(sorted(product(*fewer), key=lambda depths: sum(printed) - sum(depths)))
    readings = [dict(zip(OPTIONS, chosen, strict=True)) for chosen in product(*OPTIONS.values())]
    met, in_total = np.zeros([2, len(readings), len(grid)], int)
    for cell in cells:
        variant = sizes[cell.model]
        depths = grid if cell.model == _SMALL else np.array([variant.depths])
        counted = count_all(cell.framework, variant.dims, depths, cell.image)
        met += abs(counted[cell.measure] + cell.rest - cell.printed) <= cell.width
        total = counted[2 if cell.measure else 0]
        in_total += abs(total + cell.rest - cell.printed) <= cell.width
    return Search(
        variants=sizes,
        targets=cells,
        readings=readings,
        met=met.max(1),
        met_as_printed=met[:, 0],
        met_in_total=in_total.max(1),
        depths=grid,
        best_depths=met.argmax(1),
    )


def widths_that_fit(search: Search) -> list[Dims]:
    """Return widths with which S, as built and with its printed depths, meets as many cells as it
    does with the printed widths and fewer blocks."""
    widths = np.array(list(product(*_WIDTHS)))
    missed = np.zeros(len(widths), int)
    for cell in search.targets:
        if cell.model == _SMALL:
            depths = search.variants[_SMALL].depths
            counted = count(BUILT, cell.framework, widths.T, depths, cell.image)
            off = counted.measures[cell.measure] + cell.rest - cell.printed
            missed += abs(off) > cell.width
    fit = missed <= len(search.targets) - search.met[search.readings.index(BUILT)]
    return [tuple(dims) for dims in widths[fit].tolist()]
