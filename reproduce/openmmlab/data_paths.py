"""Point the data loaders of an mmdet or mmseg config at the data that lies on this machine."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from reproduce.errors import UserError
from reproduce.openmmlab.configs import task_of
from reproduce.quiet import quiet_libraries

if TYPE_CHECKING:
    from mmengine.config import Config

    from datasets.ade20k import ADE20K
    from datasets.coco import COCO

Loader = Literal['train', 'val', 'test']

# Parts of a model whose number of classes is not the data's.
_OTHER_CLASSES = ('backbone', 'neck', 'rpn_head', 'semantic_head', 'loss_decode')


def point_at(config: 'Config', data: 'COCO | ADE20K', loader: Loader) -> None:
    """Let the loader of `config`, and its evaluator, read `data` and call its classes by name.

    Args:
        config: changed in place; its pipelines stay as they are.
        data: of `datasets.coco.load` for mmdet's configs, of `datasets.ade20k.load` for mmseg's.

    Raises:
        UserError: if the config has no such loader, or one of several data sets, or the model
            tells another number of classes apart than the data has.
    """
    check_classes(config, data)
    dataset = _dataset(config, loader)
    if task_of(config) == 'coco':
        _point_coco(dataset, data)
    else:
        _point_ade20k(dataset, data)
    for evaluator in _listed(config.get(f'{loader}_evaluator')):
        if 'ann_file' in evaluator:
            evaluator.ann_file = str(data.annotations.absolute())


def check_classes(config: 'Config', data: 'COCO | ADE20K') -> None:
    """Hold the heads of the model against the classes of the data.

    Raises:
        UserError: if a head has another number of classes.
    """
    for where, number in _num_classes(config.model, 'model'):
        if number != len(data.classes):
            raise UserError(
                f'{where} is {number}, and {data.root} has {len(data.classes)} classes: take a '
                f'config for such data, or set {where}={len(data.classes)} with --cfg-options.'
            )


def _num_classes(part: Any, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(part, list | tuple):
        for i, item in enumerate(part):
            yield from _num_classes(item, f'{path}.{i}')
    elif isinstance(part, dict):
        for key, value in part.items():
            if key == 'num_classes':
                yield f'{path}.{key}', value
            elif key not in _OTHER_CLASSES:
                yield from _num_classes(value, f'{path}.{key}')


def _dataset(config: 'Config', loader: Loader) -> Any:
    """The dataset of the loader, inside what repeats or mixes its images."""
    dataset = (config.get(f'{loader}_dataloader') or {}).get('dataset')
    while isinstance(dataset, dict) and 'dataset' in dataset:
        dataset = dataset['dataset']
    if not isinstance(dataset, dict) or 'datasets' in dataset:
        raise UserError(
            f'{config.filename} has no {loader}_dataloader with one dataset: expected one that can '
            'be pointed at --data.'
        )
    return dataset


def _point_coco(dataset: Any, data: 'COCO') -> None:
    dataset.data_root = str(data.root.absolute())
    dataset.ann_file = str(data.annotations.absolute())
    dataset.data_prefix = {**dataset.get('data_prefix', {}), 'img': str(data.images.absolute())}
    dataset.metainfo = {'classes': tuple(data.classes)}


def _point_ade20k(dataset: Any, data: 'ADE20K') -> None:
    with quiet_libraries():
        from mmseg.datasets import ADE20KDataset

    image, label_map = data.samples[0]
    dataset.data_root = str(data.root.absolute())
    dataset.data_prefix = {
        'img_path': str(image.parent.absolute()),
        'seg_map_path': str(label_map.parent.absolute()),
    }
    if tuple(data.classes) != tuple(ADE20KDataset.METAINFO['classes']):
        # ADE20KDataset takes no other names.
        dataset.type = 'BaseSegDataset'
        dataset.metainfo = {'classes': tuple(data.classes)}  # mmseg draws a palette
        dataset.img_suffix, dataset.seg_map_suffix = image.suffix, label_map.suffix
        dataset.reduce_zero_label = True


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
