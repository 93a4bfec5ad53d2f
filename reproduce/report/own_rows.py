"""Rows that a user adds to the paper's tables: from a CSV, a record, or released weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, create_model

from reproduce.base.errors import UserError
from reproduce.base.files import OptionalNumber, read_csv
from reproduce.complexity import Complexity
from reproduce.evaluate import records
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell
from reproduce.judge.lookup import find_record
from reproduce.judge.verdict import Verdict
from reproduce.paper import FRAMEWORKS, TABLES, Row
from reproduce.report.layout import Line, extra_values, systems_by_name
from reproduce.report.speeds import Speed
from reproduce.tasks import TASKS
from reproduce.weights import registry
from reproduce.weights.registry import Public, Released

# The tables that compare models; Tables 1 to 3 are of the paper's own.
_TABLES = (4, 5, 6, 7)


@dataclass(frozen=True)
class OwnModel:
    """A model that is to be compared with the paper's.

    Attributes:
        label: the name of its row.
        task, model, arguments: as in a record.
        metrics: its accuracies in percent.
        record: the stem of the record that they were measured in; '' for accuracies that the
            weights' publisher states.
        images: the number of images of the accuracies; None for the complete validation set.
        classes: the classes of a classifier's data; None for detectors and segmenters.
        train_size, test_size: side of a classifier's images in pixels; None where it is unknown.
    """

    label: str
    task: str
    model: str
    arguments: Mapping[str, Any]
    metrics: Mapping[str, float]
    record: str = ''
    images: int | None = None
    classes: int | None = None
    train_size: int | None = None
    test_size: int | None = None


def add(
    lines: Mapping[int, Sequence[Line]],
    what: str,
    evaluations: Path,
    speeds: Mapping[str, Speed],
) -> dict[int, list[Line]]:
    """Return the lines of the tables with further ones at the end of their blocks.

    Args:
        what: a CSV with the columns of one of the paper's tables; or a record, by its file, stem or
            key, or released weights, or a system with public ones. `LABEL=` in front of these names
            the row. Rows of one name are joined if each fills what the other leaves empty, such as
            a Semantic FPN and a UPerNet in Table 7.
        evaluations: the folder of the records.
        speeds: what the benchmark measured, by timm model or system.

    Raises:
        UserError: if there is no such file, record or weights, or the row belongs to none of the
            tables.
    """
    label, equals, name = what.partition('=')
    if Path(what).is_file() or not equals:
        label, name = '', what
    if Path(name).suffix == '.csv':
        if label or len(lines) != 1:
            raise UserError(
                f'--add {what}: a CSV names its rows itself and has the columns of one table, '
                f'which is to be named, as in `python -m reproduce tables 5 --add {name}`.'
            )
        ((table, of_table),) = lines.items()
        found = _of_csv(Path(name), table, of_table)
    else:
        own = _find(name, evaluations)
        found = _of_model(replace(own, label=label or own.label), lines, speeds)
    together = {table: list(of_table) for table, of_table in lines.items()}
    for line in found:
        _insert(together[line.row.table], line)
    return together


def _insert(of_table: list[Line], line: Line) -> None:
    """Insert a line at the end of its block, or join it with an added one of the same name."""
    for index, other in enumerate(of_table):
        same = other.added and (other.row.model, other.partial) == (line.row.model, line.partial)
        if same and not other.cells.keys() & line.cells.keys():
            cells, extras = {**other.cells, **line.cells}, {**other.extras, **line.extras}
            of_table[index] = replace(other, cells=cells, extras=extras)
            return
    places = [n for n, other in enumerate(of_table) if other.row.block == line.row.block]
    of_table.insert(places[-1] + 1 if places else len(of_table), line)


def _limits(is_complexity: bool) -> AfterValidator:
    """Return what refuses a cost that is not positive, and an accuracy that is not in percent."""
    low, high = (0, math.inf) if is_complexity else (1, 100)

    def check(value: float | None) -> float | None:
        if value is not None and not low < value <= high:
            raise ValueError(f'{value:g}; expected more than {low}, and at most {high}')
        return value

    return AfterValidator(check)


def _of_csv(path: Path, table: int, of_table: Sequence[Line]) -> list[Line]:
    """Return the rows of a CSV with columns of a table of the paper.

    `model` is required. `block` names the own model at the end of whose block the row is inserted.
    """
    metrics, descriptions = TABLES[table].columns, TABLES[table].descriptions
    blocks = tuple(dict.fromkeys(line.row.block for line in of_table))
    schema = create_model(
        'OwnRow',
        **dict.fromkeys(descriptions, (str, '')) | {'model': (str, ...)},
        **{
            name: (Annotated[OptionalNumber, _limits(column.metric.is_complexity)], None)
            for name, column in metrics.items()
        },
        block=(Literal[('', *blocks)], ''),
    )
    found = []
    for number, record in read_csv(path, schema):
        values = record.model_dump()
        description = {name: values[name] for name in descriptions}
        row = Row(table, description, {}, values['block'])
        there = [name for name in metrics if values[name] is not None]
        if not row.model or not there:
            raise UserError(
                f'{path}, line {number}: expected the name of a model and a value in any of '
                f'{", ".join(metrics)}.'
            )
        cells = {name: _cell(row, name, measured=values[name]) for name in there}
        found.append(Line(row, '', cells, added=True))
    if not found:
        raise UserError(f'{path} has no rows: expected a line for each model.')
    return found


def _find(name: str, folder: Path) -> OwnModel:
    """Return the model that a record, released weights, or a system with such has."""
    manifest = {entry.name: entry for entry in registry.load_manifest()}
    public = {key: entry for entry in registry.load_public() for key in (entry.name, entry.system)}
    if entry := (manifest | public).get(name):
        return _of_weights(entry, folder)
    try:
        return _of_record(find_record(name, folder)[1])
    except UserError as error:
        raise UserError(
            f"--add: '{name}' is no CSV, and no released weights, which `python -m reproduce "
            f'checkpoints` lists; {error}'
        ) from error


def _of_record(evaluation: Evaluation) -> OwnModel:
    e = evaluation
    name = e.system or Path(e.model.rpartition('::')[2]).name.removesuffix('.py')
    test_size = e.preprocessing.get('input_size', [None])[-1]
    return OwnModel(
        label=f'{name} ({e.checkpoint.released or Path(e.checkpoint.file).stem})',
        task=e.task,
        model=e.model,
        arguments=e.arguments,
        metrics=e.metrics,
        record=e.stem,
        images=None if e.data.complete else e.data.images,
        classes=e.data.classes if e.task == 'imagenet' else None,
        train_size=test_size if 'img_size' in e.from_weights else None,
        test_size=test_size,
    )


def _of_weights(entry: Released, folder: Path) -> OwnModel:
    """Return released weights with their latest measurement, or with their publisher's."""
    kept = [
        e
        for e in records.load_all(folder)
        if entry.name == e.checkpoint.released and not e.overridden
    ]
    if kept:
        return _of_record(max(kept, key=lambda e: (e.data.complete, e.provenance.date)))
    if not entry.reference:
        raise UserError(f'{entry.name} has no published accuracy: evaluate it, and add the record.')
    system = systems_by_name()[entry.system] if isinstance(entry, Public) else None
    reference = entry.reference[0]
    own = OwnModel(
        label=entry.name,
        task=entry.task,
        model=(system.model or system.evaluated_config) if system else entry.model,
        arguments=system.arguments if system else entry.arguments,
        metrics=reference.metrics,
        images=None if reference.images == TASKS[entry.task].images else reference.images,
    )
    if entry.task != 'imagenet':
        return own
    size = entry.preprocessing.get('img_size', system.input_size if system else None)
    classes = entry.arguments.get('num_classes', 1000)
    return replace(own, classes=classes, train_size=size, test_size=size)


def _of_model(
    own: OwnModel, lines: Mapping[int, Sequence[Line]], speeds: Mapping[str, Speed]
) -> list[Line]:
    """Return the line of a model for each of the tables that it belongs to.

    Its parameters and FLOPs are counted now. It is put in the block whose own model is nearest in
    parameters.
    """
    counted, framework = _count(own)
    fitting = [table for table in _TABLES if framework in TABLES[table].frameworks]
    if not any(table in lines for table in fitting):
        kind = FRAMEWORKS[framework].heading or 'a classifier'
        raise UserError(
            f'{own.label} is {kind}, which belongs to Table {" or ".join(map(str, fitting))}; '
            f'shown are {", ".join(map(str, lines))}.'
        )
    partial = '' if own.images is None else f'{own.images:,} images'
    description = {
        'model': own.label,
        'token_labeling': str(bool(own.arguments.get('token_labeling'))).lower(),
        'train_size': str(own.train_size or ''),
        'test_size': str(own.test_size or ''),
    }
    found = []
    for table in (table for table in fitting if table in lines):
        row = Row(table, description, {}, _block(lines[table], framework, counted))
        cells = _cells(own, row, framework, counted)
        found.append(Line(row, '', cells, extra_values(cells, speeds), True, partial))
    return found


def _count(own: OwnModel) -> tuple[Complexity, str]:
    """Return the parameters and FLOPs of a model, and the name of its framework."""
    from reproduce.complexity import flops
    from reproduce.systems import timm_names

    try:
        if own.task == 'imagenet':
            size = timm_names.size_argument(own.model, own.test_size)
            arguments = {'num_classes': own.classes, **size, **own.arguments}
            return flops.count_classifier(own.model, own.test_size or 224, **arguments), (
                'classifier'
            )
        from reproduce.openmmlab import inference

        _, _, config = inference.resolve(own.model, own.arguments, own.task)
        framework = _framework(config.model)
        if framework is not None:
            return flops.count_config(config), framework
    except UserError:
        raise
    except Exception as error:  # whatever a foreign constructor raises
        raise UserError(
            f'{own.label} cannot be built, so its parameters and FLOPs cannot be counted '
            f'({type(error).__name__}: {str(error).partition(chr(10))[0]}): add its row as a CSV.'
        ) from error
    raise UserError(
        f'{own.label} is of none of the frameworks of the tables, which are Mask R-CNN, Cascade '
        'Mask R-CNN, Semantic FPN and UPerNet: add its row as a CSV.'
    )


def _framework(model: Mapping[str, Any]) -> str | None:
    """Return the paper's framework of the model of an OpenMMLab config; None for any other."""
    if model['type'] == 'MaskRCNN':
        return 'mask_rcnn'
    if model['type'] == 'CascadeRCNN' and model['roi_head'].get('mask_head'):
        return 'cascade_mask_rcnn'
    head = (model.get('decode_head') or {}).get('type')
    return {'FPNHead': 'sem_fpn', 'UPerHead': 'upernet'}.get(head)


def _cells(own: OwnModel, row: Row, framework: str, counted: Complexity) -> dict[str, Cell]:
    layer, total = counted.layer_flops / 1e9, counted.total_flops / 1e9
    found = {}
    for name, column in TABLES[row.table].columns.items():
        accuracy = own.metrics.get(column.metric.name)
        if column.framework.name != framework:
            continue
        if column.metric.name == 'params_m':
            values: dict[str, Any] = {'measured': counted.params / 1e6}
        elif column.metric.name == 'flops_g':
            both = {'layer_flops_g': layer, 'total_flops_g': total}
            values = {'measured': total, 'convention': 'total', **both}
        elif accuracy is None:
            continue
        else:
            values = {'measured': accuracy} if own.record else {'reference': str(accuracy)}
        found[name] = _cell(row, name, record=own.record, **values)
    return found


def _cell(row: Row, column: str, **values: Any) -> Cell:
    """Return a cell of an added row, with the values of its fields that are not empty."""
    empty = {'system': '', 'paper': '', 'measured': None}
    verdicts = dict.fromkeys(('verdict', 'reference_verdict'), Verdict.UNPRINTED)
    of_row = {'table': row.table, 'model': row.model, 'metric': column, 'row': row}
    return Cell(**empty | verdicts | of_row | values)


def _block(lines: Sequence[Line], framework: str, counted: Complexity) -> str:
    """Return the block whose own model is nearest in parameters; '' in a table without blocks."""
    sizes = {}
    for line in lines:
        column = TABLES[line.row.table].column(framework, 'params_m')
        cell = line.cells.get(column.name) if column else None
        if line.row.block and line.row.model == line.row.block and cell is not None and cell.value:
            sizes[line.row.block] = cell.value
    params = counted.params / 1e6
    return min(sizes, key=lambda name: max(sizes[name] / params, params / sizes[name]), default='')
