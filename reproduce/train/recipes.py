"""The recipes of `recipes.toml`, which train classifiers: how one is chosen and changed."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from reproduce.base.errors import UserError
from reproduce.base.files import first_error

TOKEN_LABELING = '_token_labeling'


def _split(value: Any) -> Any:
    return value.split(',') if isinstance(value, str) else value


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


Share = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[float, float], BeforeValidator(_split)]
Shares = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], ...], BeforeValidator(_split), Field(min_length=1)
]
Arguments = Annotated[dict[str, Any], BeforeValidator(_parsed)]
OptionalArguments = Annotated[dict[str, Any] | None, BeforeValidator(_parsed)]


class Recipe(BaseModel, extra='forbid', frozen=True):
    """Everything that decides a training but its data."""

    model: str  # a timm model
    arguments: Arguments = {}  # of its constructor
    # Constructor arguments of the network whose initial weights, as `seed` draws them, are taken
    # where name and shape agree, so that variants of a network begin alike; None for `arguments`.
    initial_arguments: OptionalArguments = None
    token_labeling: bool = False  # the target is an annotator's label of every token (LV-ViT)
    img_size: int = Field(224, ge=32)  # side in pixels
    epochs: int = Field(300, ge=1)  # the warm-up included, and the cool-down not
    cooldown_epochs: int = Field(10, ge=0)  # at `min_lr`
    warmup_epochs: int = Field(5, ge=0)  # the learning rate rises from `warmup_lr`
    batch_size: int = Field(1024, ge=2)  # images of a step, of all processes together
    lr: float = Field(1.6e-3, gt=0)  # the peak, in proportion to `batch_size` / `lr_batch_size`
    lr_batch_size: int = Field(1024, ge=1)
    warmup_lr: float = Field(1e-6, ge=0)
    min_lr: float = Field(1e-5, ge=0)
    weight_decay: float = Field(0.05, ge=0)  # of AdamW, on all parameters but biases and norms
    drop_path: float = Field(0.1, ge=0, lt=1)  # of the last block, rising linearly from 0
    label_smoothing: float = Field(0.1, ge=0, lt=1)  # share that is spread over all classes
    crop_scale: Range = (0.08, 1.0)  # area of the random crop over the image's
    crop_ratio: Range = (3 / 4, 4 / 3)  # width of the crop over its height
    hflip: Share = 0.5  # probability
    interpolation: Literal['random', 'bilinear', 'bicubic'] = 'random'  # of the two
    # As timm calls it; empty for none.
    rand_augment: str = Field('rand-m9-mstd0.5-inc1', pattern=r'^(rand(-[a-z]+[0-9.]+)+)?$')
    color_jitter: float = Field(0.4, ge=0)  # only where there is no RandAugment
    random_erasing: Share = 0.25  # probability; the box gets random pixels
    # Times that an image is seen in a row, augmented anew, while others wait for a later epoch
    # (DeiT's repeated augmentation).
    repeats: int = Field(1, ge=1)
    mix_prob: Share = 1.0  # probability that a batch is mixed
    mix_token_alpha: float = Field(1.0, gt=0)  # of MixToken; with token labeling only
    mixup_alpha: float = Field(0.8, gt=0)  # of half of the batches; without token labeling only
    cutmix_alpha: float = Field(1.0, gt=0)  # of the other half
    token_loss_weight: float = Field(0.5, ge=0)  # of the tokens' mean loss; the image's has 1
    true_class_share: Share = 0.0  # in the image's target; the rest is the annotator's
    label_map_crop: Literal['exact', 'lvvit'] = 'exact'  # LV-ViT's code exchanges the axes
    ema_decay: float = Field(0.99992, ge=0, lt=1)  # of the averaged weights, in a step
    # Sides of the centre crop over the image's short side, in validation. The first decides which
    # epoch is the best; `evaluate imagenet --crop-pct` measures with the others afterwards.
    test_crops: Shares = (0.9,)
    grad_checkpointing: bool = False
    accumulation: int = Field(1, ge=1)  # parts of the share of a batch of each process
    seed: int = 42  # of everything random

    @property
    def total_epochs(self) -> int:
        """The number of epochs that are run, those of the cool-down included."""
        return self.epochs + self.cooldown_epochs

    @property
    def scaled_lr(self) -> float:
        """The peak learning rate for `batch_size`, in proportion to the batch."""
        return self.lr * self.batch_size / self.lr_batch_size

    def changed(self, **changes: Any) -> 'Recipe':
        """Return the recipe with some of its settings changed; values may be strings.

        Raises:
            UserError: if there is no such setting or a value is out of range.
        """
        try:
            return Recipe.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            place, reason = first_error(error)
            raise UserError(f"a recipe's {place} is wrong: {reason.lower()}.") from error


def _recipes() -> dict[str, Recipe]:
    recipes: dict[str, Recipe] = {}
    for name, settings in tomllib.loads(Path(__file__).with_suffix('.toml').read_text()).items():
        like = settings.pop('like', None)
        recipes[name] = recipes[like].changed(**settings) if like else Recipe(**settings)
    return recipes


RECIPES = _recipes()


def recipe_for(model: str, token_labeling: bool = False, name: str | None = None) -> Recipe:
    """Return the recipe for `model`, see `recipe_name`."""
    return RECIPES[recipe_name(model, token_labeling, name)].changed(model=model)


def recipe_name(model: str, token_labeling: bool = False, name: str | None = None) -> str:
    """Return `name`, or the name of the recipe of the size that `model` is a variant of.

    Args:
        model: a timm model.
        token_labeling: whether to train with token labeling.
        name: a key of `RECIPES`, with or without the ending for token labeling.

    Raises:
        UserError: if there is no recipe of that name, or none named and none of that size.
    """
    ending = TOKEN_LABELING if token_labeling else ''
    names = [
        key.removesuffix(TOKEN_LABELING)
        for key in RECIPES
        if RECIPES[key].token_labeling == token_labeling
    ]
    if name is None:
        sizes = [size for size in names if f'{model}_'.startswith(f'{size}_')]
        name = max(sizes, key=len, default=model)
    chosen = name.removesuffix(TOKEN_LABELING)
    if chosen not in names:
        kind = 'with' if token_labeling else 'without'
        raise UserError(
            f"there is no recipe '{name}' {kind} token labeling: name one of {', '.join(names)} "
            'with --recipe.'
        )
    return chosen + ending
