"""The model that a recipe trains, and the loss that it is trained with."""

import random
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.mixup import mixup_target

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from reproduce.base.errors import UserError
from reproduce.systems import timm_names
from reproduce.train.recipes import Recipe
from reproduce.train.seeds import seed_everything
from reproduce.train.token_labeling import (
    dense_labels,
    mix_tokens,
    token_grid,
    token_labeling_loss,
)

Batch = dict[str, torch.Tensor]
# From a batch to the mixed images, and to the loss of the model's output for them.
Targets = Callable[[Batch], tuple[torch.Tensor, Callable[[Any], torch.Tensor]]]


def build(recipe: Recipe, num_classes: int) -> nn.Module:
    """Return the recipe's model with fresh weights.

    Raises:
        UserError: if timm has no such model, or it cannot be trained as the recipe says.
    """
    timm_names.check(recipe.model)
    arguments = recipe.arguments | timm_names.size_argument(recipe.model, recipe.img_size)
    if recipe.token_labeling:
        arguments['token_labeling'] = True
    if recipe.model.startswith('maformer'):
        arguments['img_size'] = recipe.img_size
    network = _create(recipe, num_classes, arguments)
    if recipe.initial_arguments is not None:
        seed_everything(recipe.seed)
        own = network.state_dict()
        initial = _create(recipe, num_classes, recipe.initial_arguments).state_dict()
        fitting = {k: v for k, v in initial.items() if k in own and v.shape == own[k].shape}
        network.load_state_dict(own | fitting)
    if recipe.grad_checkpointing:
        try:
            network.set_grad_checkpointing()
        except (AssertionError, AttributeError) as error:
            raise UserError(
                f"'{recipe.model}' has no gradient checkpointing: train it without "
                '--grad-checkpointing.'
            ) from error
    return network


def _create(recipe: Recipe, num_classes: int, arguments: dict[str, Any]) -> nn.Module:
    drop_path = recipe.drop_path or None
    try:
        return timm.create_model(
            recipe.model, num_classes=num_classes, drop_path_rate=drop_path, **arguments
        )
    except Exception as error:  # whatever a foreign constructor raises
        raise UserError(
            f'{recipe.model} cannot be built with {arguments}: {error}'.splitlines()[0]
        ) from error


def targets_of(recipe: Recipe, model: nn.Module, num_classes: int) -> Targets:
    """Return a function from a batch to the mixed images and the loss of the model's output."""
    if not recipe.token_labeling:
        mixup = Mixup(
            mixup_alpha=recipe.mixup_alpha,
            cutmix_alpha=recipe.cutmix_alpha,
            prob=recipe.mix_prob,
            label_smoothing=recipe.label_smoothing,
            num_classes=num_classes,
        )

        def plain(batch: Batch) -> tuple[torch.Tensor, Callable[[Any], torch.Tensor]]:
            images, labels = mixup(batch['image'], batch['label'])
            return images, lambda output: F.cross_entropy(output.float(), labels)

        return plain

    stride = model.feature_info[-1]['reduction']

    def dense(batch: Batch) -> tuple[torch.Tensor, Callable[[Any], torch.Tensor]]:
        images, grid = batch['image'], token_grid(batch['image'], stride)
        smoothing, crop = recipe.label_smoothing, recipe.label_map_crop
        labels, tokens = dense_labels(
            batch['map'], batch['box'], num_classes, grid, smoothing, crop
        )
        true = mixup_target(batch['label'], num_classes, smoothing=smoothing)
        labels = labels.lerp(true, recipe.true_class_share)
        if random.random() < recipe.mix_prob:
            images, labels, tokens = mix_tokens(
                images, labels, tokens, stride, recipe.mix_token_alpha
            )
        weight = recipe.token_loss_weight
        return images, lambda output: token_labeling_loss(output, labels, tokens, weight)

    return dense
