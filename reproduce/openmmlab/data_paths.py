"""Point the data loaders of an mmdet or mmseg config at the data that lies on this machine."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from reproduce.base.errors import UserError
from reproduce.openmmlab.configs import task_of
from reproduce.tasks import TASKS

if TYPE_CHECKING:
    from mmengine.config import Config

    from datasets.coco import COCO
    from datasets.segmented import SegmentationData

# Parts of a model whose number of classes is not the data's.
_OTHER_CLASSES = ('backbone', 'neck', 'rpn_head', 'semantic_head', 'loss_decode')


def point_at(
    config: 'Config', data: 'COCO | SegmentationData', loader: Literal['train', 'val', 'test']
) -> None:
    """Let a loader of `config`, and its evaluator, read `data`, and call its classes by name.

    The config is changed in place; its pipelines stay as they are.

    Raises:
        UserError: if the config has no such loader, or one of several data sets, or the model has
            another number of classes than the data.
    """
    check_classes(config, data)
    dataset = (config.get(f'{loader}_dataloader') or {}).get('dataset')
    while isinstance(dataset, dict) and 'dataset' in dataset:  # what repeats or mixes its images
        dataset = dataset['dataset']
    if not isinstance(dataset, dict) or 'datasets' in dataset:
        raise UserError(f'{config.filename} has no {loader}_dataloader with one dataset.')
    TASKS[task_of(config)].point_dataset(dataset, data)
    evaluators = config.get(f'{loader}_evaluator') or []
    for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators]:
        if 'ann_file' in evaluator:
            evaluator.ann_file = dataset['ann_file']


def check_classes(config: 'Config', data: 'COCO | SegmentationData') -> None:
    """Raise a UserError if a head of the model has another number of classes than the data."""
    for where, number in _num_classes(config.model, 'model'):
        if number != len(data.classes):
            raise UserError(
                f'{where} is {number}, and {data.root} has {len(data.classes)} classes: take a '
                f'config for such data, or set {where}={len(data.classes)} with --cfg-options.'
            )


def _num_classes(part: Any, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(part, list | tuple):
        part = dict(enumerate(part))
    if isinstance(part, dict):
        for key, value in part.items():
            if key == 'num_classes':
                yield f'{path}.{key}', value
            elif key not in _OTHER_CLASSES:
                yield from _num_classes(value, f'{path}.{key}')
