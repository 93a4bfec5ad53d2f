"""Rows that a user adds to the paper's tables: from a CSV, or from the record of an evaluation."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, create_model

from reproduce.base.errors import UserError
from reproduce.base.files import OptionalNumber, read_csv
from reproduce.base.folders import PAPER_OPTION
from reproduce.complexity import Complexity
from reproduce.evaluate.attestation import check_attested
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell
from reproduce.judge.lookup import find_record
from reproduce.judge.verdict import Verdict
from reproduce.paper import FRAMEWORKS, TABLES, Row, comparisons
from reproduce.report.layout import Line

# Frameworks by the type of an OpenMMLab detector, or of a segmenter's head.
_FRAMEWORK_OF = {
    'MaskRCNN': 'mask_rcnn',
    'CascadeRCNN': 'cascade_mask_rcnn',
    'FPNHead': 'sem_fpn',
    'UPerHead': 'upernet',
}


def add(lines: Mapping[int, Sequence[Line]], what: str, folder: Path) -> dict[int, list[Line]]:
    """Return the lines of the tables with further ones at the end of their blocks.

    Args:
        what: a CSV with the columns of one of the paper's tables, or a record by its file, stem or
            key, with `LABEL=` in front to name its row.
        folder: of the records.
    """
    label, equals, name = what.partition('=')
    if Path(what).is_file() or not equals:
        label, name = '', what
    if Path(name).suffix != '.csv':
        path, evaluation = find_record(name, folder)
        check_attested(path)
        found = [_of_record(evaluation, label, lines)]
    elif len(lines) == 1:
        found = _of_csv(Path(name), *next(iter(lines.items())))
    else:
        raise UserError(
            f'--add {what}: a CSV has the columns of one table, which is to be named, as in '
            f'`python -m reproduce{PAPER_OPTION} tables 5 --add {name}`.'
        )
    together = {table: list(of_table) for table, of_table in lines.items()}
    for line in found:
        of_table = together[line.row.table]
        places = [n for n, other in enumerate(of_table) if other.row.block == line.row.block]
        of_table.insert(places[-1] + 1 if places else len(of_table), line)
    return together


def _of_csv(path: Path, table: int, of_table: Sequence[Line]) -> list[Line]:
    """Return the rows of a CSV with columns of a table of the paper.

    `model` is required. `block` names the own model at the end of whose block the row is inserted.
    """
    descriptions, metrics = TABLES[table].descriptions, TABLES[table].columns
    costs = {name for name, column in metrics.items() if column.metric.is_complexity}
    # An accuracy of at most 1 is not in percent.
    limits = {
        name: Field(None, gt=0) if name in costs else Field(None, gt=1, le=100) for name in metrics
    }
    fields: dict[str, Any] = dict.fromkeys(descriptions, (str, ''))
    fields |= {'model': (str, Field(min_length=1))}
    fields |= {name: (OptionalNumber, limit) for name, limit in limits.items()}
    blocks = ('', *dict.fromkeys(line.row.block for line in of_table))
    fields |= {'block': (Literal[*blocks], '')}
    schema = create_model('OwnRow', **fields)
    found = []
    for _, record in read_csv(path, schema):
        values = record.model_dump()
        row = Row(table, {name: values[name] for name in descriptions}, {}, values['block'])
        cells = {
            name: _cell(row, name, measured=values[name])
            for name in metrics
            if values[name] is not None
        }
        found.append(Line(row, '', cells, added=True))
    return found


def _of_record(e: Evaluation, label: str, lines: Mapping[int, Sequence[Line]]) -> Line:
    """Return the line of an evaluated model, whose parameters and FLOPs are counted now."""
    label = label or f'{e.name} ({e.checkpoint.released or Path(e.checkpoint.file).stem})'
    size = e.preprocessing.get('input_size', [None])[-1]
    counted, framework = _count(e, size)
    table = comparisons().get(framework)
    if table not in lines:
        kind = FRAMEWORKS[framework].heading or 'a classifier'
        raise UserError(
            f'{label} is {kind}, which belongs to Table {table}; '
            f'shown are {", ".join(map(str, lines))}.'
        )
    description = {
        'model': label,
        'token_labeling': str(bool(e.arguments.get('token_labeling'))).lower(),
        'train_size': str(size) if 'img_size' in e.from_weights else '',
        'test_size': str(size or ''),
    }
    layer, total = counted.layer_flops / 1e9, counted.total_flops / 1e9
    flops = {'convention': 'total', 'layer_flops_g': layer, 'total_flops_g': total}
    values: dict[str, dict[str, Any]] = {
        'params_m': {'measured': counted.params / 1e6},
        'flops_g': {'measured': total, **flops},
        **{name: {'measured': value, 'record': e.stem} for name, value in e.metrics.items()},
    }
    row = Row(table, description, {}, _block(lines[table], framework, counted.params / 1e6))
    cells = {
        name: _cell(row, name, **values[column.metric.name])
        for name, column in TABLES[table].columns.items()
        if column.framework.name == framework and column.metric.name in values
    }
    partial = '' if e.data.complete else f'{e.data.images:,} images'
    return Line(row, '', cells, added=True, partial=partial)


def _count(e: Evaluation, size: int | None) -> tuple[Complexity, str]:
    """Return the parameters and FLOPs of a model, and the paper's name of its framework."""
    # Imported here, because torch takes seconds to load.
    from reproduce.complexity import measuring
    from reproduce.openmmlab import inference
    from reproduce.systems import timm_names

    if e.task == 'imagenet':
        arguments = timm_names.size_argument(e.model, size) | e.arguments
        arguments = {'num_classes': e.data.classes} | arguments
        return measuring.count_classifier(e.model, size or 224, **arguments), 'classifier'
    _, _, config = inference.resolve(e.model, e.arguments, e.task)
    model = config.model
    part = model if model.get('roi_head', {}).get('mask_head') else model.get('decode_head')
    framework = _FRAMEWORK_OF.get(part['type']) if isinstance(part, dict) else None
    if framework is None:
        raise UserError(
            f'{e.model} is of none of the frameworks of the tables, which are Mask R-CNN, Cascade '
            'Mask R-CNN, Semantic FPN and UPerNet: add its row as a CSV.'
        )
    return measuring.count_config(config), framework


def _cell(row: Row, column: str, **values: Any) -> Cell:
    """Return a cell of an added row, with the values of its fields that are not empty."""
    none = Verdict.UNPRINTED
    of_row: dict[str, Any] = {'table': row.table, 'model': row.model, 'metric': column, 'row': row}
    return Cell(system='', paper='', verdict=none, reference_verdict=none, **of_row, **values)


def _block(lines: Sequence[Line], framework: str, params: float) -> str:
    """Return the block whose own model is nearest in parameters (M)."""
    column = TABLES[lines[0].row.table].column(framework, 'params_m').name
    sizes = {
        line.row.block: line.cells[column].value
        for line in lines
        if line.row.own and column in line.cells
    }
    return min(sizes, key=lambda name: abs(math.log(sizes[name] / params)), default='')
