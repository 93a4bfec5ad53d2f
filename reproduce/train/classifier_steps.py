"""A classifier's training in pieces: build it, take steps, evaluate, save and resume.

Everything random is seeded anew from (seed, epoch, step, process) before each step, and from
(seed, epoch, image, repeat) for each image. A saved training therefore needs no generator's state
to continue exactly as if it had not stopped, in the middle of an epoch too.
"""

import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

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
from reproduce.train.recipes import Recipe
from reproduce.train.seeds import seed_everything
from reproduce.train.stopping import survive_signals
from reproduce.train.token_labeling import open_label_maps, origin

# A training may be resumed with other values of these: they decide what fits into memory.
_OF_THE_MACHINE = ('grad_checkpointing', 'accumulation')


class ClassifierTraining:
    """A classifier, its data, and everything that changes while it is trained.

    Attributes:
        epoch, step: the epoch that is being trained, from 0, and its steps that are done.
        begun: when the epoch was begun, on the clock of `time.perf_counter`; a resumed training
            counts the time that it took before.
        history: what was measured at the end of each epoch; kept here so that it is saved.

    Raises:
        UserError: if recipe, data and processes do not fit each other, or the recipe's model cannot
            be built.
    """

    def __init__(self, job: TrainingJob, group: Group) -> None:
        recipe = job.recipe
        self.recipe, self.group = recipe, group
        self.workers = default_workers() if job.workers is None else job.workers
        default = 'off'
        if group.device.type == 'cuda':
            # V100 has no bf16; torch would emulate it.
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            default = 'bf16' if native else 'fp16'
        self.precision = (job.amp or default).replace('off', 'fp32')
        check_precision(group.device, self.precision)
        maps = job.labels and open_label_maps(job.labels)
        self.train_data = load(job.data, 'train', job.train_images)
        self.val_data = load(job.data, 'val', job.val_images)
        self.origin_of_labels = maps and origin(maps, complete=True)
        _check_data(self.train_data, self.val_data, recipe, group.size)
        group.check_same(
            lambda: {
                'command': 'train imagenet',
                **code_facts(),
                **recipe.model_dump(),
                'precision': self.precision,
                'device': group.device.type,
                '--deterministic': job.deterministic,
                **data_facts(self.train_data),
                **data_facts(self.val_data),
                'origin of the label maps': self.origin_of_labels,
                'resumed checkpoint': job.resume and hash_of(job.output / 'last.pth'),
                '--checkpoint-steps': job.checkpoint_steps,
                '--max-steps': job.max_steps,
            }
        )
        num_classes = len(self.train_data.classes)
        # The shapes of convolutions do not change from step to step.
        torch.backends.cudnn.benchmark = True
        if job.deterministic:
            use_deterministic_algorithms()
        seed_everything(recipe.seed)
        self.model = build(recipe, num_classes).to(group.device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay)
        self.network: nn.Module = self.model
        if group.size > 1:
            self.network = DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        # The fused optimizer skips a step whose gradients are not finite without asking the host.
        self.optimizer = create_optimizer_v2(
            self.model, 'adamw', lr=recipe.scaled_lr, weight_decay=recipe.weight_decay, fused=True
        )
        dynamic = self.precision == 'fp16'
        self.scaler = torch.amp.GradScaler(group.device.type, init_scale=2**16 if dynamic else 1)
        self.fixed_scale = None if dynamic else 1.0
        self.config = {
            **resolve_data_config({}, model=self.model),
            'input_size': (3, recipe.img_size, recipe.img_size),
        }
        self.targets = targets_of(recipe, self.model, num_classes)
        images = len(self.train_data.samples)
        self.order = TrainingBatches(images, recipe, group.rank, group.size)
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
        self.loader = self._loader(
            TrainingImages(self.train_data, recipe, self.config, maps, job.in_memory),
            batch_sampler=self.order,
        )
        self.val_loaders: dict[float, Loader] = {}
        self.epoch = self.step = 0
        self.begun = time.perf_counter()
        self.history: list[dict[str, float]] = []
        # The sum of this process's finite losses in the epoch, and their number.
        self.losses = torch.zeros(2, dtype=torch.float64, device=group.device)
        # The steps of the epoch that were skipped, and how many of them were the last in a row.
        self.skipped = torch.zeros(2, dtype=torch.int64, device=group.device)

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
        that is how a scale that is too large is found. `mean_loss` and `skipped_steps` say how
        often. Nothing here waits for the device.
        """
        seed_everything(self.recipe.seed, self.epoch, self.step, self.group.rank)
        self.scheduler.step_update(self.steps_done)
        if not self.model.training:
            self.network.train()
        self.optimizer.zero_grad()
        parts = self._parts(batch)
        total = torch.zeros((), device=self.group.device)
        for number, part in enumerate(parts, 1):
            # Gradients are summed over the processes once, with the last part.
            alone = self.group.size > 1 and number < len(parts)
            with self.network.no_sync() if alone else nullcontext():
                images, loss_of = self.targets(part)
                with self._autocast():
                    output = self.network(images)
                loss = loss_of(output) / len(parts)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        # Of summed gradients, so it is the same in all processes.
        skipped = ~torch.isfinite(torch.nn.utils.get_total_norm(gradients))
        self.scaler.step(self.optimizer)
        self.scaler.update(self.fixed_scale)
        self.ema.update(self.model)
        finite = torch.isfinite(total)
        self.losses += torch.stack([torch.where(finite, total, 0.0), finite.float()])
        in_a_row = torch.where(skipped, self.skipped[1] + 1, 0)
        self.skipped = torch.stack([self.skipped[0] + skipped, in_a_row])
        self.step += 1

    def skipped_steps(self) -> tuple[int, int]:
        """Return the number of skipped steps of the epoch, and of those that were last in a row."""
        total, in_a_row = self.skipped.tolist()
        return total, in_a_row

    def mean_loss(self) -> float:
        """Return the mean finite loss of the epoch over all processes, which call it; or NaN."""
        total, count = self.group.add(self.losses.clone()).tolist()
        return total / count if count else float('nan')

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch, self.step, self.begun = self.epoch + 1, 0, time.perf_counter()
        self.losses.zero_()
        self.skipped[0] = 0

    @torch.inference_mode()
    def top1(
        self,
        model: nn.Module,
        crop: float | None = None,
        after_batch: Callable[[], None] = lambda: None,
    ) -> float:
        """Return the Top-1 of `model` on the validation images in percent, each exactly once.

        Args:
            model: this training's model, or its average `ema.module`.
            crop: side of the centre crop over the image's short side; None takes the first of the
                recipe's.
            after_batch: called after each batch that all processes have.
        """
        model.eval()
        crop = crop or self.recipe.test_crops[0]
        images, processes, device = len(self.val_data.samples), self.group.size, self.group.device
        size = max(1, self.recipe.batch_size // (processes * self.recipe.accumulation))
        if crop not in self.val_loaders:
            self.val_loaders[crop] = self._loader(
                ValidationImages(self.val_data, {**self.config, 'crop_pct': crop}),
                batch_size=size,
                sampler=range(self.group.rank, images, processes),
            )
        correct = torch.zeros((), dtype=torch.int64, device=device)
        for number, (inputs, labels) in enumerate(self.val_loaders[crop], 1):
            with self._autocast():
                logits = model(inputs.to(device, non_blocking=True))
            correct += (logits.argmax(1) == labels.to(device, non_blocking=True)).sum()
            if number <= images // processes // size:
                after_batch()
        return 100 * self.group.add(correct).item() / images

    def save(self, path: Path) -> None:
        """Write all that a resumed training needs to `path`; all processes call it."""
        losses = self.group.add(self.losses.clone())
        if self.group.rank:
            return
        state = {
            'model': self.model.state_dict(),
            'ema': self.ema.module.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'scheduler': self.scheduler.state_dict(),
            'scaler': self.scaler.state_dict(),
            'epoch': self.epoch,
            'step': self.step,
            'seconds': time.perf_counter() - self.begun,
            'losses': losses,
            'skipped': self.skipped.cpu(),
            'history': self.history,
            'recipe': self.recipe.model_dump_json(),
            'data': self.train_data.fingerprint,
            'labels': json.dumps(self.origin_of_labels),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(path, buffer.getbuffer())

    def restore(self, path: Path) -> None:
        """Continue from the state that was saved to `path`.

        Raises:
            UserError: if the file cannot be read, or is of another recipe, other images or
                other label maps.
        """
        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
            before = Recipe.model_validate_json(state['recipe']).model_dump(mode='json')
            before |= {'images': state['data'], 'label maps': json.loads(state['labels'])}
            now = self.recipe.model_dump(mode='json')
            now |= {'images': self.train_data.fingerprint, 'label maps': self.origin_of_labels}
            for name in now:
                if name not in _OF_THE_MACHINE and now[name] != before[name]:
                    raise UserError(
                        f'{path} was trained with {name} = {before[name]}, not {now[name]}: resume '
                        'with the same, or begin in another folder.'
                    )
            self.model.load_state_dict(state['model'])
            self.ema.module.load_state_dict(state['ema'])
            self.optimizer.load_state_dict(state['optimizer'])
            self.scheduler.load_state_dict(state['scheduler'])
            if self.fixed_scale is None:
                self.scaler.load_state_dict(state['scaler'])
            # One process keeps the sum over all of them.
            self.losses.copy_(state['losses'] if self.group.rank == 0 else torch.zeros(2))
            self.skipped.copy_(state['skipped'])
            self.epoch, self.step, self.history = state['epoch'], state['step'], state['history']
            self.begun = time.perf_counter() - state['seconds']
        except UserError:
            raise
        except Exception as error:  # torch raises half a dozen types here
            raise UserError(
                f'{path} cannot be resumed: {failure(error)}; begin anew in another folder.'
            ) from error

    def _parts(self, batch: Batch) -> list[Batch]:
        """Move a batch to the device, and divide it into the parts of gradient accumulation."""
        divided = {
            name: value.to(self.group.device, non_blocking=True).chunk(self.recipe.accumulation)
            for name, value in batch.items()
        }
        return [
            dict(zip(divided, part, strict=True)) for part in zip(*divided.values(), strict=True)
        ]

    def _autocast(self) -> torch.autocast:
        return autocast(self.group.device, self.precision)

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
        raise UserError(
            f'train and val of {train.root} have {len(train.classes)} and {len(val.classes)} '
            'classes that are not the same: expected the same class folders in both.'
        )
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
