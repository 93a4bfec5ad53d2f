"""Rows that a user adds to the paper's tables: from a CSV, or from the record of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import create_model

from reproduce.base.errors import UserError
from reproduce.base.files import OptionalNumber, read_csv
from reproduce.complexity import Complexity
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell
from reproduce.judge.lookup import find_record
from reproduce.judge.verdict import Verdict
from reproduce.paper import FRAMEWORKS, TABLES, Row
from reproduce.report.layout import Line

# The tables that compare models; Tables 1 to 3 are of the paper's own.
_TABLES = (4, 5, 6, 7)


def add(lines: Mapping[int, Sequence[Line]], what: str, folder: Path) -> dict[int, list[Line]]:
    """Return the lines of the tables with further ones at the end of their blocks.

    Args:
        what: a CSV with the columns of one of the paper's tables, or a record by its file, stem or
            key, with `LABEL=` in front to name its row. Rows of one name are joined if each fills
            what the other leaves empty, such as a Semantic FPN and a UPerNet in Table 7.
        folder: of the records.

    Raises:
        UserError: if there is no such file or record, or the row belongs to none of the tables.
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
        found = _of_record(find_record(name, folder)[1], label, lines)
    together = {table: list(of_table) for table, of_table in lines.items()}
    for line in found:
        _insert(together[line.row.table], line)
    return together


def _insert(of_table: list[Line], line: Line) -> None:
    """Insert a line at the end of its block, or join it with an added one of the same name."""
    for index, other in enumerate(of_table):
        same = other.added and (other.row.model, other.partial) == (line.row.model, line.partial)
        if same and not other.cells.keys() & line.cells.keys():
            of_table[index] = replace(other, cells={**other.cells, **line.cells})
            return
    places = [n for n, other in enumerate(of_table) if other.row.block == line.row.block]
    of_table.insert(places[-1] + 1 if places else len(of_table), line)


def _of_csv(path: Path, table: int, of_table: Sequence[Line]) -> list[Line]:
    """Return the rows of a CSV with columns of a table of the paper.

    `model` is required. `block` names the own model at the end of whose block the row is inserted.
    """
    metrics, descriptions = TABLES[table].columns, TABLES[table].descriptions
    blocks = tuple(dict.fromkeys(line.row.block for line in of_table))
    schema = create_model(
        'OwnRow',
        **dict.fromkeys(descriptions, (str, '')) | {'model': (str, ...)},
        **dict.fromkeys(metrics, (OptionalNumber, None)),
        block=(Literal[('', *blocks)], ''),
    )
    found = []
    for number, record in read_csv(path, schema):
        values = record.model_dump()
        row = Row(table, {name: values[name] for name in descriptions}, {}, values['block'])
        there = [name for name in metrics if values[name] is not None]
        if not row.model or not there:
            raise UserError(
                f'{path}, line {number}: expected the name of a model and a value in any of '
                f'{", ".join(metrics)}.'
            )
        for name in there:
            low, high = (0, 1e9) if metrics[name].metric.is_complexity else (1, 100)
            if not low < values[name] <= high:
                raise UserError(
                    f'{path}, line {number}, column {name}: {values[name]:g}; expected more than '
                    f'{low}, and at most {high:g}.'
                )
        cells = {name: _cell(row, name, measured=values[name]) for name in there}
        found.append(Line(row, '', cells, added=True))
    if not found:
        raise UserError(f'{path} has no rows: expected a line for each model.')
    return found


def _of_record(e: Evaluation, label: str, lines: Mapping[int, Sequence[Line]]) -> list[Line]:
    """Return the line of an evaluated model for each of the tables that it belongs to.

    Its parameters and FLOPs are counted now. It is put in the block whose own model is nearest in
    parameters.
    """
    name = e.system or Path(e.model.rpartition('::')[2]).name.removesuffix('.py')
    label = label or f'{name} ({e.checkpoint.released or Path(e.checkpoint.file).stem})'
    size = e.preprocessing.get('input_size', [''])[-1]
    counted, framework = _count(e, label, size)
    fitting = [table for table in _TABLES if framework in TABLES[table].frameworks]
    if not any(table in lines for table in fitting):
        kind = FRAMEWORKS[framework].heading or 'a classifier'
        raise UserError(
            f'{label} is {kind}, which belongs to Table {" or ".join(map(str, fitting))}; '
            f'shown are {", ".join(map(str, lines))}.'
        )
    description = {
        'model': label,
        'token_labeling': str(bool(e.arguments.get('token_labeling'))).lower(),
        'train_size': str(size if 'img_size' in e.from_weights else ''),
        'test_size': str(size),
    }
    values: dict[str, dict[str, Any]] = {
        name: {'measured': value, 'record': e.stem} for name, value in e.metrics.items()
    }
    layer, total = counted.layer_flops / 1e9, counted.total_flops / 1e9
    values['params_m'] = {'measured': counted.params / 1e6}
    values['flops_g'] = {'measured': total, 'convention': 'total'}
    values['flops_g'] |= {'layer_flops_g': layer, 'total_flops_g': total}
    partial = '' if e.data.complete else f'{e.data.images:,} images'
    found = []
    for table in (table for table in fitting if table in lines):
        row = Row(table, description, {}, _block(lines[table], framework, counted))
        cells = {
            name: _cell(row, name, **values[column.metric.name])
            for name, column in TABLES[table].columns.items()
            if column.framework.name == framework and column.metric.name in values
        }
        found.append(Line(row, '', cells, added=True, partial=partial))
    return found


def _count(e: Evaluation, label: str, size: int | str) -> tuple[Complexity, str]:
    """Return the parameters and FLOPs of a model, and the name of its framework."""
    from reproduce.complexity import flops
    from reproduce.openmmlab import inference
    from reproduce.systems import timm_names

    framework: str | None = 'classifier'
    try:
        if e.task == 'imagenet':
            arguments = timm_names.size_argument(e.model, size or None) | e.arguments
            arguments = {'num_classes': e.data.classes} | arguments
            return flops.count_classifier(e.model, size or 224, **arguments), framework
        _, _, config = inference.resolve(e.model, e.arguments, e.task)
        framework = _framework(config.model)
        if framework is not None:
            return flops.count_config(config), framework
    except UserError:
        raise
    except Exception as error:  # whatever a foreign constructor raises
        raise UserError(
            f'{label} cannot be built, so its parameters and FLOPs cannot be counted '
            f'({type(error).__name__}: {str(error).partition(chr(10))[0]}): add its row as a CSV.'
        ) from error
    raise UserError(
        f'{label} is of none of the frameworks of the tables, which are Mask R-CNN, Cascade '
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


def _cell(row: Row, column: str, **values: Any) -> Cell:
    """Return a cell of an added row, with the values of its fields that are not empty."""
    verdicts = dict.fromkeys(('verdict', 'reference_verdict'), Verdict.UNPRINTED)
    of_row = {'table': row.table, 'model': row.model, 'metric': column, 'row': row}
    return Cell(system='', paper='', **verdicts, **of_row, **values)


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
