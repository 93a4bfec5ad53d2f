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

from reproduce.audit.closed_form import BUILT, OPTIONS, WINDOWS, Dims, Reading, count, count_all
from reproduce.audit.rows import Tables
from reproduce.base.errors import UserError
from reproduce.judge.cells import Cell
from reproduce.paper import Framework, load_table

_PRINTED_IN = (1, 5, 6, 7)  # the tables with parameters and FLOPs of all sizes
_SMALL = 'MAFormer-S'
_FEWER = 2  # S is also counted with up to this many blocks fewer than printed in each stage
# Other widths of S that are tried with the printed depths.
_WIDTHS = (range(32, 97, 8), range(96, 193, 16), range(256, 385, 32), range(384, 641, 64))
_MEASURE = {'': 0, 'layer': 1, 'total': 2}  # index into a count, by a cell's FLOP convention


Variant = tuple[Dims, Dims]  # channels and blocks of the four stages


class Target(NamedTuple):
    """A printed cell of MAFormer, in parameters or multiply-adds.

    Attributes:
        width: the tolerance.
        measure: index into a count: 0 parameters, 1 layer, 2 total multiply-adds.
        rest: what the framework has in common for all backbones.
    """

    model: str
    framework: Framework
    measure: int
    printed: float
    width: float
    rest: float


@dataclass(frozen=True)
class Search:
    """How many of the printed cells, the targets, each reading meets.

    Attributes:
        variants: what Table 1 prints of each size.
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
        target = next(t for t in self.targets if t.framework.name == framework and t.measure)
        small, (dims, depths) = model == _SMALL, self.variants[model]
        tried = self.depths if small else np.array([depths])
        counted = count_all(target.framework, dims, tried)[_MEASURE[convention]]
        chosen = counted[np.arange(len(counted)), self.best_depths if small else 0]
        return (chosen + target.rest) / 1e9


def variants(tables: Tables) -> dict[str, Variant]:
    """Return the widths and depths that Table 1 prints for each size."""
    return {
        row.model: (_numbers(row.description['embed_dims']), _numbers(row.description['depths']))
        for row in tables[1]
    }


def _numbers(text: str) -> Dims:
    return tuple(map(int, text.split('-')))


def flops_in_windows(cell: Cell) -> float:
    """Return the total FLOPs (G) of a measured MAFormer with windows of 14 x 14 in stages 3, 4.

    No printed cell excludes these windows in dense tasks; as built, attention is over the whole
    map. Both are the same for images of 224 x 224.
    """
    dims, depths = variants({1: load_table(1)})[cell.model]
    depths = _numbers(cell.variant) if cell.variant else depths
    framework = cell.column.framework
    whole, windows = (count(reading, framework, dims, depths) for reading in (BUILT, WINDOWS))
    return cell.total_flops_g - float(whole[2] - windows[2]) / 1e9


def search(tables: Tables, cells: Sequence[Cell]) -> Search:
    """Count the cells that each reading meets, which must all be measured.

    B and L have the printed depths. S is counted with the printed ones, and with all that have up
    to two blocks fewer in each stage; of those that meet the most, the ones with the most blocks
    are taken.
    """
    sizes = variants(tables)
    targets = _targets(sizes, cells)
    _, printed = sizes[_SMALL]
    fewer = [range(d, max(d - _FEWER, 1) - 1, -1) for d in printed]
    grid = np.array(sorted(product(*fewer), key=lambda depths: sum(printed) - sum(depths)))
    readings = [dict(zip(OPTIONS, chosen, strict=True)) for chosen in product(*OPTIONS.values())]
    met, in_total = np.zeros([2, len(readings), len(grid)], int)
    for cell in targets:
        dims, depths = sizes[cell.model]
        tried = grid if cell.model == _SMALL else np.array([depths])
        counted = count_all(cell.framework, dims, tried) + cell.rest
        met += abs(counted[cell.measure] - cell.printed) <= cell.width
        in_total += abs(counted[2 if cell.measure else 0] - cell.printed) <= cell.width
    return Search(
        *(sizes, targets, readings, met.max(1), met[:, 0], in_total.max(1), grid, met.argmax(1))
    )


def _targets(sizes: Mapping[str, Variant], cells: Sequence[Cell]) -> list[Target]:
    """Return the printed parameters and FLOPs of MAFormer in Tables 1, 5, 6 and 7."""
    found = []
    for cell in cells:
        column = cell.column
        is_own = cell.row.own and not cell.variant and cell.table in _PRINTED_IN
        if not is_own or not column.metric.is_complexity or not cell.paper:
            continue
        if cell.measured is None:
            where = f'{cell.metric} of {cell.model} in Table {cell.table}'
            raise UserError(f'the results have no measured {where}: run `make reproduce`.')
        unit = 1e9 if cell.convention else 1e6
        measure, framework = _MEASURE[cell.convention], column.framework
        own = count(BUILT, framework, *sizes[cell.model])[measure]
        of_cell = float(cell.paper) * unit, cell.tolerance * unit, cell.measured * unit - own
        found.append(Target(cell.model, framework, measure, *of_cell))
    return found


def widths_that_fit(search: Search) -> list[Dims]:
    """Return widths with which S, as built and with its printed depths, meets as many cells as it
    does with the printed widths and fewer blocks."""
    widths = np.array(list(product(*_WIDTHS)))
    missed = np.zeros(len(widths), int)
    _, depths = search.variants[_SMALL]
    for cell in (cell for cell in search.targets if cell.model == _SMALL):
        counted = count(BUILT, cell.framework, tuple(widths.T), depths)[cell.measure]
        missed += abs(counted + cell.rest - cell.printed) > cell.width
    fit = missed <= len(search.targets) - search.met[search.readings.index(BUILT)]
    return [tuple(dims) for dims in widths[fit].tolist()]
