"""Training of detectors and segmenters: any config of this project, mmdet or mmseg, by mmengine.

An output folder holds what mmengine's Runner writes (its log, the config, the newest checkpoints
as iter_N.pth), and

    run.json            the config, the data and the weights that it starts from
    run.toml            the options of the command, for its --config
    model.safetensors   the last weights, when the training is over

mmengine's hooks save and resume. A training that is resumed within an epoch continues with the
batches of that epoch that are left, and draws other random numbers than an uninterrupted one.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import DATA_SAMPLERS, FUNCTIONS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, Sampler

from model.checkpoint import CheckpointError, read
from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of, write_atomically
from reproduce.base.gpus import check_precision, use_deterministic_algorithms
from reproduce.base.processes import Group, in_group, join
from reproduce.base.versions import code_facts
from reproduce.openmmlab import cfg_options, safe_loading
from reproduce.openmmlab.configs import load_config, task_of
from reproduce.openmmlab.data_paths import point_at
from reproduce.openmmlab.models import find_regions_in_fp32
from reproduce.openmmlab.transforms import kind
from reproduce.tasks import TASKS
from reproduce.tasks.detection_scores import check_masks
from reproduce.tasks.job import PRECISIONS
from reproduce.train.jobs import ConfigJob
from reproduce.train.output_folder import StepMeter, check_resumed, claimed, weights_file
from reproduce.train.seeds import seed_everything
from reproduce.train.stopping import StopRequests, TrainingStopped, survive_signals
from reproduce.weights import store

FUNCTIONS.register_module(module=survive_signals)

# Iterations between checkpoints: an epoch of COCO takes hours.
SAVED_ITERATIONS = 2000
KEPT_CHECKPOINTS = 3


def train(job: ConfigJob) -> None:
    """Train in this process, or in the ranks that it is one of.

    Raises:
        UserError: if config, data, weights and output folder do not fit each other, or a weight is
            no longer finite.
        TrainingStopped: if SIGTERM, SIGUSR1 or Ctrl-C asked for it.
    """
    safe_loading.install()
    # The process group is joined before mmengine's Runner would choose NCCL for CPUs, too.
    with join() as group, claimed(job.output, group), StopRequests(group, job.output) as stop:
        check_precision(group.device, job.amp)
        config, record = prepare(job, group.rank, group.size)
        text = {'text of the config': config.text, '--resume': job.resume}
        group.check_same(lambda: {**code_facts(), **text, **record})
        runner = _Runner.from_cfg(config)
        if job.deterministic:
            use_deterministic_algorithms()
        find_regions_in_fp32(runner.model)
        runner.register_hook(_SafeEnd(job, group, stop), 'LOWEST')
        if group.rank == 0 and not job.resume:
            write_atomically(job.output / 'run.json', json.dumps(record, indent=2) + '\n')
            write_atomically(job.output / 'run.toml', job.options_file)
        try:
            with suppress(_MaxStepsReached):
                runner.train()
        except CheckpointError as error:
            raise UserError(str(error)) from error
        if group.rank == 0:
            newest, _ = read(_newest_checkpoint(job.output))
            weights = {name: tensor.contiguous() for name, tensor in newest.items()}
            classes = runner.train_dataloader.dataset.metainfo.get('classes', ())
            metadata = {'config': job.config, 'classes': json.dumps(list(classes))}
            path = job.output / 'model.safetensors'
            write_atomically(path, weights_file(weights, metadata))
            runner.logger.info(f'written: {path}')


def prepare(job: ConfigJob, rank: int = 0, size: int = 1) -> tuple[Config, dict[str, Any]]:
    """Read the config of a job, and check it against its data, weights and output folder.

    Returns:
        what the Runner is built from, and the content of run.json.

    Raises:
        UserError: if they do not fit each other; nothing has been written.
    """
    if job.amp != 'off' and not torch.cuda.is_available():
        raise UserError(f'--amp {job.amp} needs a GPU, and there is none: leave it out.')
    config = load_config(job.config)
    cfg_options.merge(config, cfg_options.parse(job.options or ()))
    record = {
        'config': job.config,
        'model': config.model.to_dict(),
        'data': _point_at_data(config, job.data, checks_masks=rank == 0),
        'batch': size * config.train_dataloader.batch_size,
        'amp': job.amp,
        'deterministic': job.deterministic,
        'backbone_weights': _choose_backbone(config, job.checkpoint),
    }
    record = json.loads(json.dumps(record, default=str))
    record['model'].get('backbone', {}).pop('init_cfg', None)
    newest = _newest_checkpoint(job.output)
    check_resumed(job.output, newest is not None, job.resume)
    if job.resume:
        path = job.output / 'run.json'
        before = json.loads(path.read_text())
        for name in ('model', 'data', 'batch', 'amp'):
            if before.get(name) != record[name]:
                raise UserError(
                    f'{path} has another {name}: resume with the same config, data, precision and '
                    'number of images in a batch of all processes, or begin in another folder.'
                )
        config.load_from = str(newest)
    config.resume = job.resume
    _set_up_runner(config, job)
    return config, record


def _point_at_data(config: Config, folder: Path, checks_masks: bool) -> dict[str, Any]:
    """Point all loaders at the data in `folder`; return what identifies them, by split."""
    task, found = task_of(config), dict[str, Any]()
    loaders: dict[str, tuple[Literal['train', 'val', 'test'], ...]] = {
        'train': ('train',),
        'val': ('val', 'test'),
    }
    steps = config.train_dataloader.dataset.get('pipeline', ())
    trains_masks = any(kind(s) == 'LoadAnnotations' and s.get('with_mask') for s in steps)
    for split, names in loaders.items():
        for name in names:
            if config.get(f'{name}_dataloader'):
                found[split] = found.get(split) or TASKS[task].load_data(folder, split)
                point_at(config, found[split], name)
        if checks_masks and trains_masks and split in found:
            check_masks(found[split].content)
    if len({tuple(data.classes) for data in found.values()}) > 1:
        raise UserError(f'train and val of {folder} do not have the same classes.')
    return {
        split: {'fingerprint': data.fingerprint, 'problems': data.problems}
        for split, data in found.items()
    }


def _choose_backbone(config: Config, checkpoint: str | None) -> str | None:
    """Name the ImageNet weights of a MAFormer backbone in the config; return their SHA-256."""
    backbone = config.model.get('backbone', {})
    named = checkpoint or (backbone.get('init_cfg') or {}).get('checkpoint')
    if checkpoint is not None and backbone.get('type') != 'MAFormer':
        raise UserError(
            f'--checkpoint is for a MAFormer backbone, and this is {backbone.get("type")}: set its '
            'init_cfg with --cfg-options.'
        )
    if named is None or backbone.get('type') != 'MAFormer':
        return None
    path = store.find(str(named), backbone.arch)
    backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': str(path)}
    return sha256_of(path)


def _newest_checkpoint(folder: Path) -> Path | None:
    numbered = {int(path.stem.removeprefix('iter_')): path for path in folder.glob('iter_*.pth')}
    return numbered[max(numbered)] if numbered else None


def _set_up_runner(config: Config, job: ConfigJob) -> None:
    """Set what does not depend on the model: folder, loggers, precision, checkpoints, loaders."""
    config.work_dir = str(job.output.absolute())
    if in_group():
        config.launcher = 'pytorch'
        if not torch.cuda.is_available():
            config.model_wrapper_cfg = {
                'type': 'MMDistributedDataParallel',
                'device_ids': None,
                'find_unused_parameters': config.get('find_unused_parameters', False),
            }
    # mmengine keeps one of each name in a process, and would log into an earlier training's folder.
    config.get('visualizer', {}).pop('name', None)
    config.randomness = {'seed': 0, **config.get('randomness', {})}
    base = (config.get('auto_scale_lr') or {}).get('base_batch_size', 0)
    # mmengine counts the images of one iteration, of however many a step is made.
    base /= config.optim_wrapper.get('accumulative_counts', 1)
    config.auto_scale_lr = {'enable': base > 0, 'base_batch_size': base}
    if job.amp != 'off':
        config.optim_wrapper.type = 'AmpOptimWrapper'
        config.optim_wrapper.dtype = PRECISIONS[job.amp]
        config.optim_wrapper.setdefault('loss_scale', 'dynamic')
    saving = config.default_hooks.checkpoint
    saving.interval, saving.by_epoch = SAVED_ITERATIONS, False
    saving.max_keep_ckpts = KEPT_CHECKPOINTS
    loader = config.train_dataloader
    if config.train_cfg.get('type') == 'EpochBasedTrainLoop' or config.train_cfg.get('by_epoch'):
        loader.batch_sampler = {
            'type': RestOfEpoch.__name__,
            'batches': loader.get('batch_sampler') or {'type': BatchSampler},
            'drop_last': loader.pop('drop_last', False),
        }
    for loader in filter(None, (config.train_dataloader, config.get('val_dataloader'))):
        loader.persistent_workers = loader.get('num_workers', 0) > 0
        loader.worker_init_fn = {'type': survive_signals.__name__}


@DATA_SAMPLERS.register_module()
class RestOfEpoch(BatchSampler):
    """The batches of another batch sampler, without the first `done` ones in the next pass."""

    def __init__(
        self, sampler: Sampler, batch_size: int, batches: dict[str, Any], drop_last: bool
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        arguments = {'sampler': sampler, 'batch_size': batch_size, 'drop_last': drop_last}
        self.batches = DATA_SAMPLERS.build(batches, default_args=arguments)
        self.done = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, since a loader with workers makes two iterators and reads from the second.
        done, self.done = self.done, 0
        yield from islice(self.batches, done, None)


class _Runner(Runner):
    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **options: Any) -> None:
        """Write a checkpoint under another name first: a killed training leaves no half of one."""
        super().save_checkpoint(out_dir, 'unfinished.pth', *args, **options)
        os.replace(Path(out_dir, 'unfinished.pth'), Path(out_dir, filename))


class _MaxStepsReached(Exception):
    """Ends a training whose `max_steps` are done."""


class _SafeEnd(Hook):
    """Lets mmengine's CheckpointHook save wherever the training may end, and ends it there."""

    def __init__(self, job: ConfigJob, group: Group, stop: StopRequests) -> None:
        self.job, self.group, self.stop = job, group, stop
        self.last = job.max_steps or float('inf')

    def before_train(self, runner: Runner) -> None:
        self.saving = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
        self.interval = self.saving.interval
        # Data-loading workers are seeded from it: others in each process and after each resumption.
        seed_everything(runner.seed, runner.iter, runner.rank)
        images = runner.train_dataloader.batch_sampler.batch_size * self.group.size
        self.meter = StepMeter(self.group.device, images) if self.job.max_steps else None

    def before_train_epoch(self, runner: Runner) -> None:
        batches = runner.train_dataloader.batch_sampler
        if isinstance(batches, RestOfEpoch):
            batches.done = runner.iter - runner.epoch * len(batches)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        done, loop = runner.iter + 1, runner.train_loop
        period = (
            len(loop.dataloader) if isinstance(loop, EpochBasedTrainLoop) else loop.val_interval
        )
        self.signal = self.stop.agreed()
        saves = done >= self.last or self.signal is not None or done % period == 0
        self.saving.interval = 1 if saves else self.interval
        if self.meter:
            self.meter.tick()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        done = runner.iter + 1
        if self.meter:
            self.meter.tick()
        if self.signal is not None or done >= self.last:
            self.group.barrier()  # no rank ends before the checkpoint is written
        if self.signal is not None:
            raise TrainingStopped(
                f'{self.signal.name} came after {done} iterations; {self.job.output} holds a '
                'checkpoint: continue with the same command and --resume.',
                self.signal,
            )
        if done >= self.last:
            if self.group.rank == 0:
                self.meter.write(self.job.output, outputs['loss'].item())
            raise _MaxStepsReached

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check the weights and the gradients: a checkpoint of NaN would replace a good one."""
        state = checkpoint['state_dict']
        wrong = [f'the weight {name} is' for name in state if not torch.isfinite(state[name]).all()]
        # A step without finite gradients is skipped and halves the scale, which begins at 65,536.
        if checkpoint.get('optimizer', {}).get('loss_scaler', {}).get('scale', 1) < 1e-6:
            wrong.append('the gradients of the last steps are')
        if wrong:
            raise UserError(
                f'{wrong[0]} not finite: resume from an earlier checkpoint in {self.job.output}, '
                'or begin anew with a lower learning rate or without --amp.'
            )
