"""A trial of a detector's or segmenter's config: iterations, a save and a resumption, a validation.

It is a training by mmengine's Runner, as `train` builds it, which a hook ends after some
iterations.
"""

import gc
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from reproduce.base.processes import Group, join
from reproduce.train.runner import RunnerJob, begun, weights_of
from reproduce.train.trial import (
    GradientWatch,
    Trial,
    TrialSettings,
    loader_speed,
    peak_memory,
    synchronized,
    together,
    without_first,
)


def try_config(config: str, settings: TrialSettings) -> Trial | None:
    """Try a config in this process, or in the ranks that it is one of; None in all but the first.

    Args:
        config: as `reproduce.openmmlab.configs.load_config` takes it.

    Raises:
        UserError: as a training does.
    """
    with join(settings.device) as group:
        return _try(group, config, settings)


class _EnoughIterations(Exception):
    """Ends a training as abruptly as a crash would, which its checkpoints have to survive."""


class _Stopwatch(Hook):
    """Notes the loss and the time of each iteration, and ends the training after so many."""

    def __init__(self, iterations: int, group: Group) -> None:
        self.iterations, self.device = iterations, group.device
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.evaluation_seconds: list[float] = []
        self.begin = 0.0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.begin = synchronized(self.device)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.seconds.append(synchronized(self.device) - self.begin)
        self.losses.append(outputs['loss'].item())
        if len(self.losses) == self.iterations:
            raise _EnoughIterations

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.begin = synchronized(self.device)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.evaluation_seconds.append(synchronized(self.device) - self.begin)


def _try(group: Group, config: str, settings: TrialSettings) -> Trial | None:
    job = RunnerJob(
        config,
        settings.data,
        settings.output / 'run',
        options=_options(settings, group.size),
        amp=settings.precision if settings.precision in ('fp16', 'bf16') else None,
        checkpoint_iterations=settings.steps,
    )
    found = Trial(group.device.type, fp16=settings.precision == 'fp16')
    # One more than are measured: its loss is the one to meet again after the resumption.
    watch = _Stopwatch(settings.steps + 1, group)
    with begun(job, group) as runner:
        gradients = GradientWatch(runner.model)
        _train(runner, watch)
    found.losses, followed_by = watch.losses[:-1], watch.losses[-1]
    found.step_seconds = without_first(watch.seconds[:-1])
    found.without_gradient = gradients.without_gradient()
    found.never_finite = gradients.never_finite()
    del runner, gradients
    gc.collect()
    group.barrier()

    watch = _Stopwatch(1, group)
    with begun(replace(job, resume=True), group) as runner:
        _train(runner, watch)
        found.next_loss = (followed_by, watch.losses[0])
        images = runner.train_dataloader.batch_sampler.batch_size
        found.step_images = images
        if runner.val_loop is not None:
            runner.val_loop.run()
            batch = runner.val_loop.dataloader.batch_size or 1
            found.evaluated_images_per_s = batch / without_first(watch.evaluation_seconds)
        # The Runner's own is in the middle of a pass, and an infinite sampler has only one.
        loader = Runner.build_dataloader(runner.cfg.train_dataloader, seed=runner.seed)
        found.loader_images_per_s = loader_speed(loader, images, loader.num_workers)
        found.peak_bytes = peak_memory(group.device)
        found.disk_bytes = _disk_bytes(runner, job)
        found.images, found.evaluated_images = _images(runner, images * group.size, settings)
    parts = group.gather([found])
    return None if parts is None else together(parts)


def _options(settings: TrialSettings, processes: int) -> tuple[str, ...]:
    """Return the changes of the config, as --cfg-options takes them."""
    options = [f'val_dataloader.dataset.indices={2 * processes}']
    if settings.batch_size is not None:
        options.append(f'train_dataloader.batch_size={settings.batch_size}')
    if settings.workers is not None:
        options.append(f'train_dataloader.num_workers={settings.workers}')
    if settings.grad_checkpointing:
        options.append('model.backbone.with_cp=True')
    if settings.precision == 'bf16':
        options.append('optim_wrapper.dtype=bfloat16')
    return tuple(options)


def _train(runner: Runner, watch: _Stopwatch) -> None:
    runner.register_hook(watch, 'VERY_HIGH')
    with suppress(_EnoughIterations):
        runner.train()


def _disk_bytes(runner: Runner, job: RunnerJob) -> int:
    """Return what a whole training writes: the config's checkpoints and one more, and weights."""
    checkpoint = max(path.stat().st_size for path in job.output.glob('*_*.pth'))
    kept = 0
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.interval > 0:
            length = runner.max_epochs if hook.by_epoch and by_epoch else runner.max_iters
            written = -(-length // hook.interval)
            kept += written if hook.max_keep_ckpts < 1 else min(written, hook.max_keep_ckpts + 1)
    weights = sum(tensor.nbytes for tensor in weights_of(runner.model).values())
    return (kept + 1) * checkpoint + weights


def _images(runner: Runner, step_images: int, settings: TrialSettings) -> tuple[int, int]:
    """Return how many images the whole training computes gradients of, and how many it evaluates.

    Args:
        step_images: images of an iteration of all processes.
    """
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        images, length = runner.max_epochs * settings.images['train'], runner.max_epochs
    else:
        images, length = runner.max_iters * step_images, runner.max_iters
    if runner.val_loop is None:
        return images, 0
    return images, length // runner.train_loop.val_interval * settings.images['val']
