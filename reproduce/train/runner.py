"""Training of detectors and segmenters: any config of this project, mmdet or mmseg, by mmengine.

An output folder holds what mmengine's Runner writes (its log, the config, the checkpoints), and

    run.json            the config, the data it runs on and what was decided
    model.safetensors   the last weights, when the training is over
    curve.png           the loss over the iterations, and what validation measured

A resumed training sees the same images in the same order as an uninterrupted one. Everything random
in the training process is seeded anew from (seed, iteration, process). With mmengine's loop over
epochs the augmentations are the same too; its loop over iterations draws them anew on resuming.
"""

import json
import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.nn as nn
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import EpochBasedTrainLoop, Runner
from safetensors.torch import save

from datasets import load
from model.checkpoint import CheckpointError, read
from reproduce import distributed
from reproduce.distributed import Group, in_group
from reproduce.errors import UserError
from reproduce.files import check_writable, write_atomically
from reproduce.openmmlab import safe_loading
from reproduce.openmmlab.configs import load_config, task_of
from reproduce.openmmlab.data_paths import point_at
from reproduce.openmmlab.models import build, load_backbone
from reproduce.train.curve import Panel, draw
from reproduce.train.seeds import seed_everything
from reproduce.weights import store

# The metrics in the curve: mmdet's and mmseg's names and ours.
_METRICS = {'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP', 'mIoU': 'mIoU (%)'}


@dataclass(frozen=True)
class Job:
    """A training and where it takes place.

    Attributes:
        config: as `reproduce.openmmlab.configs.load_config` takes it.
        data: the folder of COCO or ADE20K, or of data in their form.
        output: folder for what comes of it.
        checkpoint: ImageNet weights of the backbone, a file or the name of a released checkpoint;
            None leaves what the config names.
        options: 'KEY=VALUE', changes of the config.
        resume: go on with the training that `output` holds.
        amp: mixed precision.
        scale_lr: scale the learning rate with the batch.
    """

    config: str
    data: Path
    output: Path
    checkpoint: str | None = None
    options: Sequence[str] = ()
    resume: bool = False
    amp: bool = False
    scale_lr: bool = True


@dataclass(frozen=True)
class Prepared:
    """A config that is pointed at the data, weights and folder of its job.

    Attributes:
        config: what the Runner is built from.
        record: what a resumed training must share with the one that it goes on with.
        notes: what was decided, a sentence each, for the log.
    """

    config: Config
    record: dict[str, Any]
    notes: list[str]


def train(job: Job, processes: int = 1) -> list[dict[str, float]]:
    """Train on `processes` processes of this machine, or on those that `torchrun` started.

    Returns:
        what mmengine logged, the earlier parts of a resumed training too: rows with `loss` and
        `iter`, and rows of validations with `step`, the epoch or iteration.

    Raises:
        UserError: if config, data, weights and output folder do not go together, or the loss is no
            longer finite.
    """
    return distributed.run(_run, job, processes=processes)


def _run(group: Group, job: Job) -> list[dict[str, float]]:
    safe_loading.install()
    prepared = prepare(job)
    group.agree()  # the first one writes into the folder that all have looked at
    try:
        return _train(job, prepared, group)
    except CheckpointError as error:
        raise UserError(str(error)) from error


def prepare(job: Job) -> Prepared:
    """Read the config of the job, and hold it against its data, weights and output folder.

    Raises:
        UserError: if they do not go together, before anything is built or written.
    """
    config = load_config(job.config)
    merge(config, job.options)
    task = task_of(config)
    if not config.get('train_cfg') or not config.get('optim_wrapper'):
        raise UserError(
            f'{job.config} has no train_cfg and optim_wrapper: expected the config of a training.'
        )
    if job.amp and not torch.cuda.is_available():
        raise UserError('--amp needs a GPU, and there is none: leave it out.')
    fingerprints, notes = _point_at_data(config, job.data, task)
    _choose_backbone(config, job.checkpoint)
    record = _record(config, fingerprints)
    _choose_start(config, job, record)
    config.work_dir = str(job.output.absolute())
    # mmengine keeps one of each name in a process, and would log into an earlier training's folder.
    config.visualizer = {
        **(config.get('visualizer') or {'type': 'Visualizer'}),
        'name': uuid4().hex,
    }
    config.setdefault('randomness', {'seed': 0})
    if job.amp:
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.setdefault('loss_scale', 'dynamic')
    notes.append(_scale_lr(config, job.scale_lr))
    loader = config.train_dataloader
    # Workers that are started anew with every epoch draw the same augmentations after a resumption.
    by_epoch = config.train_cfg.get('by_epoch', 'Iter' not in config.train_cfg.get('type', ''))
    loader.persistent_workers = not by_epoch and loader.get('num_workers', 0) > 0
    return Prepared(config, record, notes)


def merge(config: Config, options: Sequence[str]) -> None:
    """Change `config` by 'KEY=VALUE's as OpenMMLab's own tools take them.

    Raises:
        UserError: if one is none, or the config has no place for it.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument('--options', nargs='+', action=DictAction)
    for option in options:
        try:
            config.merge_from_dict(parser.parse_args(['--options', option]).options)
        except (ValueError, KeyError, TypeError, AttributeError, ArgumentTypeError) as error:
            raise UserError(
                f"--cfg-options '{option}' does not fit ({error}): expected KEY=VALUE, such as "
                'train_cfg.max_epochs=12.'
            ) from error


def _point_at_data(config: Config, folder: Path, task: str) -> tuple[dict[str, str], list[str]]:
    """Point all loaders at the data in `folder`; its fingerprints by split, and what it is."""
    notes, found = [], {}
    for split, loaders in (('train', ('train',)), ('val', ('val', 'test'))):
        wanted = [name for name in loaders if config.get(f'{name}_dataloader')]
        if not wanted:
            continue
        found[split] = data = load(task, folder, split)
        for name in wanted:
            point_at(config, data, name)
        state = 'complete' if data.complete else '; '.join(data.problems)
        notes.append(f'{split}: {data.root}, {len(data.classes)} classes, {state}')
    if len({tuple(data.classes) for data in found.values()}) > 1:
        raise UserError(f'train and val of {folder} do not have the same classes.')
    return {split: data.fingerprint for split, data in found.items()}, notes


def _choose_backbone(config: Config, checkpoint: str | None) -> None:
    """Name the backbone's ImageNet weights in the config, and try them where it is a MAFormer."""
    backbone = config.model.get('backbone', {})
    if backbone.get('type') != 'MAFormer':
        if checkpoint is not None:
            raise UserError(
                f'--checkpoint is for a MAFormer backbone, and this is {backbone.get("type")}: set '
                'its init_cfg with --cfg-options.'
            )
        return
    if checkpoint is not None:
        backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': str(checkpoint)}
    named = (backbone.get('init_cfg') or {}).get('checkpoint')
    if named is not None:
        backbone.init_cfg.checkpoint = str(store.find(named, backbone.arch))
        load_backbone(build(config, 'cpu'), backbone.init_cfg.checkpoint)


def _choose_start(config: Config, job: Job, record: dict[str, Any]) -> None:
    """Hold the job against what its output folder holds, and find what to go on from."""
    check_writable(job.output)
    last = _last_checkpoint(job.output)
    if job.resume:
        if last is None:
            raise UserError(f'{job.output} holds no checkpoint: leave out --resume to begin.')
        _check_same(record, job)
        safe_loading.read_checkpoint(last)
        config.resume, config.load_from = True, str(last)
        return
    if last is not None:
        raise UserError(
            f'{job.output} holds a training already: add --resume to go on with it, or name '
            'another folder.'
        )
    config.resume = False
    start = config.get('load_from')
    if start and '://' not in start:
        safe_loading.read_checkpoint(start)


def _last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that mmengine finished writing into `folder`, if there is one."""
    marker = folder / 'last_checkpoint'
    named = folder / Path(marker.read_text()).name if marker.is_file() else folder
    if named != folder:
        return named
    # It was killed while it wrote the first one, or the name of one.
    found = [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')]
    return max(found, key=lambda path: int(path.stem.partition('_')[2]), default=None)


def _record(config: Config, fingerprints: dict[str, str]) -> dict[str, Any]:
    model = config.model.to_dict()
    model.get('backbone', {}).pop('init_cfg', None)  # the resumed checkpoint has what it led to
    return json.loads(json.dumps({'model': model, 'data': fingerprints}, default=str))


def _check_same(record: dict[str, Any], job: Job) -> None:
    path = job.output / 'run.json'
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read ({error}): begin in another folder.') from error
    for name, meant in (('model', 'another model'), ('data', 'other data')):
        if before.get(name) != record[name]:
            raise UserError(
                f'{job.output} was trained with {meant}: resume with the same config and data, or '
                'begin in another folder.'
            )


def _scale_lr(config: Config, wanted: bool) -> str:
    base = (config.get('auto_scale_lr') or {}).get('base_batch_size')
    if base is None:
        return 'the learning rate is the one of the config: it names no batch size that it is for'
    config.auto_scale_lr.enable = wanted
    if not wanted:
        return f'the learning rate is the one of the config, for a batch of {base}, as asked for'
    return f'the learning rate is for a batch of {base} and scaled with the batch'


def _train(job: Job, prepared: Prepared, group: Group) -> list[dict[str, float]]:
    config = prepared.config
    if in_group():
        config.launcher = 'pytorch'
        if group.device.type == 'cpu':
            config.model_wrapper_cfg = {
                'type': 'MMDistributedDataParallel',
                'device_ids': None,
                'find_unused_parameters': config.get('find_unused_parameters', False),
            }
    runner = _Runner.from_cfg(config)
    runner.register_hook(_Reproducible(job.output), 'VERY_HIGH')
    for note in prepared.notes:
        runner.logger.info(note)
    if group.rank == 0 and not job.resume:
        record = {'config': job.config, 'options': list(job.options), **prepared.record}
        record |= {'processes': group.size, 'amp': job.amp, 'notes': prepared.notes}
        write_atomically(job.output / 'run.json', json.dumps(record, indent=2) + '\n')
    runner.train()
    rows = _logged(job.output)
    if group.rank == 0:
        _export(job, runner)
        plot(rows, runner, job.output / 'curve.png')
    group.agree()
    return rows


class _Runner(Runner):
    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As mmengine's, and without SyncBN on CPUs, where it does not train."""
        if self.distributed and not torch.cuda.is_available():
            model = revert_sync_batchnorm(model)
            print_log(
                'SyncBN does not train on CPUs: BN takes its place, if there is any', 'current'
            )
        return super().wrap_model(model_wrapper_cfg, model)


class _Reproducible(Hook):
    """Seeds every iteration by its number, and stops when the loss is not finite."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def before_train_epoch(self, runner: Runner) -> None:
        seed_everything(runner.seed, runner.iter, runner.rank)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed_everything(runner.seed, runner.iter, runner.rank)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self.every_n_train_iters(runner, 20) and not math.isfinite(outputs['loss'].detach()):
            raise UserError(
                f'the loss is not finite at iteration {runner.iter + 1}: the last checkpoint is in '
                f'{self.output}; lower the learning rate, or do without --amp.'
            )


def _logged(output: Path) -> list[dict[str, float]]:
    """The rows of mmengine's logs, validations last; of two for one step the later run's counts."""
    rows = {}
    for path in sorted(output.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            rows['loss' in row, row['step']] = row
    return [rows[key] for key in sorted(rows, key=lambda key: (not key[0], key[1]))]


def plot(rows: list[dict[str, float]], runner: Runner, path: Path) -> None:
    """Draw the loss, and what validation measured, over the iterations into the PNG at `path`."""
    losses = [row for row in rows if 'loss' in row]
    lines = {'loss': ([row['step'] for row in losses], [row['loss'] for row in losses])}
    panels = [Panel('iteration', 'training loss', lines)]
    metrics = {}
    for name, label in _METRICS.items():
        points = [(row['step'], row[name]) for row in rows if name in row]
        if points:
            metrics[label] = tuple(zip(*points, strict=True))
    if metrics:
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        panels.append(Panel('epoch' if by_epoch else 'iteration', ', '.join(metrics), metrics))
    draw(panels, path)


def _export(job: Job, runner: Runner) -> None:
    """The last weights, and in the file's metadata what makes the model they belong to."""
    weights = {name: t.contiguous() for name, t in read(_last_checkpoint(job.output)).items()}
    classes = runner.train_dataloader.dataset.metainfo.get('classes', ())
    metadata = {'config': job.config, 'classes': json.dumps(list(classes))}
    path = job.output / 'model.safetensors'
    write_atomically(path, save(weights, metadata))
    runner.logger.info(f'written: {path}')
