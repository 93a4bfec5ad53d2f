"""Measured models as rows of the paper's tables: what they score and cost, and their places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce.base.errors import UserError
from reproduce.base.wording import nearest
from reproduce.complexity.counts import Complexity
from reproduce.evaluate import records
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell
from reproduce.judge.lookup import find_record
from reproduce.judge.verdict import Verdict
from reproduce.paper import FRAMEWORKS, TABLES, Row
from reproduce.report.layout import Line, lines_of_row
from reproduce.report.speeds import Speed
from reproduce.systems import load_systems
from reproduce.tasks import TASKS
from reproduce.weights import registry
from reproduce.weights.registry import Public, Released

# How the paper calls what MAFormer's arguments choose, in the columns of Tables 2 and 3.
_DESIGNS = {
    'local_attention': {'cross_shaped': 'Cross-shaped', 'shifted_window': 'Shifted Window'},
    'global_branch': {'gld': 'GLD', 'conv': 'Convolution', 'none': 'None'},
    'fusion': {
        'multi_scale': 'Multi-scale Fusion Attention',
        'local_enhanced': 'Local-Enhanced Fusion Attention',
    },
}


@dataclass(frozen=True)
class RowModel:
    """A model that is to stand beside the paper's.

    Attributes:
        label: what its row is called.
        task: what it was evaluated on.
        model, arguments: as in a record.
        system: the system of the tables that it is; '' for none.
        metrics: its accuracies in percent.
        measured: whether they were measured here; others are what the weights' publisher states.
        images: how many these were measured on, where they are not the complete set; else None.
        classes: that the data has; None for a detector or segmenter, whose config says it.
        train_size, test_size: side of a classifier's images in pixels; None where it is not known.
        record: the stem of the record.
    """

    label: str
    task: str
    model: str
    arguments: Mapping[str, Any]
    system: str
    metrics: Mapping[str, float]
    measured: bool
    images: int | None = None
    classes: int | None = None
    train_size: int | None = None
    test_size: int | None = None
    record: str = ''


def find(name: str, folder: Path) -> RowModel:
    """Return the model that `name` names: a record, released weights, or a system with such.

    Args:
        name: of a record its file, stem or key.
        folder: of the records.

    Raises:
        UserError: if there is none, naming what is nearest.
    """
    released = {entry.name: entry for entry in registry.load_manifest()}
    public = {entry.system: entry for entry in registry.load_public()}
    released |= {entry.name: entry for entry in public.values()} | public
    if name in released:
        return _of_weights(released[name], folder)
    try:
        _, evaluation = find_record(name, folder)
    except UserError as error:
        systems = [system.name for system in load_systems()]
        if name in systems:
            raise UserError(
                f'{name} has no public weights: evaluate yours, and add the record.'
            ) from error
        near = nearest(name, released) or ['`python -m reproduce checkpoints` lists them']
        raise UserError(
            f"--add: '{name}' is no CSV, record, or released weights; the nearest weights are "
            f'{", ".join(near)}, and of the records: {error}'
        ) from error
    return _of_record(evaluation)


def rows(
    candidate: RowModel, lines: Mapping[int, Sequence[Line]], speeds: Mapping[str, Speed]
) -> list[Line]:
    """Return the row of a model for each of the tables that it belongs to.

    Tables 1-3 are about MAFormers. In a table with blocks the row stands in the one whose MAFormer
    is nearest in parameters. Parameters and FLOPs are counted now, without weights.

    Args:
        lines: of the tables that are shown.

    Raises:
        UserError: if it belongs to none of these tables, or cannot be built.
    """
    # Imported here, as everything below that counts: tables without such rows do without torch.
    from model.maformer import VARIANTS

    counted, framework = _count(candidate)
    is_maformer = candidate.model in VARIANTS
    tables = [
        table
        for table in lines
        if framework in TABLES[table].frameworks and (is_maformer or table not in (1, 2, 3))
    ]
    if not tables:
        fitting = [n for n, t in TABLES.items() if framework in t.frameworks and n not in (1, 2, 3)]
        raise UserError(
            f'{candidate.label} is {_kind(framework)}, which belongs to Table '
            f'{" or ".join(map(str, fitting))}; shown are {", ".join(map(str, lines))}.'
        )
    arguments = {**VARIANTS.get(candidate.model, {}), **candidate.arguments}
    found = []
    for table in tables:
        cells = _cells(candidate, table, framework, counted)
        description = _description(candidate, arguments, is_maformer)
        block = _block(lines[table], framework, counted)
        row = Row(table, {'model': candidate.label} | description, {}, block)
        found += lines_of_row(
            *(row, cells),
            added=True,
            speeds=speeds,
            partial='' if candidate.images is None else f'{candidate.images:,} images',
        )
    return found


def _of_record(evaluation: Evaluation) -> RowModel:
    e = evaluation
    name = e.system or Path(e.model.rpartition('::')[2]).name.removesuffix('.py')
    size = e.preprocessing.get('input_size')
    test_size = size[-1] if size else None
    trained = test_size if 'img_size' in e.from_weights else None
    return RowModel(
        label=f'{name} ({e.checkpoint.released or Path(e.checkpoint.file).stem})',
        task=e.task,
        model=e.model,
        arguments=e.arguments,
        system=e.system or '',
        metrics=e.metrics,
        measured=True,
        images=None if e.data.complete else e.data.images,
        classes=e.data.classes if e.task == 'imagenet' else None,
        train_size=trained,
        test_size=test_size,
        record=e.stem,
    )


def _of_weights(entry: Released, folder: Path) -> RowModel:
    """Return released weights with their latest measurement, or what their publisher states."""
    kept = [
        e
        for e in records.load_all(folder)
        if entry.name == e.checkpoint.released and not e.overridden
    ]
    if kept:
        best = max(kept, key=lambda e: (e.data.complete, e.provenance.date))
        return _of_record(best)
    systems = {system.name: system for system in load_systems()}
    system = systems.get(entry.system) if isinstance(entry, Public) else None
    if not entry.reference:
        raise UserError(f'nobody states what {entry.name} scores: evaluate it, and add the record.')
    reference = entry.reference[0]
    complete = reference.images == TASKS[entry.task].images
    is_classifier = entry.task == 'imagenet'
    size = entry.preprocessing.get('img_size', system.input_size if system else None)
    return RowModel(
        label=entry.name,
        task=entry.task,
        model=(system.model or system.evaluated_config) if system else entry.model,
        arguments=system.arguments if system else entry.arguments,
        system=system.name if system else '',
        metrics=reference.metrics,
        measured=False,
        images=None if complete else reference.images,
        classes=entry.arguments.get('num_classes', 1000) if is_classifier else None,
        train_size=size if is_classifier else None,
        test_size=size if is_classifier else None,
    )


def _count(candidate: RowModel) -> tuple[Complexity, str]:
    """Return the parameters and FLOPs of a model, and what its backbone works in.

    Raises:
        UserError: if it cannot be built, or is neither a classifier nor of the paper's frameworks.
    """
    from reproduce.complexity import flops as complexity
    from reproduce.systems import timm_names

    try:
        if candidate.task == 'imagenet':
            size = timm_names.size_argument(candidate.model, candidate.test_size)
            classes = {'num_classes': candidate.classes}
            arguments = {**classes, **size, **candidate.arguments}
            counted = complexity.count_classifier(
                candidate.model, candidate.test_size or 224, **arguments
            )
            return counted, 'classifier'
        from reproduce.openmmlab import inference

        _, _, config = inference.resolve(candidate.model, candidate.arguments, candidate.task)
        framework = _framework(config, candidate.label)
        return complexity.count_config(config), framework
    except UserError:
        raise
    except Exception as error:  # whatever a foreign constructor raises
        raise UserError(
            f'{candidate.label} cannot be built, so its parameters and FLOPs cannot be counted '
            f'({type(error).__name__}: {str(error).partition(chr(10))[0]}): add its row as a CSV.'
        ) from error


def _framework(config: Any, label: str) -> str:
    """Return the paper's framework that the model of an OpenMMLab config is."""
    model = config.model
    head = model.get('decode_head') or {}
    kinds = {
        'MaskRCNN': 'mask_rcnn',
        'CascadeRCNN': 'cascade_mask_rcnn',
        'FPNHead': 'sem_fpn',
        'UPerHead': 'upernet',
    }
    found = kinds.get(head.get('type', '') if head else model.type)
    if found is None or (found == 'cascade_mask_rcnn' and not model.roi_head.get('mask_head')):
        kind = head.get('type', '') if head else model.type
        raise UserError(
            f'{label} is a {kind}, and the tables have {", ".join(kinds)} with masks: add its row '
            'as a CSV.'
        )
    return found


def _kind(framework: str) -> str:
    return FRAMEWORKS[framework].heading or 'a classifier'


def _cells(candidate: RowModel, table: int, framework: str, counted: Complexity) -> list[Cell]:
    layer, total = counted.layer_flops / 1e9, counted.total_flops / 1e9
    cells = []
    for column in TABLES[table].columns.values():
        if column.framework.name != framework:
            continue
        values: dict[str, Any] = {'measured': candidate.metrics.get(column.metric.name)}
        if column.metric.name == 'params_m':
            values = {'measured': counted.params / 1e6}
        elif column.metric.name == 'flops_g':
            both = {'layer_flops_g': layer, 'total_flops_g': total}
            values = {'measured': total, 'convention': 'total', **both}
        elif values['measured'] is not None and not candidate.measured:
            values = {'measured': None, 'reference': str(values['measured'])}
        elif values['measured'] is None:
            continue
        cells.append(added_cell(table, candidate.label, column.name, candidate.record, **values))
    return cells


def added_cell(table: int, model: str, column: str, record: str = '', **values: Any) -> Cell:
    """Return a cell of a row that the paper has not.

    Args:
        values: those of its fields that are not empty.
    """
    fields: dict[str, Any] = {
        **{'table': table, 'model': model, 'system': '', 'metric': column, 'convention': ''},
        **{'paper': '', 'reference': '', 'measured': None, 'difference': None, 'tolerance': None},
        **{'verdict': Verdict.UNPRINTED, 'reference_verdict': Verdict.UNPRINTED, 'reason': ''},
        **{'record': record, 'variant': '', 'published': '', 'reference_source': ''},
    }
    return Cell(**fields | values)


def _description(
    candidate: RowModel, arguments: Mapping[str, Any], is_maformer: bool
) -> dict[str, str]:
    """Return the columns that say what a row is, as the paper's tables hold them."""
    described = {
        'token_labeling': str(bool(arguments.get('token_labeling'))).lower(),
        'train_size': str(candidate.train_size or ''),
        'test_size': str(candidate.test_size or ''),
    }
    if not is_maformer:
        return described
    chosen = {
        name: texts[arguments.get(name, next(iter(texts)))] for name, texts in _DESIGNS.items()
    }
    return described | {
        'embed_dims': '-'.join(map(str, arguments['embed_dims'])),
        'depths': '-'.join(map(str, arguments['depths'])),
        'local_attention': chosen['local_attention'],
        'global_features': chosen['global_branch'],
        'dual_stream': chosen['fusion'] if chosen['global_branch'] != 'None' else '',
    }


def _block(lines: Sequence[Line], framework: str, counted: Complexity) -> str:
    """Return the block whose MAFormer is nearest in parameters; '' in a table without blocks."""
    sizes = {}
    for line in lines:
        column = TABLES[line.table].column(framework, 'params_m')
        cell = line.cells.get(column.name) if column else None
        if line.block and line.model == line.block and cell is not None and cell.value:
            sizes[line.block] = cell.value
    params = counted.params / 1e6
    return min(sizes, key=lambda name: max(sizes[name] / params, params / sizes[name]), default='')
