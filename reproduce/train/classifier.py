"""Training a classifier: one process or several, interrupted or not, the same curve.

An output folder holds

    recipe.json         the recipe, the data it ran on and what was scaled
    run.toml            the options of the command, for its --config
    log.csv             a row for each epoch
    last.pth            all that a resumed training needs, written after every epoch, in long ones
                        every few hundred steps too, and when the training is asked to stop
    best.safetensors    the averaged weights of the epoch in which they scored best
    model.safetensors   the averaged weights of the last epoch, when the training is over
"""

import json

import timm
import torch

from reproduce.base.errors import UserError
from reproduce.base.files import write_atomically
from reproduce.base.processes import join
from reproduce.base.progress import Progress
from reproduce.train import memory
from reproduce.train.classifier_steps import ClassifierTraining
from reproduce.train.jobs import TrainingJob
from reproduce.train.output_folder import StepMeter, claimed
from reproduce.train.stopping import StopRequests


def train(job: TrainingJob) -> list[dict[str, float]]:
    """Train in this process, or in the ranks that it is one of.

    Returns:
        the log: a row for each epoch, those before a resumption too.

    Raises:
        UserError: if the job does not fit the data, the machine or what `output` holds already,
            an image or a label map cannot be read, or the gradients are no longer finite.
        TrainingStopped: if SIGTERM, SIGUSR1 or Ctrl-C asked for it.
    """
    if job.recipe.token_labeling != (job.labels is not None):
        raise UserError(
            'token labeling needs label maps, and no other training does: give --token-labeling '
            "together with --labels; 'python -m reproduce labels' makes them."
        )
    with (
        join(job.device) as group,
        claimed(job.output, group),
        StopRequests(group, job.output) as stop,
    ):
        training = ClassifierTraining(job, group, stop)
        is_first, total = group.rank == 0, job.recipe.total_epochs
        if job.resume:
            training.restore()
        elif is_first:
            _begin(training)
        meter = StepMeter(group.device, job.recipe.batch_size) if job.max_steps else None
        while training.epoch < total:
            bar = Progress(
                training.batches(),
                desc=f'epoch {training.epoch + 1}/{total}',
                total=training.steps_per_epoch,
                initial=training.step,
                leave=False,
                disable=not is_first,
            )
            for batch in bar:
                training.stop_if_asked()
                if meter:
                    meter.tick()
                training.take_step(batch)
                if meter:
                    meter.tick()
                    if training.steps_done >= job.max_steps:
                        break
                more = training.step < training.steps_per_epoch
                if more and training.step % job.checkpoint_steps == 0:
                    training.save()
            if meter and training.steps_done >= job.max_steps:
                training.save()
                loss, _ = training.loss_and_steps()
                if is_first:
                    meter.write(job.output, loss)
                break
            row = training.end_epoch()
            if is_first:
                print(
                    f'epoch {row["epoch"]}/{total}: loss {row["loss"]:.4f}, {row["skipped"]} steps '
                    f'skipped, top-1 {row["top1"]:.2f} %, averaged weights {row["ema_top1"]:.2f} '
                    f'%, {row["seconds"]:.1f} s'
                )
        training.write_weights('model.safetensors')
        return training.history


def _begin(training: ClassifierTraining) -> None:
    """Write and print what is trained, and on what."""
    job, recipe, processes = training.job, training.recipe, training.group.size
    data = {data.split: data for data in (training.train_data, training.val_data)}
    record = {
        'recipe': recipe.model_dump(),
        'scaled_lr': recipe.scaled_lr,
        'data': {
            split: {
                'images': len(found.samples),
                'fingerprint': found.fingerprint,
                'problems': found.problems,
            }
            for split, found in data.items()
        },
        'labels': training.origin_of_labels,
        'processes': processes,
        'precision': training.precision,
        'deterministic': job.deterministic,
        'torch': torch.__version__,
        'timm': timm.__version__,
    }
    write_atomically(job.output / 'recipe.json', json.dumps(record, indent=2) + '\n')
    write_atomically(job.output / 'run.toml', job.options_file)
    for split, found in data.items():
        if found.problems:
            print(f'warning: {split} is not all of ImageNet-1K: {"; ".join(found.problems)}')
    images = recipe.batch_size // processes
    parts = f' in {recipe.accumulation} parts' if recipe.accumulation > 1 else ''
    print(
        f'batch {recipe.batch_size} = {processes} x {images}{parts}, learning rate '
        f'{recipe.scaled_lr:.4g}: {recipe.lr:.4g} at a batch of {recipe.lr_batch_size}; '
        f'{training.precision}'
    )
    if training.group.device.type == 'cuda':
        properties = torch.cuda.get_device_properties(training.group.device)
        gib = properties.total_memory / memory.GIB
        peak = memory.classifier_peak(recipe, images, training.precision)
        print(f'a step needs about {peak:.1f} GiB of the GPU, which has {gib:.1f}')
        if peak > gib - memory.LEFT_OUT:
            print(
                'warning: the GPU will probably run out of memory: --set grad_checkpointing=true '
                'needs less, and --set accumulation=2 halves the images of a pass'
            )
