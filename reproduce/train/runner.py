"""Training of detectors and segmenters: any config of this project, mmdet or mmseg, by mmengine.

An output folder holds what mmengine's Runner writes (its log, the config, the checkpoints), and

    run.json            the config, the data it runs on and what was decided
    model.safetensors   the last weights, when the training is over
    curve.png           the loss over the iterations, and what validation measured

A resumed training sees the same images, augmented in the same way and in the same order, as an
uninterrupted one: everything random in the training process is seeded anew from (seed, iteration,
process) and each image from (seed, iteration, index).
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from datasets import coco, load
from model.checkpoint import CheckpointError, read
from reproduce.base.errors import UserError
from reproduce.base.files import hash_of, write_atomically
from reproduce.base.gpus import check_precision
from reproduce.base.processes import Group, in_group, join
from reproduce.base.versions import code_facts
from reproduce.openmmlab import cfg_options, safe_loading
from reproduce.openmmlab.configs import load_config, task_of
from reproduce.openmmlab.data_paths import point_at
from reproduce.openmmlab.models import build, load_backbone
from reproduce.openmmlab.transforms import kind
from reproduce.tasks import detection_scores as coco_score
from reproduce.train import saved_state
from reproduce.train.curve import Panel, draw
from reproduce.train.output_folder import claimed
from reproduce.train.resumable import make_resumable
from reproduce.train.seeds import seed_everything
from reproduce.train.stopping import StopRequests, TrainingStopped
from reproduce.train.tensorboard import check_installed
from reproduce.train.weights_file import to_bytes
from reproduce.weights import store

# The metrics in the curve: mmdet's and mmseg's names and ours.
_METRICS = {'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP', 'mIoU': 'mIoU (%)'}

# The loss is looked at every so many iterations, and may be infinite or NaN for as many in a row:
# fp16's first scale, 2 ** 16, is halved each time.
LOSS_ITERATIONS = 50


_NUMBERED = re.compile('(epoch|iter)_[0-9]+')


@dataclass(frozen=True)
class RunnerJob:
    """The training of a config, and where it takes place.

    Attributes:
        config: as `reproduce.openmmlab.configs.load_config` takes it.
        data: the folder of COCO or ADE20K, or of data in their form.
        output: the folder that everything is written into.
        checkpoint: ImageNet weights of the backbone, a file or the name of a released checkpoint;
            None leaves what the config names.
        options: 'KEY=VALUE', changes of the config.
        resume: go on with the training that `output` holds.
        amp: 'fp16' or 'bf16'; None computes in fp32.
        scale_lr: scale the learning rate with the batch.
        tensorboard: write scalars for TensorBoard.
        checkpoint_iterations: write a checkpoint after every so many iterations at least.
    """

    config: str
    data: Path
    output: Path
    checkpoint: str | None = None
    options: Sequence[str] = ()
    resume: bool = False
    amp: Literal['fp16', 'bf16'] | None = None
    scale_lr: bool = True
    tensorboard: bool = False
    # An epoch of COCO takes hours on a few GPUs, and mmseg's configs save every 8,000 iterations.
    checkpoint_iterations: int = 2000


@dataclass(frozen=True)
class PreparedRun:
    """A config that is pointed at the data, weights and folder of its job.

    Attributes:
        config: what the Runner is built from.
        record: what a resumed training must share with the one that it goes on with.
        notes: what was decided, a sentence each, for the log.
        source: the config as it was read, before it was pointed at anything of this machine.
    """

    config: Config
    record: dict[str, Any]
    notes: list[str]
    source: str


def train(job: RunnerJob) -> list[dict[str, float]]:
    """Train in this process, or in the ranks that it is one of.

    Returns:
        what mmengine logged, the earlier parts of a resumed training too: rows with `loss` and
        `iter`, and rows of validations with `step`, the epoch or iteration.

    Raises:
        UserError: if config, data, weights and output folder do not go together, or the loss is no
            longer finite.
        TrainingStopped: if SIGTERM or SIGUSR1 asked for it.
    """
    with join() as group, begun(job, group) as runner:
        runner.train()
        rows = _logged(job.output)
        if group.rank == 0:
            _export(job, runner)
            plot(rows, runner, job.output / 'curve.png')
        return rows


@contextmanager
def begun(job: RunnerJob, group: Group) -> Iterator[Runner]:
    """Check and build the training of a job, and give the Runner whose `train` goes through it.

    The output folder belongs to these processes for as long, and signals ask the training to stop.

    Raises:
        UserError: as `train` does.
    """
    safe_loading.install()
    check_precision(group.device, job.amp)
    with claimed(job.output, group), StopRequests(group, job.output) as stop:
        prepared = prepare(job, checks_objects=group.rank == 0)
        # The first one writes into the folder that all have looked at.
        group.check_same(lambda: _facts(job, prepared, group))
        try:
            runner = build_runner(job, prepared, group, stop)
            if job.resume:
                _check_checkpoint(Path(prepared.config.load_from), runner)
            elif group.rank == 0:
                _write_record(job, prepared, group)
            yield runner
        except CheckpointError as error:
            raise UserError(str(error)) from error


def _facts(job: RunnerJob, prepared: PreparedRun, group: Group) -> dict[str, Any]:
    """Return what decides the numbers of a training, by name."""
    start = prepared.config.get('load_from')
    backbone = (prepared.config.model.get('backbone', {}).get('init_cfg') or {}).get('checkpoint')
    return {
        'command': 'train config',
        **code_facts(),
        '--cfg-options': list(job.options),
        'config': prepared.source,
        'resume': job.resume,
        'amp': job.amp,
        'scale_lr': job.scale_lr,
        'checkpoint_iterations': job.checkpoint_iterations,
        'device': group.device.type,
        'checkpoint to start from': hash_of(start),
        'backbone weights': hash_of(backbone),
        **{f'{split} data': fingerprint for split, fingerprint in prepared.record['data'].items()},
    }


def prepare(job: RunnerJob, checks_objects: bool = True) -> PreparedRun:
    """Read the config of the job, and hold it against its data, weights and output folder.

    Args:
        checks_objects: whether to check each object of COCO's annotations, which takes as long and
            as much memory as reading them; one process is enough.

    Raises:
        UserError: if they do not go together, before anything is built or written.
    """
    if job.tensorboard:
        check_installed()
    config = load_config(job.config)
    cfg_options.merge(config, cfg_options.parse(job.options))
    task = task_of(config)
    if not config.get('train_cfg') or not config.get('optim_wrapper'):
        raise UserError(
            f'{job.config} has no train_cfg and optim_wrapper: expected the config of a training.'
        )
    if job.amp and not torch.cuda.is_available():
        raise UserError(f'--amp {job.amp} needs a GPU, and there is none: leave it out.')
    source = json.dumps(config.to_dict(), sort_keys=True, default=str)
    fingerprints, notes = _point_at_data(config, job.data, task, checks_objects)
    _choose_backbone(config, job.checkpoint)
    record = _record(config, fingerprints)
    _choose_start(config, job, record)
    config.work_dir = str(job.output.absolute())
    visualizer = config.get('visualizer') or {'type': 'Visualizer'}
    backends = list(visualizer.get('vis_backends') or [{'type': 'LocalVisBackend'}])
    if job.tensorboard and not any(b['type'] == 'TensorboardVisBackend' for b in backends):
        backends.append({'type': 'TensorboardVisBackend'})
    # mmengine keeps one of each name in a process, and would log into an earlier training's folder.
    config.visualizer = {**visualizer, 'vis_backends': backends, 'name': uuid4().hex}
    config.setdefault('randomness', {})
    if config.randomness.get('seed') is None:
        config.randomness.seed = 0
    if job.amp:
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.dtype = {'fp16': 'float16', 'bf16': 'bfloat16'}[job.amp]
        config.optim_wrapper.setdefault('loss_scale', 'dynamic')
    notes.append(_scale_lr(config, job.scale_lr))
    make_resumable(config)
    return PreparedRun(config, record, notes, source)


def _point_at_data(
    config: Config, folder: Path, task: str, checks_objects: bool
) -> tuple[dict[str, str], list[str]]:
    """Point all loaders at the data in `folder`; return its fingerprints by split, and notes."""
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
        if checks_objects and task == 'coco':
            annotations = coco.read(data.annotations)
            if split == 'train':
                notes += _check_objects(config, annotations)
            elif _scores_masks(config):
                coco_score.check_masks(annotations)
    if len({tuple(data.classes) for data in found.values()}) > 1:
        raise UserError(f'train and val of {folder} do not have the same classes.')
    return {split: data.fingerprint for split, data in found.items()}, notes


def _check_objects(config: Config, annotations: coco.Annotations) -> list[str]:
    """Check that the objects can be trained on; return a note on those that mmdet leaves out."""
    steps = config.train_dataloader.dataset.get('pipeline', ())
    if any(kind(step) == 'LoadAnnotations' and step.get('with_mask') for step in steps):
        without = [i['id'] for i in annotations.instances if not i.get('segmentation')]
        if without:
            raise UserError(
                f'{annotations.path} has no segmentation for {len(without):,} of its '
                f'{len(annotations.instances):,} objects, first for the annotation {without[0]}, '
                'and this config trains masks: restore the file, or take a config that trains '
                'boxes alone.'
            )
    sizes = {image['id']: (image['width'], image['height']) for image in annotations.images}
    objects = [instance for instance in annotations.instances if not instance['iscrowd']]
    left_out = sum(not _is_trained_on(i, *sizes[i['image_id']]) for i in objects)
    if left_out == len(objects):
        raise UserError(
            f'{annotations.path} has no object with an area, or none with a box of a pixel or more '
            'inside its image: there is nothing to train on.'
        )
    if not left_out:
        return []
    return [
        f'train: {left_out:,} of {len(objects):,} objects have no area, or no box of a pixel or '
        'more inside their image: mmdet leaves them out'
    ]


def _scores_masks(config: Config) -> bool:
    """Return whether the validation of a config compares masks."""
    evaluators = config.get('val_evaluator') or []
    for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators]:
        metric = evaluator.get('metric') or ()
        if 'segm' in ([metric] if isinstance(metric, str) else metric):
            return True
    return False


def _is_trained_on(instance: dict[str, Any], image_width: int, image_height: int) -> bool:
    """Return whether mmdet's CocoDataset trains on an object of an image of this size."""
    x, y, width, height = instance['bbox']
    inside_width = min(x + width, image_width) - max(x, 0)
    inside_height = min(y + height, image_height) - max(y, 0)
    return (
        inside_width > 0 and inside_height > 0 and instance['area'] > 0 and min(width, height) >= 1
    )


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


def _choose_start(config: Config, job: RunnerJob, record: dict[str, Any]) -> None:
    """Hold the job against what its output folder holds, and find what to go on from."""
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
    """Return the last checkpoint that was written whole into `folder`, if there is one."""
    marker = folder / 'last_checkpoint'
    text = marker.read_text(errors='replace') if marker.is_file() else ''
    named = folder / Path(text.strip('\0\n ')).name
    if named != folder:
        return named
    # It was killed while it wrote the first one, or the name of one.
    found = [path for path in folder.glob('*_*.pth') if _NUMBERED.fullmatch(path.stem)]
    return max(found, key=lambda path: int(path.stem.partition('_')[2]), default=None)


def _record(config: Config, fingerprints: dict[str, str]) -> dict[str, Any]:
    model = config.model.to_dict()
    model.get('backbone', {}).pop('init_cfg', None)  # the resumed checkpoint has what it led to
    return json.loads(json.dumps({'model': model, 'data': fingerprints}, default=str))


def _check_same(record: dict[str, Any], job: RunnerJob) -> None:
    path = job.output / 'run.json'
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'{path} cannot be read ({error}): begin in another folder.') from error
    if not isinstance(before, dict):
        raise UserError(
            f'{path} holds a {type(before).__name__} and no training: begin in another folder.'
        )
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
    steps = config.optim_wrapper.get('accumulative_counts', 1)
    summed = f', which is that of {steps} iterations: their gradients are summed' * (steps > 1)
    return f'the learning rate is for a batch of {base} and scaled with the batch{summed}'


def build_runner(job: RunnerJob, prepared: PreparedRun, group: Group, stop: StopRequests) -> Runner:
    """Return mmengine's Runner of a prepared config, in each of the processes of `group`."""
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
    runner.register_hook(_SameAgain(), 'VERY_HIGH')
    runner.register_hook(_SafeEnd(job, group, stop), 'LOWEST')
    extract_regions_in_fp32(runner.model)
    for note in prepared.notes:
        runner.logger.info(note)
    return runner


def _write_record(job: RunnerJob, prepared: PreparedRun, group: Group) -> None:
    record = {'config': job.config, 'options': list(job.options), **prepared.record}
    record |= {'processes': group.size, 'amp': job.amp, 'notes': prepared.notes}
    write_atomically(job.output / 'run.json', json.dumps(record, indent=2) + '\n')


def _check_checkpoint(path: Path, runner: Runner) -> None:
    """Check that the checkpoint is one of this very training, and sound.

    mmengine itself leaves out, with a line in its log, what does not fit.

    Raises:
        UserError: if it is not.
    """
    content = safe_loading.read_checkpoint(path)
    lacking = [name for name in ('state_dict', 'optimizer', 'meta') if name not in content]
    if lacking:
        reason = f"it has no '{lacking[0]}'"
    elif reason := saved_state.differs(content['state_dict'], weights_of(runner.model)):
        reason = f"its 'state_dict' {reason}"
    elif not all(isinstance(content['meta'].get(name), int) for name in ('epoch', 'iter')):
        reason = "its 'meta' does not say how many epochs and iterations are done"
    else:
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        reason = saved_state.fault_of_optimizer(
            content['optimizer'], runner.optim_wrapper.optimizer
        )
    if reason:
        raise UserError(
            f'{path} cannot be gone on with: {reason}; remove it and name an earlier one in '
            'last_checkpoint, or begin anew in another folder.'
        )


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a model as mmengine saves them, without what wraps it."""
    return (model.module if is_model_wrapper(model) else model).state_dict()


def extract_regions_in_fp32(model: nn.Module) -> None:
    """Let the RoI extractors of a detector work in fp32 under autocast, as in Swin's code.

    mmdet rounds the corners of the regions to the type of the feature maps: in fp16 to half a pixel
    or one, in bf16 to up to eight.
    """
    # Importing mmdet needs mmcv's operators, which `load_config` looks for.
    from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor

    def in_fp32(extractor: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        maps, *others = inputs
        return (tuple(features.float() for features in maps), *others)

    for module in model.modules():
        if isinstance(module, BaseRoIExtractor):
            module.register_forward_pre_hook(in_fp32)


class _Runner(Runner):
    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model as mmengine does, without SyncBN on CPUs, where it does not train."""
        if self.distributed and not torch.cuda.is_available():
            model = revert_sync_batchnorm(model)
            print_log(
                'SyncBN does not train on CPUs: BN takes its place, if there is any', 'current'
            )
        return super().wrap_model(model_wrapper_cfg, model)

    def scale_lr(
        self,
        optim_wrapper: OptimWrapper | OptimWrapperDict,
        auto_scale_lr: dict[str, Any] | None = None,
    ) -> None:
        """Scale the learning rate with the batch as mmengine does, accumulated ones included.

        mmengine itself counts the images of one iteration, of however many a step is made.
        """
        counts = getattr(optim_wrapper, '_accumulative_counts', 1)
        if auto_scale_lr and auto_scale_lr.get('enable') and counts > 1:
            base = auto_scale_lr['base_batch_size'] / counts
            auto_scale_lr = {**auto_scale_lr, 'base_batch_size': base}
        super().scale_lr(optim_wrapper, auto_scale_lr)


class _SameAgain(Hook):
    """Makes a resumed training the same as an uninterrupted one: its batches and its seeds."""

    def before_train(self, runner: Runner) -> None:
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            # mmengine would read and drop the data of all iterations before.
            runner.train_loop.dataloader_iterator.skip_iter = lambda iterations: None

    def before_train_epoch(self, runner: Runner) -> None:
        batches = runner.train_dataloader.batch_sampler
        batches.go_to(runner.epoch * len(batches), runner.iter)
        seed_everything(runner.seed, runner.iter, runner.rank)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        seed_everything(runner.seed, runner.iter, runner.rank)


class _SafeEnd(Hook):
    """Saves within epochs and when the training is to stop, and ends it when the loss is lost."""

    def __init__(self, job: RunnerJob, group: Group, stop: StopRequests) -> None:
        self.output, self.every = job.output, job.checkpoint_iterations
        self.group, self.stop = group, stop
        # How many losses in a row were not finite; on the device, which is not waited for.
        self.in_a_row = torch.zeros((), dtype=torch.int64, device=group.device)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        finite = torch.isfinite(outputs['loss'].detach())
        self.in_a_row = torch.where(finite, 0, self.in_a_row + 1)
        done = runner.iter + 1
        if done % LOSS_ITERATIONS == 0 and self.in_a_row >= LOSS_ITERATIONS:
            raise UserError(
                f'the loss was not finite in the last {LOSS_ITERATIONS} iterations, up to {done}: '
                f'the last checkpoint is in {self.output}; lower the learning rate, or do without '
                '--amp.'
            )
        number = self.stop.agreed()
        if number is not None:
            self._save(runner, done)
            raise self._stopped(number, done)
        if _saved_by_config(runner, done):
            if runner.rank == 0:
                self._remove_others(runner)
        elif done % self.every == 0:
            self._save(runner, done)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        number = self.stop.agreed()
        if number is not None:
            self._save(runner, runner.iter)
            raise self._stopped(number, runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        if runner.rank == 0:
            self._remove_others(runner)

    def after_train(self, runner: Runner) -> None:
        if runner.rank == 0:
            self._remove_others(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the last good checkpoint from being followed by a bad one."""
        for name, tensor in checkpoint['state_dict'].items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise UserError(
                    f'the weight {name} is not finite after iteration {runner.iter}: the last good '
                    f'checkpoint is in {self.output}; lower the learning rate, or do without --amp.'
                )

    def _save(self, runner: Runner, iterations: int) -> None:
        """Write a checkpoint after so many iterations, from which the training goes on exactly."""
        name = f'iter_{iterations}.pth'
        meta = {'epoch': runner.epoch, 'iter': iterations}
        runner.save_checkpoint(str(self.output), name, meta=meta, by_epoch=False)
        if runner.rank == 0:
            write_atomically(self.output / 'last_checkpoint', str(self.output / name))
            self._remove_others(runner)
        self.group.barrier()  # no rank ends before it is written

    def _remove_others(self, runner: Runner) -> None:
        """Remove the checkpoints that the config does not ask for, but for the last of all."""
        last = _last_checkpoint(self.output)
        for path in self.output.glob('iter_*.pth'):
            iterations = path.stem.removeprefix('iter_')
            by_config = iterations.isdecimal() and _saved_by_config(runner, int(iterations))
            if path != last and not by_config:
                path.unlink()

    def _stopped(self, number: int, iterations: int) -> TrainingStopped:
        return TrainingStopped(
            f'{number.name} came after {iterations} iterations; {self.output} holds a checkpoint: '
            'go on with the same command and --resume.'
        ).by(number)


def _saved_by_config(runner: Runner, iterations: int) -> bool:
    """Return whether the config itself asks for a checkpoint after so many iterations."""
    hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    return any(
        not hook.by_epoch
        and hook.interval > 0
        and iterations >= hook.save_begin
        and (iterations - hook.save_begin) % hook.interval == 0
        for hook in hooks
    )


def _logged(output: Path) -> list[dict[str, float]]:
    """Return the rows of mmengine's logs, validations last.

    Of two rows for one step that of the later run counts.
    """
    rows = {}
    for path in sorted(output.glob('*/vis_data/scalars.json')):
        for line in path.read_text(errors='replace').splitlines():
            try:
                row = json.loads(line)
                rows['loss' in row, row['step']] = row
            except (ValueError, KeyError, TypeError):  # it was killed within the line
                print_log(f'left out of the curve, since it is cut off: {path}: {line[:80]}')
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


def _export(job: RunnerJob, runner: Runner) -> None:
    """Write the last weights, and in the file's metadata what makes their model."""
    weights = {name: t.contiguous() for name, t in read(_last_checkpoint(job.output)).items()}
    classes = runner.train_dataloader.dataset.metainfo.get('classes', ())
    metadata = {'config': job.config, 'classes': json.dumps(list(classes))}
    path = job.output / 'model.safetensors'
    write_atomically(path, to_bytes(weights, metadata))
    runner.logger.info(f'written: {path}')
