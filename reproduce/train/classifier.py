"""Training a classifier: one process or several, interrupted or not, the same curve.

An output folder holds

    recipe.json         the recipe, the data it ran on and what was scaled
    train.log           what was decided, and a line for each epoch
    log.csv             a row for each epoch
    last.pth            all that a resumed training needs, written after every epoch, in long ones
                        every few hundred steps too, and when the training is asked to stop
    best.safetensors    the averaged weights of the epoch in which they scored best
    model.safetensors   the averaged weights of the last epoch, when the training is over
    summary.json        the Top-1 of both, at each of the recipe's test crops
    curve.png           loss and accuracy over the epochs
    tensorboard/        the same scalars and those of single steps, if they were asked for
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
import torch.nn as nn
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from reproduce.base.errors import UserError
from reproduce.base.files import hash_of, write_atomically
from reproduce.base.loading import check_workers
from reproduce.base.processes import join
from reproduce.train.classifier_steps import ClassifierTraining
from reproduce.train.curve import Panel, draw
from reproduce.train.jobs import TrainingJob
from reproduce.train.output_folder import claimed
from reproduce.train.recipes import Recipe
from reproduce.train.step_meter import MaxStepsReached, StepMeter
from reproduce.train.stopping import StopRequests, TrainingStopped
from reproduce.train.tensorboard import check_installed, open_writer
from reproduce.train.weights_file import to_bytes

# The device is waited for every so many steps, to see how it stands and to write a log.
LOG_STEPS = 50

# fp16's first scale is 2 ** 16: after so many halvings in a row it is not the scale.
MOST_SKIPPED_IN_A_ROW = 50


def train(job: TrainingJob) -> list[dict[str, float]]:
    """Train in this process, or in the ranks that it is one of.

    Returns:
        the log: a row for each epoch, those before a resumption too.

    Raises:
        UserError: if the job does not fit the data, the machine or what `output` holds already,
            an image or a label map cannot be read, or the gradients are no longer finite.
        TrainingStopped: if SIGTERM or SIGUSR1 asked for it.
    """
    _check_options(job)
    with (
        join(job.device) as group,
        claimed(job.output, group),
        StopRequests(group, job.output) as stop,
    ):
        _check_output(job)
        group.check_same(lambda: _facts(job))
        training = ClassifierTraining(job, group)
        with suppress(MaxStepsReached):
            _Run(job, training, stop).run()
        return training.history


def _facts(job: TrainingJob) -> dict[str, Any]:
    """Return what the command decides, by name; `ClassifierTraining` checks the rest."""
    return {
        'command': 'train imagenet',
        'resume': job.resume,
        'until': job.until,
        'checkpoint_steps': job.checkpoint_steps,
        'last.pth': hash_of(job.output / 'last.pth') if job.resume else None,
        'max_steps': job.max_steps,
    }


def _check_options(job: TrainingJob) -> None:
    """Check that the options of the job are consistent."""
    if job.recipe.token_labeling and job.labels is None:
        raise UserError(
            "token labeling needs the annotator's label maps: give their folder, or an archive of "
            "it, with --labels; 'python -m reproduce labels' makes them."
        )
    if job.labels is not None and not job.recipe.token_labeling:
        raise UserError('--labels is for token labeling only: add --token-labeling or leave it.')
    check_workers(job.workers)
    if job.tensorboard:
        check_installed()


def _check_output(job: TrainingJob) -> None:
    """Check that the output folder is empty, or holds what is to be resumed."""
    last = job.output / 'last.pth'
    if last.exists() and not job.resume:
        raise UserError(
            f'{job.output} holds a training already: add --resume to continue it, or name another '
            'folder.'
        )
    if job.resume and not last.exists():
        raise UserError(f'there is no {last} to resume: leave out --resume to begin.')


class _Run:
    """The epochs of a training, and the files that they leave behind."""

    def __init__(self, job: TrainingJob, training: ClassifierTraining, stop: StopRequests) -> None:
        self.job, self.training, self.stop = job, training, stop
        self.group, self.recipe = training.group, training.recipe
        self.last_checkpoint = job.output / 'last.pth'
        self.writer = None
        self.meter = job.max_steps and StepMeter(self.group.device, self.recipe.batch_size)

    def run(self) -> None:
        training, last = self.training, self.recipe.total_epochs
        if self.job.resume:
            training.restore(self.last_checkpoint)
            self._log(
                f'resumed after epoch {training.epoch} and {training.step} steps on '
                f'{self.group.size} processes'
            )
        else:
            self._begin()
        if self.job.tensorboard and self.group.rank == 0:
            done = training.epoch * training.steps_per_epoch + training.step
            self.writer = open_writer(self.job.output / 'tensorboard', done)
        stop = min(last, self.job.until or last)
        while training.epoch < stop:
            row = self._run_epoch()
            training.history.append(row)
            self._keep_best()
            training.next_epoch()
            self._save()
            skipped = f', {row["skipped"]} steps skipped' if row['skipped'] else ''
            left = timedelta(seconds=round(row['seconds'] * (stop - training.epoch)))
            self._log(
                f'epoch {training.epoch}/{last}: loss {row["loss"]:.4f}{skipped}, '
                f'top-1 {row["top1"]:.2f} %, averaged weights {row["ema_top1"]:.2f} %, '
                f'{row["seconds"]:.1f} s, {left} left'
            )
        if self.group.rank == 0:
            plot(training.history, self.job.output / 'curve.png')
        if training.epoch == last:
            self._finish()
        if self.writer is not None:
            self.writer.close()

    def _run_epoch(self) -> dict[str, float]:
        """Train what is left of the epoch, and return its row of the log."""
        training = self.training
        begun = time.perf_counter() - training.seconds
        bar = tqdm(
            desc=f'epoch {training.epoch + 1}/{self.recipe.total_epochs}',
            total=training.steps_per_epoch,
            initial=training.step,
            leave=False,
            disable=True if self.group.rank else None,
        )
        with bar:
            for batch in training.batches():
                self._stop_if_asked(begun)
                if self.meter:
                    self.meter.begin()
                training.take_step(batch)
                bar.update()
                if self.meter:
                    self._measure(training.epoch * training.steps_per_epoch + training.step)
                if training.step % LOG_STEPS == 0:
                    self._look()
                more = training.step < training.steps_per_epoch
                if more and training.step % self.job.checkpoint_steps == 0:
                    training.seconds = time.perf_counter() - begun
                    self._save()
        skipped = self._look()
        loss = training.mean_loss()
        evaluate = training.top1

        def stop_if_asked() -> None:
            self._stop_if_asked(begun)

        row = {
            'epoch': training.epoch + 1,
            'lr': training.optimizer.param_groups[0]['lr'],
            'loss': loss,
            'top1': evaluate(training.model, after_batch=stop_if_asked),
            'ema_top1': evaluate(training.ema.module, after_batch=stop_if_asked),
            'skipped': skipped,
            'seconds': round(time.perf_counter() - begun, 2),
        }
        if self.writer is not None:
            step = (training.epoch + 1) * training.steps_per_epoch
            for name in ('loss', 'top1', 'ema_top1', 'skipped'):
                self.writer.add_scalar(f'epoch/{name}', row[name], step)
            self.writer.flush()
        return row

    def _measure(self, done: int) -> None:
        """Measure a step, and end the training if it is the last of `max_steps`."""
        total, count = self.training.losses
        self.meter.end(total / count)
        if done >= self.job.max_steps:
            self._save()
            if self.group.rank == 0:
                self._write_weights('model.safetensors')
                self.meter.write(self.job.output)
            raise MaxStepsReached

    def _look(self) -> int:
        """Wait for the device, and return the number of skipped steps of the epoch.

        Raises:
            UserError: if so many were skipped in a row that the loss will not become finite again.
        """
        training = self.training
        skipped, in_a_row = training.skipped_steps()
        if in_a_row >= MOST_SKIPPED_IN_A_ROW:
            raise UserError(
                f'the gradients of the last {in_a_row} steps were not finite, in epoch '
                f'{training.epoch + 1}: the last good state is in {self.last_checkpoint}; begin '
                'anew with a lower lr, or with --amp off.'
            )
        if self.writer is not None:
            step = training.epoch * training.steps_per_epoch + training.step
            total, count = training.losses.tolist()
            if count:
                self.writer.add_scalar('step/mean_loss_of_epoch', total / count, step)
            self.writer.add_scalar('step/lr', training.optimizer.param_groups[0]['lr'], step)
            self.writer.add_scalar('step/loss_scale', training.scaler.get_scale(), step)
            self.writer.add_scalar('step/skipped', skipped, step)
        return skipped

    def _stop_if_asked(self, begun: float) -> None:
        number = self.stop.agreed()
        if number is None:
            return
        training = self.training
        training.seconds = time.perf_counter() - begun
        self._save()
        self.group.barrier()  # no rank ends before it is written
        sentence = (
            f'{number.name} came after {training.step} of {training.steps_per_epoch} steps of '
            f'epoch {training.epoch + 1}; {self.last_checkpoint} holds the state: go on with the '
            'same command and --resume.'
        )
        self._log(f'stopped: {sentence}')
        raise TrainingStopped(sentence).by(number)

    def _begin(self) -> None:
        training = self.training
        if self.group.rank == 0:
            (self.job.output / 'train.log').write_text('')
            record = {
                'recipe': self.recipe.model_dump(),
                'scaled_lr': self.recipe.scaled_lr,
                'data': {
                    data.split: {
                        'images': len(data.samples),
                        'classes': len(data.classes),
                        'fingerprint': data.fingerprint,
                        'problems': data.problems,
                    }
                    for data in (training.train_data, training.val_data)
                },
                'labels': training.origin_of_labels,
                'processes': self.group.size,
                'precision': training.precision,
                'torch': torch.__version__,
                'timm': timm.__version__,
            }
            text = json.dumps(record, indent=2)
            write_atomically(self.job.output / 'recipe.json', text + '\n')
        for data in (training.train_data, training.val_data):
            state = 'complete' if data.complete else f'not ImageNet-1K: {"; ".join(data.problems)}'
            self._log(f'{data.split}: {len(data.samples):,} images, {state}')
        self._log(f'{scaling(self.recipe, self.group.size)}; {training.precision}')

    def _save(self) -> None:
        self.training.save(self.last_checkpoint)
        if self.group.rank == 0 and self.training.history:
            text = pd.DataFrame(self.training.history).to_csv(index=False)
            write_atomically(self.job.output / 'log.csv', text)

    def _keep_best(self) -> None:
        """Write the averaged weights if they scored best in the epoch that has just ended."""
        history = self.training.history
        if self.group.rank == 0 and best_epoch(history) == history[-1]['epoch']:
            self._write_weights('best.safetensors')

    def _finish(self) -> None:
        """Write the last weights, and evaluate them and the best ones at every test crop."""
        training = self.training
        epoch, best = training.history[-1]['epoch'], best_epoch(training.history)
        if self.group.rank == 0:
            self._write_weights('model.safetensors')
        crops = self.recipe.test_crops
        model = training.ema.module
        summary = {'last': _summary('model.safetensors', epoch, crops, training.top1, model)}
        if best != epoch:
            path = self.job.output / 'best.safetensors'
            if not path.is_file():
                raise UserError(
                    f'{path} is gone, so its weights cannot be evaluated: the last ones are in '
                    f'{path.with_name("model.safetensors")}.'
                )
            try:
                model.load_state_dict(load_file(path))
            except (OSError, RuntimeError, SafetensorError) as error:
                raise UserError(
                    f'{path} is damaged, so its weights cannot be evaluated: the last ones are in '
                    f'{path.with_name("model.safetensors")}.'
                ) from error
        summary['best'] = _summary('best.safetensors', best, crops, training.top1, model)
        for name, weights in summary.items():
            scores = ', '.join(f'{top1:.2f} % at crop {c}' for c, top1 in weights['top1'].items())
            self._log(f'averaged weights of the {name} epoch, {weights["epoch"]}: top-1 {scores}')
        if self.group.rank == 0:
            text = json.dumps(summary, indent=2)
            write_atomically(self.job.output / 'summary.json', text + '\n')

    def _write_weights(self, name: str) -> None:
        """Write the averaged weights, and in the file's metadata what makes their model."""
        training = self.training
        weights = {k: v.contiguous().cpu() for k, v in training.ema.module.state_dict().items()}
        metadata = {
            'model': self.recipe.model,
            'num_classes': str(len(training.train_data.classes)),
            'token_labeling': str(self.recipe.token_labeling).lower(),
            'img_size': str(self.recipe.img_size),
            'crop_pct': str(self.recipe.test_crops[0]),
            'epoch': str(len(training.history)),
            'recipe': self.recipe.model_dump_json(),
        }
        path = self.job.output / name
        write_atomically(path, to_bytes(weights, metadata))

    def _log(self, line: str) -> None:
        if self.group.rank == 0:
            tqdm.write(line)
            with (self.job.output / 'train.log').open('a') as file:
                file.write(line + '\n')


def best_epoch(history: list[dict[str, float]]) -> int:
    """Return the first epoch whose averaged weights scored best, counted from 1."""
    return max(history, key=lambda row: row['ema_top1'])['epoch']


def _summary(
    file: str,
    epoch: int,
    crops: tuple[float, ...],
    top1: Callable[[nn.Module, float], float],
    model: nn.Module,
) -> dict[str, Any]:
    return {'file': file, 'epoch': epoch, 'top1': {str(crop): top1(model, crop) for crop in crops}}


def scaling(recipe: Recipe, processes: int) -> str:
    """Return a sentence on the batch and the learning rate, and how they were scaled."""
    share = recipe.batch_size // (processes * recipe.accumulation)
    parts = f' x {recipe.accumulation} parts' if recipe.accumulation > 1 else ''
    batch = f'batch {recipe.batch_size} = {processes} x {share}{parts}'
    rate = f'learning rate {recipe.scaled_lr:.4g}'
    if recipe.batch_size == recipe.lr_batch_size:
        return f"{batch}, {rate}: the recipe's own, nothing was scaled"
    return (
        f'{batch}, {rate}: scaled with the batch from {recipe.lr:.4g} at {recipe.lr_batch_size} '
        f'(x {recipe.batch_size / recipe.lr_batch_size:.4g})'
    )


def plot(history: list[dict[str, float]], path: Path) -> None:
    """Draw loss and accuracy over the epochs into the picture at `path`."""
    log = pd.DataFrame(history)
    accuracies = {'weights': log['top1'], 'averaged weights': log['ema_top1']}
    panels = [
        Panel('epoch', 'training loss', {'loss': (log['epoch'], log['loss'])}),
        Panel('epoch', 'Top-1 (%)', {name: (log['epoch'], y) for name, y in accuracies.items()}),
    ]
    draw(panels, path)
