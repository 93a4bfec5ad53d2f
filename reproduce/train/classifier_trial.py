"""A trial of a classifier's recipe: steps, a save and a resumption, an evaluation."""

import gc
from collections.abc import Iterator

from reproduce.base.errors import UserError
from reproduce.base.processes import Group, join
from reproduce.train.classifier_steps import Batch, ClassifierTraining
from reproduce.train.recipes import Recipe
from reproduce.train.trial import (
    GradientWatch,
    Trial,
    TrialOptions,
    TrialSettings,
    loader_speed,
    peak_memory,
    synchronized,
    together,
    without_first,
)

_CHECKPOINT = 'last.pth'


def try_recipe(recipe: Recipe, settings: TrialSettings) -> Trial | None:
    """Try a recipe in this process, or in the ranks that it is one of; None in all but the first.

    Raises:
        UserError: as a training does, or if the data are too few for the steps.
    """
    with join(settings.device) as group:
        return _try(group, recipe, settings)


def rehearsed(recipe: Recipe, options: TrialOptions, processes: int) -> Recipe:
    """Return the recipe with what the options change of it."""
    changes = {'grad_checkpointing': options.grad_checkpointing or recipe.grad_checkpointing}
    changes['accumulation'] = options.accumulation
    if options.batch_size is not None:
        changes['batch_size'] = options.batch_size * processes
    return recipe.changed(**changes)


def _try(group: Group, recipe: Recipe, settings: TrialSettings) -> Trial | None:
    recipe = rehearsed(recipe, settings, group.size)
    found = Trial(group.device.type)
    training = _build(recipe, settings, group)
    if training.steps_per_epoch <= settings.steps:
        raise UserError(
            f'an epoch of {training.train_data.root} has {training.steps_per_epoch} steps of '
            f'{recipe.batch_size} images: expected more than --steps {settings.steps}; lower it, '
            'or --batch-size.'
        )
    gradients = GradientWatch(training.model)
    batches, seconds = training.batches(), []
    for _ in range(settings.steps):
        loss, time = _take_step(training, batches)
        found.losses.append(loss)
        seconds.append(time)
    training.losses.zero_()
    path = settings.output / _CHECKPOINT
    training.save(path)
    group.barrier()
    followed_by, _ = _take_step(training, batches)
    found.without_gradient = gradients.without_gradient()
    found.never_finite = gradients.never_finite()
    found.fp16 = training.precision == 'fp16'
    del training, gradients, batches  # and with it what its graph and its optimizer hold
    gc.collect()

    training = _build(recipe, settings, group)
    training.restore(path)
    resumed, _ = _take_step(training, training.batches())
    found.next_loss = (followed_by, resumed)
    found.step_seconds = without_first(seconds)
    found.step_images = recipe.batch_size // group.size
    found.evaluated_images_per_s = _evaluation_speed(training)
    training.step = 0
    found.loader_images_per_s = loader_speed(
        training.batches(), found.step_images, training.workers
    )
    found.peak_bytes = peak_memory(group.device)
    weights = sum(t.nbytes for t in training.model.state_dict().values())
    # One checkpoint stays until the next one is whole; the best and the last weights are kept.
    found.disk_bytes = 2 * path.stat().st_size + 2 * weights
    epochs = recipe.total_epochs
    found.images = epochs * settings.images['train']
    # The weights and the averaged ones after every epoch, and these once more at every crop.
    found.evaluated_images = (2 * epochs + 2 * len(recipe.test_crops)) * settings.images['val']
    parts = group.gather([found])
    return None if parts is None else together(parts)


def _build(recipe: Recipe, settings: TrialSettings, group: Group) -> ClassifierTraining:
    labels = settings.labels if recipe.token_labeling else None
    if recipe.token_labeling and labels is None:
        raise UserError('token labeling needs label maps: name their folder with --labels')
    return ClassifierTraining(
        recipe, settings.data, group, labels, settings.workers, settings.precision
    )


def _take_step(training: ClassifierTraining, batches: Iterator[Batch]) -> tuple[float, float]:
    """Take a step; return its loss, NaN where it was not finite, and the seconds without data."""
    batch = next(batches)
    device = training.group.device
    training.losses.zero_()
    begin = synchronized(device)
    training.take_step(batch)
    seconds = synchronized(device) - begin
    loss, finite = training.losses.tolist()
    return (loss if finite else float('nan')), seconds


def _evaluation_speed(training: ClassifierTraining) -> float:
    """Return the images that are evaluated in a second, from the second batch on."""
    recipe, group = training.recipe, training.group
    images = min(
        recipe.batch_size // (group.size * recipe.accumulation),
        len(training.val_data.samples) // group.size,
    )
    training.top1(training.ema.module, batches=1)  # starts the workers
    begin = synchronized(group.device)
    training.top1(training.ema.module, batches=1)
    seconds = synchronized(group.device) - begin
    return max(1, images) / seconds
