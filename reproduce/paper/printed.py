"""The seven tables as printed: their columns, their rows, and the numbers in them.

`table1.csv` ... `table7.csv` hold one row for each printed row, in order and to the digit; a value
that the paper does not print is an empty field. Misprints stay in the tables as printed and are
listed, with the reason to think so, in `misprints.csv`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import create_model

from reproduce.base.errors import UserError
from reproduce.base.files import NumberText, read_csv
from reproduce.paper.metrics import METRICS, Metric

FOLDER = Path(__file__).parent

# Height and width of the image whose FLOPs Tables 5 and 6, and Table 7, print.
DETECTION_SIZE = (800, 1280)
SEGMENTATION_SIZE = (512, 2048)


@dataclass(frozen=True)
class Framework:
    """What a backbone works in.

    Attributes:
        name: as in `systems/*.toml`.
        task: the name of the task that its models are evaluated on.
        heading: above the columns of its results; '' where the paper prints none.
        short_heading: the same where space is scarce.
    """

    name: str
    task: str
    heading: str = ''
    short_heading: str = ''


FRAMEWORKS = {
    framework.name: framework
    for framework in (
        Framework('classifier', 'imagenet'),
        Framework('mask_rcnn', 'coco', 'Mask R-CNN 1× schedule'),
        Framework('cascade_mask_rcnn', 'coco', 'Cascade R-CNN 3× schedule'),
        Framework('sem_fpn', 'ade20k', 'Semantic FPN 80K', 'FPN'),
        Framework('upernet', 'ade20k', 'UPerNet 160K', 'UPerNet'),
    )
}


@dataclass(frozen=True)
class Column:
    """A column of a table that holds numbers.

    Attributes:
        name: unique in its table: the metric's, with the framework's in front of it in Table 7,
            which prints two frameworks in one row.
        metric: what is printed.
        framework: of the models that it is printed for.
        group: the heading above the column's own; '' where there is none.
    """

    name: str
    metric: Metric
    framework: Framework
    group: str = ''


@dataclass(frozen=True)
class Table:
    """What one of the tables prints.

    Attributes:
        descriptions: the columns that say what a row is.
        columns: those with numbers, by name.
        image: height and width that the FLOPs are counted at.
    """

    number: int
    title: str
    descriptions: tuple[str, ...]
    columns: Mapping[str, Column]
    image: tuple[int, int] = (224, 224)

    @property
    def frameworks(self) -> list[str]:
        """The names of the frameworks whose models it prints."""
        return list(dict.fromkeys(column.framework.name for column in self.columns.values()))

    def column(self, framework: str, metric: str) -> Column | None:
        """Return the column of a metric of a framework's models, if there is one."""
        for column in self.columns.values():
            if (column.framework.name, column.metric.name) == (framework, metric):
                return column
        return None


_COST = ('params_m', 'flops_g')
_COCO = (*_COST, 'box_ap', 'box_ap50', 'box_ap75', 'mask_ap', 'mask_ap50', 'mask_ap75')


def _columns(framework: str, *metrics: str) -> dict[str, Column]:
    """Return the columns of a table with one framework, whose heading is above its accuracies."""
    of, found = FRAMEWORKS[framework], {}
    for name in metrics:
        group = '' if METRICS[name].is_complexity else of.heading
        found[name] = Column(name, METRICS[name], of, group)
    return found


def _prefixed_columns(framework: str, *metrics: str) -> dict[str, Column]:
    """Return the columns of one framework among several, whose heading stands above all of them."""
    of = FRAMEWORKS[framework]
    columns = [Column(f'{framework}_{n}', METRICS[n], of, of.heading) for n in metrics]
    return {column.name: column for column in columns}


TABLES = {
    table.number: table
    for table in (
        Table(
            1,
            'MAFormer model sizes, ImageNet-1K',
            ('model', 'embed_dims', 'depths'),
            _columns('classifier', *_COST, 'top1'),
        ),
        Table(
            2,
            'Ablation of local attention and global features, ImageNet-1K',
            ('model', 'local_attention', 'global_features'),
            _columns('classifier', 'params_m', 'top1'),
        ),
        Table(
            3,
            'Ablation of the dual-stream design, ImageNet-1K',
            ('model', 'dual_stream'),
            _columns('classifier', 'params_m', 'top1'),
        ),
        Table(
            4,
            'Comparison on ImageNet-1K',
            ('model', 'token_labeling', 'train_size', 'test_size'),
            _columns('classifier', *_COST, 'top1'),
        ),
        Table(5, 'COCO, Mask R-CNN 1x', ('model',), _columns('mask_rcnn', *_COCO), DETECTION_SIZE),
        Table(
            6,
            'COCO, Cascade Mask R-CNN 3x',
            ('model',),
            _columns('cascade_mask_rcnn', *_COCO),
            DETECTION_SIZE,
        ),
        Table(
            7,
            'ADE20K, Semantic FPN 80k and UPerNet 160k',
            ('model',),
            _prefixed_columns('sem_fpn', *_COST, 'miou')
            | _prefixed_columns('upernet', *_COST, 'miou', 'ms_miou'),
            SEGMENTATION_SIZE,
        ),
    )
}


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


def load_table(number: int, folder: Path = FOLDER) -> list[Row]:
    """Return the printed rows of table `number`, in order.

    Raises:
        UserError: if the file is missing, or a column or a field is missing or malformed.
    """
    table = TABLES[number]
    fields = dict.fromkeys(table.descriptions, str) | dict.fromkeys(table.columns, NumberText)
    schema = create_model(f'Table{number}', **fields)
    rows = []
    for _, record in read_csv(folder / f'table{number}.csv', schema):
        values = record.model_dump()
        cells = {name: Printed(values[name]) if values[name] else None for name in table.columns}
        rows.append(Row(number, {name: values[name] for name in table.descriptions}, cells))
    return rows


def table_numbers(named: Sequence[int] | None) -> list[int]:
    """Return the named tables once each, in order; all of them if none is named.

    Raises:
        UserError: if the paper has no such table.
    """
    numbers = sorted(set(named or TABLES))
    if unknown := [n for n in numbers if n not in TABLES]:
        raise UserError(f'the paper has no Table {unknown[0]}: name tables from 1 to 7.')
    return numbers
