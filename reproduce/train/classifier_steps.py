"""A classifier's training in pieces: build it, take steps, evaluate, save and resume.

Everything random is seeded anew from (seed, epoch, step, process) before each step, and from
(seed, epoch, image, repeat) for each image. A saved training therefore needs no generator's state
to continue exactly as if it had not stopped, in the middle of an epoch too.
"""

import io
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pandas as pd
import torch
import torch.nn as nn
from timm.data import resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel

from datasets.imagenet import load
from datasets.subset import Split
from model.checkpoint import failure
from reproduce.base.errors import UserError
from reproduce.base.files import hash_of, write_atomically
from reproduce.base.gpus import check_precision, use_deterministic_algorithms
from reproduce.base.loading import Loader, default_workers
from reproduce.base.processes import Group
from reproduce.base.versions import code_facts
from reproduce.evaluate.harness import data_facts
from reproduce.tasks.job import autocast
from reproduce.train.building import Batch, build, targets_of
from reproduce.train.images import TrainingBatches, TrainingImages, ValidationImages
from reproduce.train.jobs import TrainingJob
from reproduce.train.output_folder import check_resumed, weights_file
from reproduce.train.recipes import Recipe
from reproduce.train.seeds import seed_everything
from reproduce.train.stopping import StopRequests, TrainingStopped, survive_signals
from reproduce.train.token_labeling import open_label_maps, origin

# What is saved of a training besides numbers.
_STATEFUL = ('model', 'ema', 'optimizer', 'scheduler', 'scaler')

# A training may be resumed with other values of these: they decide what fits into memory.
_OF_THE_MACHINE = ('grad_checkpointing', 'accumulation')


class ClassifierTraining:
    """A classifier, its data, and everything that changes while it is trained.

    Attributes:
        epoch, step: the epoch that is being trained, from 0, and its steps that are done.
        history: the log, a row for each epoch.

    Raises:
        UserError: if recipe, data, processes and output folder do not fit each other, or the
            recipe's model cannot be built.
    """

    def __init__(self, job: TrainingJob, group: Group, stop: StopRequests | None = None) -> None:
        self.job, self.group, self.stop, self.recipe = job, group, stop, job.recipe
        recipe, device = job.recipe, group.device
        self.checkpoint = job.output / 'last.pth'
        check_resumed(job.output, self.checkpoint.exists(), job.resume)
        self.workers = default_workers() if job.workers is None else job.workers
        default = 'off'
        if device.type == 'cuda':
            # V100 has no bf16; torch would emulate it.
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            default = 'bf16' if native else 'fp16'
        self.precision = (job.amp or default).replace('off', 'fp32')
        check_precision(device, self.precision)
        maps = job.labels and open_label_maps(job.labels)
        self.train_data = load(job.data, 'train', job.train_images)
        self.val_data = load(job.data, 'val', job.val_images)
        self.origin_of_labels = maps and origin(maps, complete=True)
        _check_data(self.train_data, self.val_data, recipe, group.size)
        group.check_same(
            lambda: {
                **code_facts(),
                **self._settings(),
                **data_facts(self.train_data),
                **data_facts(self.val_data),
                'device': device.type,
                'resumed checkpoint': job.resume and hash_of(self.checkpoint),
                'options': (job.deterministic, job.checkpoint_steps, job.max_steps),
            }
        )
        num_classes = len(self.train_data.classes)
        # The shapes of convolutions do not change from step to step.
        torch.backends.cudnn.benchmark = True
        if job.deterministic:
            use_deterministic_algorithms()
        seed_everything(recipe.seed)
        self.model = build(recipe, num_classes).to(device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay)
        self.network: nn.Module = self.model
        if group.size > 1:
            self.network = DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        # The fused optimizer skips a step whose gradients are not finite without asking the host.
        self.optimizer = create_optimizer_v2(
            self.model, 'adamw', lr=recipe.scaled_lr, weight_decay=recipe.weight_decay, fused=True
        )
        dynamic = self.precision == 'fp16'
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2**16 if dynamic else 1)
        self.fixed_scale = None if dynamic else 1.0
        self.config = {
            **resolve_data_config({}, model=self.model),
            'input_size': (3, recipe.img_size, recipe.img_size),
        }
        self.targets = targets_of(recipe, self.model, num_classes)
        self.order = TrainingBatches(len(self.train_data.samples), recipe, group.rank, group.size)
        self.steps_per_epoch = len(self.order)
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            'cosine',
            num_epochs=recipe.epochs,
            warmup_epochs=recipe.warmup_epochs,
            warmup_lr=min(recipe.warmup_lr, recipe.scaled_lr),
            min_lr=min(recipe.min_lr, recipe.scaled_lr),
            cooldown_epochs=recipe.cooldown_epochs,
            step_on_epochs=False,
            updates_per_epoch=self.steps_per_epoch,
        )
        images = TrainingImages(self.train_data, recipe, self.config, maps, job.in_memory)
        self.loader = self._loader(images, batch_sampler=self.order)
        images = ValidationImages(
            self.val_data.samples, {**self.config, 'crop_pct': recipe.test_crops[0]}
        )
        size = max(1, recipe.batch_size // (group.size * recipe.accumulation))
        sampler = range(group.rank, len(images), group.size)
        self.val_loader = self._loader(images, batch_size=size, sampler=sampler)
        self.epoch = self.step = 0
        self.begun = time.perf_counter()
        self.history: list[dict[str, float]] = []
        # Of the steps of the epoch whose gradients were finite: the sum of this process's losses,
        # and their number.
        self.losses = torch.zeros(2, dtype=torch.float64, device=device)

    @property
    def steps_done(self) -> int:
        """The number of steps of all epochs that are done."""
        return self.epoch * self.steps_per_epoch + self.step

    def batches(self) -> Iterator[Batch]:
        """Yield this process's share of the batches that are left of the epoch."""
        self.order.epoch, self.order.first = self.epoch, self.step
        yield from self.loader

    def take_step(self, batch: Batch) -> None:
        """Change the weights by one step of the optimizer, and count it.

        A step whose gradients are not finite changes nothing but the scale of the loss: in fp16
        that is how a scale that is too large is found. Nothing here waits for the device.
        """
        seed_everything(self.recipe.seed, self.epoch, self.step, self.group.rank)
        self.scheduler.step_update(self.steps_done)
        if not self.model.training:
            self.network.train()
        self.optimizer.zero_grad()
        count = self.recipe.accumulation
        parts = {
            name: value.to(self.group.device, non_blocking=True).chunk(count)
            for name, value in batch.items()
        }
        total = torch.zeros((), device=self.group.device)
        for number, part in enumerate(zip(*parts.values(), strict=True), 1):
            # Gradients are summed over the processes once, with the last part.
            alone = self.group.size > 1 and number < count
            with self.network.no_sync() if alone else nullcontext():
                images, loss_of = self.targets(dict(zip(parts, part, strict=True)))
                with autocast(self.group.device, self.precision):
                    output = self.network(images)
                loss = loss_of(output) / count
                self.scaler.scale(loss).backward()
            total += loss.detach()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        # Of summed gradients, so it is the same in all processes.
        finite = torch.isfinite(torch.nn.utils.get_total_norm(gradients))
        self.scaler.step(self.optimizer)
        self.scaler.update(self.fixed_scale)
        self.ema.update(self.model)
        self.losses += torch.where(finite, torch.stack([total, torch.ones_like(total)]), 0.0)
        self.step += 1

    def end_epoch(self) -> dict[str, float]:
        """Evaluate the epoch, begin the next one, and save; return the epoch's row of the log."""
        loss, taken = self.loss_and_steps()
        if not taken:
            raise UserError(
                f'no step of epoch {self.epoch + 1} had finite gradients: begin anew with a lower '
                'lr, or with --amp off.'
            )
        row = {
            'epoch': self.epoch + 1,
            'lr': self.optimizer.param_groups[0]['lr'],
            'loss': loss,
            'skipped': self.step - taken,
            'top1': self.top1(self.model),
            'ema_top1': self.top1(self.ema.module),
            'seconds': round(time.perf_counter() - self.begun, 2),
        }
        self.history.append(row)
        if all(row['ema_top1'] > earlier['ema_top1'] for earlier in self.history[:-1]):
            self.write_weights('best.safetensors')
        self.epoch, self.step, self.begun = self.epoch + 1, 0, time.perf_counter()
        self.losses.zero_()
        self.save()
        return row

    def loss_and_steps(self) -> tuple[float, int]:
        """Return the mean loss of the epoch over all processes, and its steps that were taken."""
        loss, taken = (self.group.add(self.losses.clone()) / self.group.size).tolist()
        return loss / taken if taken else float('nan'), int(taken)

    @torch.inference_mode()
    def top1(self, model: nn.Module) -> float:
        """Return the Top-1 of `model` on the validation images in percent, each exactly once."""
        model.eval()
        images, device = len(self.val_data.samples), self.group.device
        # Batches that all processes have, after which they may stop.
        shared = images // self.group.size // self.val_loader.batch_size
        correct = torch.zeros((), dtype=torch.int64, device=device)
        for number, (inputs, labels) in enumerate(self.val_loader):
            if number < shared:
                self.stop_if_asked()
            with autocast(device, self.precision):
                logits = model(inputs.to(device, non_blocking=True))
            correct += (logits.argmax(1) == labels.to(device, non_blocking=True)).sum()
        return 100 * self.group.add(correct).item() / images

    def save(self) -> None:
        """Write all that a resumed training needs, and the log; all processes call it."""
        losses = self.group.add(self.losses.clone()) / self.group.size
        if self.group.rank:
            return
        state = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        state |= {name: getattr(self, name) for name in ('epoch', 'step', 'history')}
        state |= {'seconds': time.perf_counter() - self.begun, 'losses': losses}
        state['settings'] = json.dumps(self._settings())
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.checkpoint, buffer.getbuffer())
        if self.history:
            text = pd.DataFrame(self.history).to_csv(index=False)
            write_atomically(self.job.output / 'log.csv', text)

    def restore(self) -> None:
        """Continue from the state that was saved.

        Raises:
            UserError: if the file cannot be read, or is of another recipe, other images or
                other label maps.
        """
        path = self.checkpoint
        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
        except Exception as error:  # torch raises half a dozen types here
            raise UserError(f'{path} cannot be resumed: {failure(error)}.') from error
        before, now = json.loads(state['settings']), json.loads(json.dumps(self._settings()))
        for name in now:
            if name not in _OF_THE_MACHINE and now[name] != before.get(name):
                raise UserError(
                    f'{path} was trained with {name} = {before.get(name)}, not {now[name]}: resume '
                    'with the same, or begin in another folder.'
                )
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.losses.copy_(state['losses'])
        self.epoch, self.step, self.history = state['epoch'], state['step'], state['history']
        self.begun = time.perf_counter() - state['seconds']

    def _settings(self) -> dict[str, Any]:
        """Return what has to be the same when the training is resumed."""
        return {
            **self.recipe.model_dump(mode='json'),
            'precision': self.precision,
            'images': self.train_data.fingerprint,
            'label maps': self.origin_of_labels,
        }

    def stop_if_asked(self) -> None:
        """Save and raise `TrainingStopped` if a signal asks for it; all processes call it."""
        number = self.stop and self.stop.agreed()
        if number:
            self.save()
            self.group.barrier()  # no rank ends before it is written
            raise TrainingStopped(
                f'{number.name} came after {self.step} of {self.steps_per_epoch} steps of epoch '
                f'{self.epoch + 1}; {self.checkpoint} holds the state: continue with the same '
                'command and --resume.',
                number,
            )

    def write_weights(self, name: str) -> None:
        """Write the averaged weights, and in the file's metadata what makes their model."""
        if self.group.rank:
            return
        weights = {k: v.contiguous().cpu() for k, v in self.ema.module.state_dict().items()}
        metadata = {
            'model': self.recipe.model,
            'num_classes': str(len(self.train_data.classes)),
            'token_labeling': str(self.recipe.token_labeling).lower(),
            'img_size': str(self.recipe.img_size),
            'crop_pct': str(self.recipe.test_crops[0]),
            'epoch': str(len(self.history)),
            'recipe': self.recipe.model_dump_json(),
        }
        write_atomically(self.job.output / name, weights_file(weights, metadata))

    def _loader(self, images: Any, **options: Any) -> Loader:
        return Loader(
            images,
            num_workers=self.workers,
            worker_init_fn=survive_signals,
            pin_memory=self.group.device.type == 'cuda',
            persistent_workers=self.workers > 0,
            **options,
        )


def _check_data(train: Split, val: Split, recipe: Recipe, processes: int) -> None:
    if train.classes != val.classes:
        raise UserError(f'train and val of {train.root} do not have the same classes.')
    if len(train.samples) < recipe.batch_size:
        raise UserError(
            f'{len(train.samples)} training images do not fill a batch of {recipe.batch_size}: '
            'lower batch_size.'
        )
    pairs = 2 * processes * recipe.accumulation
    if recipe.batch_size % pairs:
        raise UserError(
            f'a batch of {recipe.batch_size} cannot be mixed in pairs on {processes} processes in '
            f'{recipe.accumulation} parts: choose a batch_size that {pairs} divides.'
        )
