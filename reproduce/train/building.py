"""The model that a recipe trains, and the loss that it is trained with."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.mixup import mixup_target
from timm.layers import DropPath

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from reproduce.base.errors import UserError, first_line
from reproduce.systems import timm_names
from reproduce.train.recipes import Recipe
from reproduce.train.seeds import seed_everything
from reproduce.train.token_labeling import dense_labels, mix_tokens, token_labeling_loss

Batch = dict[str, torch.Tensor]
# From a batch to the mixed images, and to the loss of the model's output for them.
Targets = Callable[[Batch], tuple[torch.Tensor, Callable[[Any], torch.Tensor]]]


def build(recipe: Recipe, num_classes: int) -> nn.Module:
    """Return the recipe's model with fresh weights.

    Raises:
        UserError: if timm has no such model, or it cannot be trained as the recipe says.
    """
    timm_names.check(recipe.model)
    own = timm_names.size_argument(recipe.model, recipe.img_size)
    if recipe.token_labeling:
        own['token_labeling'] = True
    if recipe.model.startswith('maformer'):
        own['img_size'] = recipe.img_size
    create = partial(
        timm.create_model,
        recipe.model,
        num_classes=num_classes,
        drop_path_rate=recipe.drop_path or None,
    )
    try:
        network = create(**recipe.arguments | own)
        for module in network.modules():
            if isinstance(module, DropPath) and not recipe.drop_path:  # timm's default may be more
                module.drop_prob = 0.0
        if recipe.initial_arguments is not None:
            seed_everything(recipe.seed)
            initial, weights = create(**recipe.initial_arguments), network.state_dict()
            for name, tensor in initial.state_dict().items():
                if name in weights and tensor.shape == weights[name].shape:
                    weights[name] = tensor
            network.load_state_dict(weights)
        if recipe.grad_checkpointing:
            network.set_grad_checkpointing()
    except Exception as error:  # whatever a foreign constructor raises
        raise UserError(
            f'{recipe.model} cannot be built as the recipe says: {first_line(error)}'
        ) from error
    return network


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

    stride, smoothing = model.feature_info[-1]['reduction'], recipe.label_smoothing
    if recipe.img_size % stride:
        raise UserError(
            f'img_size must be a multiple of {stride}, the side of a token in pixels, got '
            f'{recipe.img_size}.'
        )
    grid = (recipe.img_size // stride,) * 2

    def dense(batch: Batch) -> tuple[torch.Tensor, Callable[[Any], torch.Tensor]]:
        images, where = batch['image'], (batch['map'], batch['box'])
        labels, tokens = dense_labels(*where, num_classes, grid, smoothing, recipe.label_map_crop)
        true = mixup_target(batch['label'], num_classes, smoothing=smoothing)
        labels = labels.lerp(true, recipe.true_class_share)
        if random.random() < recipe.mix_prob:
            images, labels, tokens = mix_tokens(
                images, labels, tokens, stride, recipe.mix_token_alpha
            )
        weight = recipe.token_loss_weight
        return images, lambda output: token_labeling_loss(output, labels, tokens, weight)

    return dense
