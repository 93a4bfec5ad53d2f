"""Readings of the MAF block, counted in closed form and held against the paper's own figures.

The text leaves the block open, but for the cross-shaped local attention (Section 4.1). Tables 1, 5,
6 and 7 print 26 parameter and FLOP cells for it, and each reading meets some of them. What a
framework adds to the backbone does not depend on the reading: it is what was measured for the model
as built, less the same closed form. Which tokens GLD sees (Fig. 2b or 2c) changes no count.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from reproduce.audit.measured import MeasuredTables
from reproduce.audit.rows import Tables, family
from reproduce.base.errors import UserError
from reproduce.paper import TABLES, Column, Row, Tolerance

# The tables that print parameters and FLOPs of all of MAFormer's sizes.
_TABLES = (1, 5, 6, 7)
_STRIPES = (1, 2)
_SEARCHED_DEPTHS = 2  # blocks more than printed that are tried in each stage

# The row whose measured cells tell what a framework adds, which is built as printed: S has the
# widths of B, and its depths are in question.
_MEASURED_ON = {'MAFormer-S': 'MAFormer-B', 'MAFormer-B': 'MAFormer-B', 'MAFormer-L': 'MAFormer-L'}

Count = np.ndarray  # parameters, layer multiply-adds, total multiply-adds


def _tokens_at_224(stage: int) -> int:
    return (224 // 4 // 2**stage) ** 2


# Tokens that the global branch reads and writes. A layer over all tokens is fixed at 224 x 224: the
# maps of larger images are resized to that, which is the kindest way to read it.
GLOBAL_BRANCHES: dict[str, Callable[[int], tuple[int, int]] | None] = {
    'FC 14x14 to 7x7': lambda stage: (196, 49),
    'FC 14x14 to half': lambda stage: (196, 98),
    'FC 28x28 to 14x14': lambda stage: (784, 196),
    'FC all tokens to half': lambda stage: (_tokens_at_224(stage), _tokens_at_224(stage) // 2),
    'FC all tokens to quarter': lambda stage: (_tokens_at_224(stage), _tokens_at_224(stage) // 4),
    'conv 14x14 to 7x7': lambda stage: (196, 49),
    'none': None,
}
# Those that `model.maformer` builds. It builds none with a fusion projection, with fewer MLPs, or
# with overlapping patches.
_BUILDABLE_BRANCHES = {'FC 14x14 to 7x7', 'FC 28x28 to 14x14', 'conv 14x14 to 7x7', 'none'}


@dataclass(frozen=True)
class Reading:
    """One way to read Sections 3.1 and 3.2; the defaults are the model as built.

    Attributes:
        global_branch: a key of `GLOBAL_BRANCHES`; with 'none' the block has no fusion either.
        mlps: how many; two are one after the local attention (eq. 1) and one after the fusion.
        fusion_projection: an output projection of the fusion's attention.
        overlapping: 7x7 stem and 3x3 merging, as CSWin's, in place of 4x4 and 2x2.
    """

    global_branch: str = 'FC 14x14 to 7x7'
    mlps: int = 2
    fusion_projection: bool = False
    overlapping: bool = False

    @property
    def buildable(self) -> bool:
        """Whether `model.maformer`'s constructor builds it."""
        return (
            self.global_branch in _BUILDABLE_BRANCHES
            and self.mlps == (1 if self.global_branch == 'none' else 2)
            and not self.fusion_projection
            and not self.overlapping
        )

    @property
    def label(self) -> str:
        """In a few words."""
        words = [self.global_branch]
        words.append(('no MLP', 'one MLP', 'two MLPs')[self.mlps])
        words += ['fusion projection'] * self.fusion_projection
        words += ['overlapping patches'] * self.overlapping
        return ', '.join(words)


@dataclass(frozen=True)
class Target:
    """A printed cell of MAFormer, and what its framework adds to the backbone."""

    table: int
    model: str
    metric: str
    printed: float
    width: float
    measure: int  # index into a count: 0 parameters, 1 layer, 2 total multiply-adds
    image: tuple[int, int]
    rest: float


@dataclass(frozen=True)
class Variant:
    """What Table 1 prints of one size."""

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]


@dataclass(frozen=True)
class Ranked:
    """A reading, and how many cells it meets.

    Attributes:
        fixed: of the cells of the sizes whose depths are taken as printed.
        deviation: mean distance of those from the printed value, relative to it.
        printed: of the cells of the smallest size, with its depths as printed.
        best: the same with the depths that meet most; `depths` are these, those with the fewest
            blocks changed first.
    """

    reading: Reading
    fixed: int
    deviation: float
    printed: int
    best: int
    depths: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Search:
    """All readings, best first, and how many cells there are."""

    ranked: tuple[Ranked, ...]
    fixed_cells: int
    small_cells: int
    variants: Mapping[str, Variant]


def count(
    reading: Reading, embed_dims: Sequence[int], depths: Sequence[int], image: tuple[int, int]
) -> Count:
    """Parameters, layer and total multiply-adds of stem and stages for an image (H, W).

    Final norm and heads are not in it.
    """
    stem, blocks = parts(reading, tuple(embed_dims), image)
    return stem + np.asarray(depths) @ blocks


@cache
def parts(
    reading: Reading, embed_dims: tuple[int, ...], image: tuple[int, int]
) -> tuple[Count, Count]:
    """Return the count of stem and mergings (3,), and of one block of each stage (stages, 3)."""
    H, W = (-(-side // 4) for side in image)
    kernel = 7 if reading.overlapping else 4
    base = _linear(3 * kernel**2, embed_dims[0], H * W) + _norm(embed_dims[0])
    blocks = []
    for stage, C in enumerate(embed_dims):
        if stage:
            H, W = -(-H // 2), -(-W // 2)
            taps = 9 if reading.overlapping else 4
            base = base + _linear(taps * embed_dims[stage - 1], C, H * W) + _norm(C)
        blocks.append(_maf_block(reading, stage, C, H, W) if stage < 2 else _block(C, H * W))
    return base, np.array(blocks)


def readings() -> Iterator[Reading]:
    """Return all that are searched."""
    for fields in product(GLOBAL_BRANCHES, (0, 1, 2), (False, True), (False, True)):
        reading = Reading(*fields)
        # Without a global branch there is nothing to fuse.
        if reading.global_branch != 'none' or (reading.mlps < 2 and not reading.fusion_projection):
            yield reading


def targets(
    tables: Tables, measured: MeasuredTables, tolerances: Mapping[str, Tolerance]
) -> tuple[dict[str, Variant], list[Target]]:
    """Return what Table 1 prints of MAFormer's sizes, and all their parameter and FLOP cells.

    Raises:
        UserError: if Table 1 is malformed or lacks a model, or the results lack a cell from which
            to tell what a framework adds.
    """
    variants = {row.model: _variant(row) for row in tables[1]}
    found = []
    for table in _TABLES:
        for row in tables[table]:
            if family(row) != 'MAFormer':
                continue
            if row.model not in variants.keys() & _MEASURED_ON.keys():
                raise UserError(
                    f'Table {table} has {row.model}: expected the models of Table 1, '
                    f'{", ".join(_MEASURED_ON)}.'
                )
            for column in TABLES[table].columns.values():
                printed, name = row.cells[column.name], column.metric.name
                if not column.metric.is_complexity or printed is None:
                    continue
                unit = 1e6 if name == 'params_m' else 1e9
                image = TABLES[table].image
                like = _MEASURED_ON[row.model]
                measure, rest = _rest(column, table, like, variants[like], measured)
                width = tolerances[name].width(printed)
                found.append(
                    Target(
                        *(table, row.model, column.name, printed.value * unit, width * unit),
                        *(measure, image, rest),
                    )
                )
    return variants, found


def search(variants: Mapping[str, Variant], cells: Sequence[Target]) -> Search:
    """Rank all readings by the cells that they meet, then by how close they come.

    The depths of the smallest size are searched from one block a stage to some more than printed;
    the others' are as printed.
    """
    small = next(iter(variants))
    printed = variants[small].depths
    grid = np.array(list(product(*(range(1, d + _SEARCHED_DEPTHS + 1) for d in printed))))
    as_printed = int(np.flatnonzero((grid == printed).all(1))[0])
    large = [cell for cell in cells if cell.model != small]
    ours = [cell for cell in cells if cell.model == small]
    ranked = []
    for reading in readings():
        off = np.array(
            [
                _value(reading, cell, variants[cell.model].embed_dims, variants[cell.model].depths)
                - cell.printed
                for cell in large
            ]
        )
        met = np.abs(off) <= [cell.width for cell in large]
        off_small = np.array(
            [
                _value(reading, cell, variants[small].embed_dims, grid) - cell.printed
                for cell in ours
            ]
        )
        met_small = (np.abs(off_small) <= [[cell.width] for cell in ours]).sum(0)
        relative = (np.abs(off_small) / [[cell.printed] for cell in ours]).mean(0)
        changed = np.abs(grid - printed).sum(1)
        order = np.lexsort((relative, changed, -met_small))
        best = met_small[order[0]]
        ranked.append(
            Ranked(
                reading=reading,
                fixed=int(met.sum()),
                deviation=float((np.abs(off) / [cell.printed for cell in large]).mean()),
                printed=int(met_small[as_printed]),
                best=int(best),
                depths=tuple(
                    tuple(map(int, grid[i])) for i in order[: int((met_small == best).sum())]
                ),
            )
        )
    ranked.sort(key=lambda r: (-r.fixed - r.best, r.deviation))
    return Search(tuple(ranked), len(large), len(ours), variants)


def nearest(depths: Sequence[tuple[int, ...]], printed: Sequence[int]) -> list[tuple[int, ...]]:
    """Return those of `depths` with the fewest blocks more or less than `printed`."""
    changes = [sum(abs(a - b) for a, b in zip(d, printed, strict=True)) for d in depths]
    return [d for d, change in zip(depths, changes, strict=True) if change == min(changes)]


def show(depths: Sequence[int]) -> str:
    """As Table 1's transcription has them: '3-5-8-3'."""
    return '-'.join(map(str, depths))


def _value(
    reading: Reading, cell: Target, embed_dims: tuple[int, ...], depths: Sequence[int] | np.ndarray
) -> float | np.ndarray:
    return count(reading, embed_dims, depths, cell.image)[..., cell.measure] + cell.rest


def _rest(
    column: Column, table: int, model: str, built: Variant, measured: MeasuredTables
) -> tuple[int, float]:
    """Return which count the cell of `model` is, and what its framework adds to the backbone."""
    cell = next(measured.of(table, model, column.name), None)
    counts = {'': 0} if column.metric.name == 'params_m' else {'layer': 1, 'total': 2}
    if cell is None or cell.measured is None or cell.convention not in counts:
        raise UserError(
            f'the results have no measured {column.name} of {model} in Table {table}: write them '
            'with `make reproduce`.'
        )
    measure = counts[cell.convention]
    unit = 1e6 if measure == 0 else 1e9
    backbone = count(Reading(), built.embed_dims, built.depths, TABLES[table].image)[measure]
    return measure, cell.measured * unit - backbone


def _variant(row: Row) -> Variant:
    stages = []
    for column in ('embed_dims', 'depths'):
        numbers = row.description[column].split('-')
        if len(numbers) != 4 or not all(number.isdecimal() for number in numbers):
            raise UserError(
                f"Table 1, {row.model}: {column} '{row.description[column]}' are not four numbers "
                'as in 3-5-8-3.'
            )
        stages.append(tuple(map(int, numbers)))
    return Variant(*stages)


def _norm(C: int) -> Count:
    return np.array([2 * C, 0, 0])


def _linear(inputs: int, outputs: int, tokens: int) -> Count:
    """A linear layer, or a convolution of so many inputs to each of the tokens that it makes."""
    flops = inputs * outputs * tokens
    return np.array([inputs * outputs + outputs, flops, flops])


def _attention(C: int, queries: int, keys: int) -> Count:
    """Return the two matrix products."""
    return np.array([0, 0, 2 * C * queries * keys])


def _mlp(C: int, tokens: int) -> Count:
    return _norm(C) + _linear(C, 4 * C, tokens) + _linear(4 * C, C, tokens)


def _block(C: int, tokens: int) -> Count:
    """Return a plain transformer block."""
    return (
        _norm(C)
        + _linear(C, 3 * C, tokens)
        + _attention(C, tokens, tokens)
        + _linear(C, C, tokens)
        + _mlp(C, tokens)
    )


def _maf_block(reading: Reading, stage: int, C: int, H: int, W: int) -> Count:
    tokens = H * W
    total = _norm(C) + _cross_shaped(stage, C, H, W) + _linear(C, C, tokens)
    total = total + reading.mlps * _mlp(C, tokens)
    sizes = GLOBAL_BRANCHES[reading.global_branch]
    if sizes is None:
        return total
    inputs, outputs = sizes(stage)
    if reading.global_branch.startswith('conv'):
        total = total + _linear(9 * C, C, outputs)
    else:
        total = total + _linear(inputs, outputs, C)  # along the tokens, shared by the channels
    total = total + 2 * _norm(C) + _linear(C, C, tokens) + 2 * _linear(C, C, outputs)
    total = total + _attention(C, tokens, outputs)
    if reading.fusion_projection:
        total = total + _linear(C, C, tokens)
    return total


def _cross_shaped(stage: int, C: int, H: int, W: int) -> Count:
    """Queries, keys, values, attention in stripes, and LePE, without the output projection."""
    total = _linear(C, 3 * C, H * W)
    width = _STRIPES[stage]
    for across, along in ((W, H), (H, W)):
        stripes = -(-across // width)
        inside = width * along
        total = total + _linear(9, C // 2, stripes * inside)
        total = total + stripes * _attention(C // 2, inside, inside)
    return total
