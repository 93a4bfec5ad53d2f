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
    tensorboard/        the same scalars, if they were asked for
"""

import json
import time
from datetime import timedelta
from typing import Any

import pandas as pd
import timm
import torch
from tqdm import tqdm

from reproduce.base.errors import UserError
from reproduce.base.files import write_atomically
from reproduce.base.processes import Group, join
from reproduce.train import memory
from reproduce.train.classifier_steps import ClassifierTraining
from reproduce.train.jobs import TrainingJob
from reproduce.train.output_folder import (
    StepMeter,
    check_resumed,
    check_tensorboard,
    claimed,
    weights_file,
)
from reproduce.train.stopping import StopRequests, TrainingStopped
from reproduce.weights import parameters

# Steps between checks of the loss, for which the host waits for the device.
LOG_STEPS = 50

# fp16's first scale is 2 ** 16: 50 halvings in a row leave nothing of it.
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
    if job.recipe.token_labeling and job.labels is None:
        raise UserError(
            "token labeling needs the annotator's label maps: give their folder, or an archive of "
            "it, with --labels; 'python -m reproduce labels' makes them."
        )
    if job.labels is not None and not job.recipe.token_labeling:
        raise UserError('--labels is for token labeling only: add --token-labeling.')
    if job.tensorboard:
        check_tensorboard()
    with (
        join(job.device) as group,
        claimed(job.output, group),
        StopRequests(group, job.output) as stop,
    ):
        run = _Run(job, group, stop)
        run.run()
        return run.training.history


class _Run:
    """The epochs of a training, and the files that they leave behind."""

    def __init__(self, job: TrainingJob, group: Group, stop: StopRequests) -> None:
        self.job, self.recipe, self.group, self.stop = job, job.recipe, group, stop
        self.last_checkpoint = job.output / 'last.pth'
        check_resumed(job.output, self.last_checkpoint.exists(), job.resume)
        self.training = ClassifierTraining(job, group)
        self.meter = job.max_steps and StepMeter(group.device, self.recipe.batch_size)
        self.writer = None

    def run(self) -> None:
        """Train until the last epoch or step, and write what the folder gets at the end."""
        training, output = self.training, self.job.output
        if self.job.resume:
            training.restore(self.last_checkpoint)
            self._log(
                f'resumed after epoch {training.epoch} and {training.step} steps on '
                f'{self.group.size} processes'
            )
        else:
            self._begin()
        if self.job.tensorboard and self.group.rank == 0:
            # Not every installation has it, and it takes seconds to import.
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(output / 'tensorboard', purge_step=training.steps_done)
        while training.epoch < self.recipe.total_epochs:
            self._take_steps()
            if self.meter and training.steps_done >= self.job.max_steps:
                self._save()
                loss = training.mean_loss()
                if self.group.rank == 0:
                    self._write_weights('model.safetensors')
                    self.meter.write(output, loss)
                return
            self._end_epoch()
        self._summarize()
        if self.writer is not None:
            self.writer.close()

    def _take_steps(self) -> None:
        """Take the steps that are left of the epoch, or until `max_steps`."""
        training = self.training
        batches = tqdm(
            training.batches(),
            desc=f'epoch {training.epoch + 1}/{self.recipe.total_epochs}',
            total=training.steps_per_epoch,
            initial=training.step,
            leave=False,
            disable=True if self.group.rank else None,
        )
        for batch in batches:
            self._stop_if_asked()
            if self.meter:
                self.meter.tick()
            training.take_step(batch)
            if self.meter:
                self.meter.tick()
                if training.steps_done >= self.job.max_steps:
                    return
            if training.step % LOG_STEPS == 0:
                self._check_steps()
            more = training.step < training.steps_per_epoch
            if more and training.step % self.job.checkpoint_steps == 0:
                self._save()

    def _end_epoch(self) -> None:
        """Evaluate the epoch, log it, and save."""
        training, total = self.training, self.recipe.total_epochs
        row = {
            'epoch': training.epoch + 1,
            'lr': training.optimizer.param_groups[0]['lr'],
            'loss': training.mean_loss(),
            'skipped': self._check_steps(),
            'top1': training.top1(training.model, after_batch=self._stop_if_asked),
            'ema_top1': training.top1(training.ema.module, after_batch=self._stop_if_asked),
            'seconds': round(time.perf_counter() - training.begun, 2),
        }
        if self.writer is not None:
            for name, value in row.items():
                self.writer.add_scalar(f'epoch/{name}', value, training.steps_done)
            self.writer.flush()
        training.history.append(row)
        if self.group.rank == 0 and best_epoch(training.history) == row['epoch']:
            self._write_weights('best.safetensors')
        training.next_epoch()
        self._save()
        skipped = f', {row["skipped"]} steps skipped' if row['skipped'] else ''
        left = timedelta(seconds=round(row['seconds'] * (total - training.epoch)))
        self._log(
            f'epoch {training.epoch}/{total}: loss {row["loss"]:.4f}{skipped}, '
            f'top-1 {row["top1"]:.2f} %, averaged weights {row["ema_top1"]:.2f} %, '
            f'{row["seconds"]:.1f} s, {left} left'
        )

    def _check_steps(self) -> int:
        """Wait for the device, and return the number of skipped steps of the epoch.

        Raises:
            UserError: if `MOST_SKIPPED_IN_A_ROW` were skipped in a row.
        """
        training = self.training
        skipped, in_a_row = training.skipped_steps()
        if in_a_row >= MOST_SKIPPED_IN_A_ROW:
            raise UserError(
                f'the gradients of the last {in_a_row} steps were not finite, in epoch '
                f'{training.epoch + 1}: the last good state is in {self.last_checkpoint}; begin '
                'anew with a lower lr, or with --amp off.'
            )
        return skipped

    def _stop_if_asked(self) -> None:
        number = self.stop.agreed()
        if number is None:
            return
        training = self.training
        self._save()
        self.group.barrier()  # no rank ends before it is written
        sentence = (
            f'{number.name} came after {training.step} of {training.steps_per_epoch} steps of '
            f'epoch {training.epoch + 1}; {self.last_checkpoint} holds the state: continue with '
            'the same command and --resume.'
        )
        self._log(f'stopped: {sentence}')
        raise TrainingStopped(sentence, number)

    def _begin(self) -> None:
        """Write and log what is trained, and on what."""
        training = self.training
        splits = (training.train_data, training.val_data)
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
                    for data in splits
                },
                'labels': training.origin_of_labels,
                'processes': self.group.size,
                'precision': training.precision,
                'deterministic': self.job.deterministic,
                'torch': torch.__version__,
                'timm': timm.__version__,
            }
            self._write_json('recipe.json', record)
        for data in splits:
            state = 'complete' if data.complete else f'not ImageNet-1K: {"; ".join(data.problems)}'
            self._log(f'{data.split}: {len(data.samples):,} images, {state}')
        recipe, processes = self.recipe, self.group.size
        share = recipe.batch_size // (processes * recipe.accumulation)
        parts = f' x {recipe.accumulation} parts' if recipe.accumulation > 1 else ''
        self._log(
            f'batch {recipe.batch_size} = {processes} x {share}{parts}, learning rate '
            f'{recipe.scaled_lr:.4g}: {recipe.lr:.4g} at a batch of {recipe.lr_batch_size}; '
            f'{training.precision}'
        )
        if self.group.device.type == 'cuda' and self.group.rank == 0:
            gib = torch.cuda.get_device_properties(self.group.device).total_memory / memory.GIB
            images = recipe.batch_size // processes
            self._log(memory.sentence(recipe, images, training.precision, gib))

    def _summarize(self) -> None:
        """Write the last weights, and evaluate them and the best ones at every test crop."""
        training, summary = self.training, {}
        if self.group.rank == 0:
            self._write_weights('model.safetensors')
        last, best = training.history[-1]['epoch'], best_epoch(training.history)
        for name, file, epoch in (('last', 'model', last), ('best', 'best', best)):
            if epoch != last:
                parameters.load(training.ema.module, self.job.output / f'{file}.safetensors')
            top1 = {
                str(crop): training.top1(training.ema.module, crop)
                for crop in self.recipe.test_crops
            }
            summary[name] = {'file': f'{file}.safetensors', 'epoch': epoch, 'top1': top1}
            scores = ', '.join(f'{score:.2f} % at crop {crop}' for crop, score in top1.items())
            self._log(f'averaged weights of the {name} epoch, {epoch}: top-1 {scores}')
        if self.group.rank == 0:
            self._write_json('summary.json', summary)

    def _save(self) -> None:
        self.training.save(self.last_checkpoint)
        if self.group.rank == 0 and self.training.history:
            text = pd.DataFrame(self.training.history).to_csv(index=False)
            write_atomically(self.job.output / 'log.csv', text)

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
        write_atomically(self.job.output / name, weights_file(weights, metadata))

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self.job.output / name, json.dumps(content, indent=2) + '\n')

    def _log(self, line: str) -> None:
        if self.group.rank == 0:
            tqdm.write(line)
            with (self.job.output / 'train.log').open('a') as file:
                file.write(line + '\n')


def best_epoch(history: list[dict[str, float]]) -> int:
    """Return the first epoch whose averaged weights scored best, counted from 1."""
    return max(history, key=lambda row: row['ema_top1'])['epoch']
