"""The training loop: one process or several, interrupted or not, the same curve.

An output folder holds

    recipe.json         the recipe, the data it ran on and what was scaled
    train.log           what was decided, and a line an epoch
    log.csv             a row an epoch
    last.pth            all that a resumed training needs, written after every epoch
    model.safetensors   the averaged weights, when the training is over
    curve.png           loss and accuracy over the epochs

Everything random is seeded anew from (seed, epoch, process) when an epoch begins. A resumed
training therefore needs no generator's state to go on exactly as if it had not stopped.
"""

import io
import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save
from timm.data import Mixup, resolve_data_config
from timm.data.mixup import mixup_target
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from datasets.imagenet import ImageNet, load
from reproduce import distributed
from reproduce.data_loader import ErrorPreservingLoader
from reproduce.distributed import Group
from reproduce.errors import UserError
from reproduce.files import write_atomically
from reproduce.train.curve import Panel, draw
from reproduce.train.images import Batches, TrainingImages, ValidationImages, seed_everything
from reproduce.train.recipes import Recipe
from reproduce.train.token_labeling import dense_labels, mix_tokens, token_grid, token_labeling_loss

PRECISIONS = {'fp16': torch.float16, 'bf16': torch.bfloat16}


@dataclass(frozen=True)
class TrainingJob:
    """A training and where it takes place.

    Attributes:
        recipe: what is trained, and how.
        data: the folder of ImageNet, or of data in its form.
        output: folder for what comes of it.
        labels: folder of the dense label maps; needed for token labeling, and only there.
        resume: go on with the training that `output` holds.
        until: stop after that many epochs of the recipe's, to be resumed later.
        workers: processes that read images, for each process that computes.
        amp: 'fp16' or 'bf16'; None computes in fp32.
        device: 'cpu' or 'cuda'; None takes GPUs where there are some.
    """

    recipe: Recipe
    data: Path
    output: Path
    labels: Path | None = None
    resume: bool = False
    until: int | None = None
    workers: int = 2
    amp: str | None = None
    device: str | None = None


def train(job: TrainingJob, processes: int = 1) -> list[dict[str, float]]:
    """Train on `processes` processes of this machine, or on those that `torchrun` started.

    Returns:
        the log: a row an epoch, of the earlier epochs too if the training was resumed; None in all
        but the first of the processes that a launcher started.

    Raises:
        UserError: if the job does not fit the data, the machine or what `output` holds already,
            an image or a label map cannot be read, or the loss is no longer finite.
    """
    return distributed.run(_run, job, processes=processes, device=job.device)


def _run(group: Group, job: TrainingJob) -> list[dict[str, float]]:
    check(job)
    return _Training(job, group).run()


def check(job: TrainingJob) -> None:
    """Hold the job against itself and against what its output folder holds.

    Raises:
        UserError: if the two cannot both stand.
    """
    if job.amp is not None and job.amp not in PRECISIONS:
        raise UserError(f"--amp '{job.amp}' is unknown: take {' or '.join(PRECISIONS)}.")
    if job.recipe.token_labeling and job.labels is None:
        raise UserError(
            "token labeling needs the annotator's label maps: name their folder with --labels; "
            "'python -m reproduce labels' makes them."
        )
    if job.labels is not None and not job.recipe.token_labeling:
        raise UserError('--labels is for token labeling only: add --token-labeling or leave it.')
    if job.labels is not None and not job.labels.is_dir():
        raise UserError(
            f'{job.labels} is not a folder: expected label maps WNID/NAME.pt in it; '
            "'python -m reproduce labels' makes them."
        )
    if job.until is not None and job.until < 1:
        raise UserError(f'--until {job.until} leaves nothing to train: expected 1 or more.')
    last = job.output / 'last.pth'
    if last.exists() and not job.resume:
        raise UserError(
            f'{job.output} holds a training already: add --resume to go on with it, '
            'or name another folder.'
        )
    if job.resume and not last.exists():
        raise UserError(f'there is no {last} to resume: leave out --resume to begin.')


class _Training:
    def __init__(self, job: TrainingJob, group: Group) -> None:
        self.job, self.group, self.recipe = job, group, job.recipe
        self.train_data = load(job.data, 'train')
        self.val_data = load(job.data, 'val')
        _check_split(self.train_data, self.val_data, self.recipe, group.size)
        seed_everything(self.recipe.seed)
        model = build(self.recipe, len(self.train_data.classes)).to(group.device)
        config = {
            **resolve_data_config({}, model=model),
            'input_size': (3, self.recipe.img_size, self.recipe.img_size),
        }
        self.model = model
        self.ema = ModelEmaV3(model, decay=self.recipe.ema_decay)
        self.network: nn.Module = model
        if group.size > 1:
            ids = [group.device.index] if group.device.type == 'cuda' else None
            self.network = DistributedDataParallel(model, device_ids=ids)
        self.optimizer = create_optimizer_v2(
            model, 'adamw', lr=self.recipe.scaled_lr, weight_decay=self.recipe.weight_decay
        )
        self.scaler = torch.amp.GradScaler(
            group.device.type, enabled=job.amp == 'fp16' and group.device.type == 'cuda'
        )
        self.batches = Batches(
            len(self.train_data.samples),
            self.recipe.batch_size,
            group.rank,
            group.size,
            self.recipe.seed,
        )
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            'cosine',
            num_epochs=self.recipe.epochs,
            warmup_epochs=self.recipe.warmup_epochs,
            warmup_lr=min(self.recipe.warmup_lr, self.recipe.scaled_lr),
            min_lr=min(self.recipe.min_lr, self.recipe.scaled_lr),
            cooldown_epochs=self.recipe.cooldown_epochs,
            step_on_epochs=False,
            updates_per_epoch=len(self.batches),
        )
        shared = {
            'num_workers': job.workers,
            'pin_memory': group.device.type == 'cuda',
            'persistent_workers': job.workers > 0,
        }
        self.train_loader = ErrorPreservingLoader(
            TrainingImages(self.train_data, self.recipe, config, job.labels),
            batch_sampler=self.batches,
            **shared,
        )
        self.val_loader = ErrorPreservingLoader(
            ValidationImages(self.val_data, config),
            batch_size=max(1, self.recipe.batch_size // group.size),
            sampler=range(group.rank, len(self.val_data.samples), group.size),
            **shared,
        )
        self.targets = targets_of(self.recipe, model, len(self.train_data.classes))
        self.history: list[dict[str, float]] = []

    def run(self) -> list[dict[str, float]]:
        if self.job.resume:
            self._restore()
        else:
            self._begin()
        last = self.recipe.total_epochs
        stop = min(last, self.job.until or last)
        for epoch in range(len(self.history), stop):
            start = time.perf_counter()
            loss = self._train_epoch(epoch)
            row = {
                'epoch': epoch + 1,
                'lr': self.optimizer.param_groups[0]['lr'],
                'loss': loss,
                'top1': self._top1(self.model),
                'ema_top1': self._top1(self.ema.module),
                'seconds': round(time.perf_counter() - start, 2),
            }
            self.history.append(row)
            self._save()
            self._log(
                f'epoch {epoch + 1}/{last}: loss {loss:.4f}, top-1 {row["top1"]:.2f} %, '
                f'averaged weights {row["ema_top1"]:.2f} %, {row["seconds"]:.1f} s, '
                f'{timedelta(seconds=round(row["seconds"] * (stop - epoch - 1)))} left'
            )
        if self.group.rank == 0:
            plot(self.history, self.job.output / 'curve.png')
            if len(self.history) == last:
                self._export()
        self.group.agree()
        return self.history

    def _train_epoch(self, epoch: int) -> float:
        """The mean loss of the epoch, over all processes."""
        seed_everything(self.recipe.seed, epoch, self.group.rank)
        self.batches.epoch = epoch
        self.network.train()
        device = self.group.device
        total = torch.zeros(2, dtype=torch.float64, device=device)
        steps = tqdm(
            self.train_loader,
            f'epoch {epoch + 1}/{self.recipe.total_epochs}',
            len(self.batches),
            leave=False,
            disable=True if self.group.rank else None,
        )
        for step, batch in enumerate(steps, epoch * len(self.batches)):
            self.scheduler.step_update(step)
            batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
            images, loss_of = self.targets(batch)
            with self._autocast():
                output = self.network(images)
            loss = loss_of(output)
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.ema.update(self.model)
            total += torch.stack([loss.detach().double(), torch.ones_like(loss).double()])
        summed, count = self.group.add(total).tolist()
        if not math.isfinite(summed):
            raise UserError(
                f'the loss is not finite in epoch {epoch + 1}: the last good state is in '
                f'{self.job.output / "last.pth"}; lower lr, or do without --amp.'
            )
        return summed / count

    @torch.inference_mode()
    def _top1(self, model: nn.Module) -> float:
        """Top-1 on the validation images in percent, every image exactly once."""
        model.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.group.device)
        for images, labels in self.val_loader:
            with self._autocast():
                logits = model(images.to(self.group.device))
            correct += (logits.argmax(1) == labels.to(self.group.device)).sum()
        return 100 * self.group.add(correct).item() / len(self.val_data.samples)

    def _autocast(self) -> AbstractContextManager:
        if self.job.amp is None:
            return nullcontext()
        return torch.autocast(self.group.device.type, PRECISIONS[self.job.amp])

    def _begin(self) -> None:
        if self.group.rank == 0:
            self.job.output.mkdir(parents=True, exist_ok=True)
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
                    for data in (self.train_data, self.val_data)
                },
                'processes': self.group.size,
                'amp': self.job.amp,
                'torch': torch.__version__,
                'timm': timm.__version__,
            }
            text = json.dumps(record, indent=2)
            write_atomically(self.job.output / 'recipe.json', text + '\n')
        for data in (self.train_data, self.val_data):
            state = 'complete' if data.complete else f'not ImageNet-1K: {"; ".join(data.problems)}'
            self._log(f'{data.split}: {len(data.samples):,} images, {state}')
        self._log(scaling(self.recipe, self.group.size))

    def _restore(self) -> None:
        path = self.job.output / 'last.pth'
        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
        except Exception as error:  # torch raises half a dozen types here
            raise UserError(
                f'cannot read {path}: {str(error).partition(chr(10))[0]}; begin anew in '
                'another folder.'
            ) from error
        recipe, data = json.loads(state['recipe']), state['data']
        now = json.loads(self.recipe.model_dump_json())
        if differ := [name for name in now if now[name] != recipe.get(name)]:
            raise UserError(
                f'{path} was trained with {differ[0]} = {recipe.get(differ[0])}, not '
                f'{now[differ[0]]}: resume with the same recipe, or begin in another folder.'
            )
        if data != self.train_data.fingerprint:
            raise UserError(
                f'{path} was trained on other images than {self.job.data} holds: '
                'resume with the same data, or begin in another folder.'
            )
        self.model.load_state_dict(state['model'])
        self.ema.module.load_state_dict(state['ema'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.scheduler.load_state_dict(state['scheduler'])
        self.scaler.load_state_dict(state['scaler'])
        self.history = state['history']
        self._log(f'resumed after epoch {len(self.history)} on {self.group.size} processes')

    def _save(self) -> None:
        if self.group.rank:
            return
        state = {
            'model': self.model.state_dict(),
            'ema': self.ema.module.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'scheduler': self.scheduler.state_dict(),
            'scaler': self.scaler.state_dict(),
            'history': self.history,
            'recipe': self.recipe.model_dump_json(),
            'data': self.train_data.fingerprint,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.job.output / 'last.pth', buffer.getvalue())
        text = pd.DataFrame(self.history).to_csv(index=False)
        write_atomically(self.job.output / 'log.csv', text)

    def _export(self) -> None:
        """The averaged weights, and in the file's metadata what makes the model they belong to."""
        weights = {k: v.contiguous().cpu() for k, v in self.ema.module.state_dict().items()}
        metadata = {
            'model': self.recipe.model,
            'num_classes': str(len(self.train_data.classes)),
            'token_labeling': str(self.recipe.token_labeling).lower(),
            'img_size': str(self.recipe.img_size),
            'recipe': self.recipe.model_dump_json(),
        }
        path = self.job.output / 'model.safetensors'
        write_atomically(path, save(weights, metadata))
        self._log(f'written: {path}')

    def _log(self, line: str) -> None:
        if self.group.rank == 0:
            tqdm.write(line)
            with (self.job.output / 'train.log').open('a') as file:
                file.write(line + '\n')


def build(recipe: Recipe, num_classes: int) -> nn.Module:
    """The recipe's model with fresh weights.

    Raises:
        UserError: if timm knows no such model, or it cannot be had as the recipe wants it.
    """
    arguments: dict[str, Any] = {}
    if recipe.token_labeling:
        if not recipe.model.startswith('maformer'):
            raise UserError(
                f"'{recipe.model}' has no auxiliary head on its tokens: token labeling trains "
                'MAFormers only; leave out --token-labeling.'
            )
        arguments['token_labeling'] = True
    if not timm.is_model(recipe.model):
        raise UserError(f"timm has no model '{recipe.model}': see timm.list_models().")
    config = timm.get_pretrained_cfg(recipe.model)
    if recipe.model.startswith('maformer') or (config and config.fixed_input_size):
        arguments['img_size'] = recipe.img_size
    return timm.create_model(
        recipe.model,
        num_classes=num_classes,
        drop_path_rate=recipe.drop_path or None,
        **arguments,
    )


def scaling(recipe: Recipe, processes: int) -> str:
    """What batch and learning rate became of the recipe's, in words."""
    share = recipe.batch_size // processes
    batch = f'batch {recipe.batch_size} = {processes} x {share}'
    rate = f'learning rate {recipe.scaled_lr:.4g}'
    if recipe.batch_size == recipe.lr_batch_size:
        return f"{batch}, {rate}: the recipe's own, nothing was scaled"
    return (
        f'{batch}, {rate}: scaled with the batch from {recipe.lr:.4g} at {recipe.lr_batch_size} '
        f'(x {recipe.batch_size / recipe.lr_batch_size:.4g})'
    )


Loss = Callable[[Any], torch.Tensor]
Targets = Callable[[dict[str, torch.Tensor]], tuple[torch.Tensor, Loss]]


def targets_of(recipe: Recipe, model: nn.Module, num_classes: int) -> Targets:
    """A function from a batch to the mixed images and the loss of the model's output on them."""
    if not recipe.token_labeling:
        mixup = Mixup(
            mixup_alpha=recipe.mixup_alpha,
            cutmix_alpha=recipe.cutmix_alpha,
            prob=recipe.mix_prob,
            label_smoothing=recipe.label_smoothing,
            num_classes=num_classes,
        )

        def plain(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Loss]:
            images, labels = mixup(batch['image'], batch['label'])
            return images, lambda output: F.cross_entropy(output.float(), labels)

        return plain

    stride = model.feature_info[-1]['reduction']

    def dense(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Loss]:
        images = batch['image']
        grid = token_grid(images, stride)
        labels, tokens = dense_labels(
            batch['map'], batch['box'], batch['flip'], num_classes, grid, recipe.label_smoothing
        )
        true = mixup_target(batch['label'], num_classes, smoothing=recipe.label_smoothing)
        labels = labels.lerp(true, recipe.true_class_share)
        if torch.rand(()) < recipe.mix_prob:
            images, labels, tokens = mix_tokens(
                images, labels, tokens, stride, recipe.mix_token_alpha
            )
        return images, lambda output: token_labeling_loss(
            output, labels, tokens, recipe.token_loss_weight
        )

    return dense


def plot(history: list[dict[str, float]], path: Path) -> None:
    """Draw loss and accuracy over the epochs into the picture at `path`."""
    log = pd.DataFrame(history)
    accuracies = {'weights': log['top1'], 'averaged weights': log['ema_top1']}
    panels = [
        Panel('epoch', 'training loss', {'loss': (log['epoch'], log['loss'])}),
        Panel('epoch', 'Top-1 (%)', {name: (log['epoch'], y) for name, y in accuracies.items()}),
    ]
    draw(panels, path)


def _check_split(train: ImageNet, val: ImageNet, recipe: Recipe, processes: int) -> None:
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
    if recipe.batch_size % (2 * processes):
        raise UserError(
            f'a batch of {recipe.batch_size} cannot be mixed in pairs on {processes} processes: '
            f'choose a batch_size that {2 * processes} divides.'
        )
