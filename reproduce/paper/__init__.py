"""What the paper prints: seven tables as printed, tolerances, and what it seems to have misprinted.

`table1.csv` ... `table7.csv` hold one row for each printed row, in order and to the digit; a value
that the paper does not print is an empty field. Misprints stay in the tables as printed and are
listed, with the reason to think so, in `misprints.csv`.
"""

import csv
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, TypeAdapter, ValidationError

from reproduce.errors import UserError

FOLDER = Path(__file__).parent

Schema = TypeVar('Schema')

# Height and width of the image whose FLOPs Tables 5 and 6, and Table 7, print.
DETECTION_SIZE = (800, 1280)
SEGMENTATION_SIZE = (512, 2048)

_COCO = ('box_ap', 'box_ap50', 'box_ap75', 'mask_ap', 'mask_ap50', 'mask_ap75')

# The columns of each table: first those that say what a row is, then its cells.
DESCRIPTIONS: dict[int, tuple[str, ...]] = {
    1: ('model', 'embed_dims', 'depths'),
    2: ('model', 'local_attention', 'global_features'),
    3: ('model', 'dual_stream'),
    4: ('model', 'token_labeling', 'train_size', 'test_size'),
    5: ('model',),
    6: ('model',),
    7: ('model',),
}
METRICS: dict[int, tuple[str, ...]] = {
    1: ('params_m', 'flops_g', 'top1'),
    2: ('params_m', 'top1'),
    3: ('params_m', 'top1'),
    4: ('params_m', 'flops_g', 'top1'),
    5: ('params_m', 'flops_g', *_COCO),
    6: ('params_m', 'flops_g', *_COCO),
    7: (
        'sem_fpn_params_m',
        'sem_fpn_flops_g',
        'sem_fpn_miou',
        'upernet_params_m',
        'upernet_flops_g',
        'upernet_miou',
        'upernet_ms_miou',
    ),
}
TITLES: dict[int, str] = {
    1: 'MAFormer model sizes, ImageNet-1K',
    2: 'Ablation of local attention and global features, ImageNet-1K',
    3: 'Ablation of the dual-stream design, ImageNet-1K',
    4: 'Comparison on ImageNet-1K',
    5: 'COCO, Mask R-CNN 1x',
    6: 'COCO, Cascade Mask R-CNN 3x',
    7: 'ADE20K, Semantic FPN 80k and UPerNet 160k',
}
# Table 7 has two frameworks in one row; elsewhere a metric's column is its name.
PREFIXES: dict[str, str] = {'sem_fpn': 'sem_fpn_', 'upernet': 'upernet_'}


@dataclass(frozen=True)
class Printed:
    """A number as printed: its text keeps the digits that its rounding is judged by."""

    text: str

    @property
    def value(self) -> float:
        return float(self.text)

    @property
    def half_unit(self) -> float:
        """Half a unit of the last printed digit."""
        return 0.5 * 10.0 ** -len(self.text.partition('.')[2])


@dataclass(frozen=True)
class Row:
    """One printed row: what it describes, and its cells (None where the paper prints nothing)."""

    table: int
    description: Mapping[str, str]
    cells: Mapping[str, Printed | None]

    @property
    def model(self) -> str:
        return self.description['model']


class Tolerance(BaseModel):
    """Allowed distance from a target: absolute + relative * |target| (+ half a printed unit)."""

    model_config = ConfigDict(extra='forbid')
    absolute: NonNegativeFloat = 0.0
    relative: NonNegativeFloat = 0.0
    half_unit: bool = False
    reason: str

    def width(self, target: Printed) -> float:
        rounding = target.half_unit if self.half_unit else 0.0
        return self.absolute + self.relative * abs(target.value) + rounding


def load_table(number: int, folder: Path = FOLDER) -> list[Row]:
    """The printed rows of table `number`, in order.

    Raises:
        UserError: if the file is missing, or a column or a field is missing or malformed.
    """
    path = folder / f'table{number}.csv'
    columns = {*DESCRIPTIONS[number], *METRICS[number]}
    rows = []
    for line, record in read_csv(path, columns):
        rows.append(
            Row(
                number,
                {name: record[name] for name in DESCRIPTIONS[number]},
                {name: _printed(path, line, name, record[name]) for name in METRICS[number]},
            )
        )
    return rows


def load_tolerances(folder: Path = FOLDER) -> dict[str, Tolerance]:
    """The tolerance of every metric, by its unprefixed name, and that of 'reference' values.

    Raises:
        UserError: if the file is missing, malformed, or lacks a metric of the tables.
    """
    path = folder / 'tolerances.toml'
    tolerances = read_toml(path, dict[str, Tolerance])
    needed = {unprefixed(name) for names in METRICS.values() for name in names} | {'reference'}
    if missing := sorted(needed - tolerances.keys()):
        raise UserError(f'{path} has no tolerance for {", ".join(missing)}: add an entry for each.')
    return tolerances


def table_numbers(named: Sequence[int] | None) -> list[int]:
    """The named tables once each, in order; all of them if none is named.

    Raises:
        UserError: if the paper has no such table.
    """
    numbers = sorted(set(named or METRICS))
    if unknown := [n for n in numbers if n not in METRICS]:
        raise UserError(f'the paper has no Table {unknown[0]}: name tables from 1 to 7.')
    return numbers


def unprefixed(column: str) -> str:
    """The metric of a table's column: 'miou' of 'sem_fpn_miou'."""
    for prefix in PREFIXES.values():
        column = column.removeprefix(prefix)
    return column


def read_csv(path: Path, columns: set[str]) -> list[tuple[int, dict[str, str]]]:
    """The records of a CSV file with exactly these columns, each with its line number.

    Raises:
        UserError: if the file cannot be read, or its header or a line is not as expected.
    """
    try:
        with path.open(newline='') as file:
            reader = csv.DictReader(file, restval=None)
            header = reader.fieldnames or []
            if set(header) != columns or len(header) != len(columns):
                raise UserError(
                    f'{path}, line 1: the columns are {",".join(header)}; '
                    f'expected {",".join(sorted(columns))}.'
                )
            records = [(reader.line_num, record) for record in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path} cannot be read as CSV: {error}.') from None
    for line, record in records:
        if None in record or None in record.values():
            raise UserError(f'{path}, line {line}: expected {len(columns)} fields.')
    return records


def read_toml(path: Path, schema: type[Schema]) -> Schema:
    """A TOML file, validated against `schema`.

    Raises:
        UserError: if the file cannot be read or does not fit, naming the first offending entry.
    """
    try:
        content = tomllib.loads(path.read_text())
        return TypeAdapter(schema).validate_python(content)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f'{path} cannot be read as TOML: {error}.') from None
    except ValidationError as error:
        first = error.errors()[0]
        place = '.'.join(map(str, first['loc']))
        raise UserError(f'{path}, entry {place}: {first["msg"]}.') from None


def _printed(path: Path, line: int, column: str, text: str) -> Printed | None:
    if not text:
        return None
    try:
        finite = math.isfinite(float(text))
    except ValueError:
        finite = False
    if not finite:
        raise UserError(
            f'{path}, line {line}, column {column}: {text!r} is not a number; '
            'expected the printed digits, or nothing where the paper prints nothing.'
        )
    return Printed(text)
