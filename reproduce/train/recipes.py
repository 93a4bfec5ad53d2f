"""The recipes by which the paper's classifiers are trained, and how one is picked and scaled.

From the paper (Section 4.2): token labeling with the settings of LV-ViT (Jiang et al., 2021);
learning rate 1.6e-3 for S and B, 1.2e-3 for L; drop path 0.1, 0.3, 0.4. From LV-ViT's paper and
released code: batch 1024, AdamW, weight decay 0.05, cosine to 1e-5 in 300 epochs after 5 epochs of
warm-up from 1e-6 and before 10 at the end's rate, RandAugment, random erasing, label smoothing
0.1, MixToken, auxiliary loss of weight 0.5, EMA of 0.99996. Without token labeling, the same with
the mixup and CutMix of DeiT's recipe in MixToken's place.
"""

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reproduce.errors import UserError


class Recipe(BaseModel):
    """Everything that decides a training but the data. Epochs count passes over the data."""

    model_config = ConfigDict(frozen=True, extra='forbid')

    model: str
    token_labeling: bool = False
    img_size: int = Field(224, ge=32)
    epochs: int = Field(300, ge=1)
    cooldown_epochs: int = Field(10, ge=0)  # after `epochs`, at `min_lr`
    warmup_epochs: int = Field(5, ge=0)  # the first of `epochs`
    batch_size: int = Field(1024, ge=2)  # of all processes together
    lr: float = Field(1.6e-3, gt=0)  # at a batch of `lr_batch_size`
    lr_batch_size: int = Field(1024, ge=1)
    warmup_lr: float = Field(1e-6, ge=0)
    min_lr: float = Field(1e-5, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    drop_path: float = Field(0.1, ge=0, lt=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    crop_scale: tuple[float, float] = (0.08, 1.0)
    hflip: float = Field(0.5, ge=0, le=1)
    interpolation: str = 'random'
    rand_augment: str = 'rand-m9-mstd0.5-inc1'
    random_erasing: float = Field(0.25, ge=0, le=1)
    mix_prob: float = Field(1.0, ge=0, le=1)  # of MixToken, or of mixup and CutMix
    mix_token_alpha: float = Field(1.0, gt=0)
    mixup_alpha: float = Field(0.8, gt=0)
    cutmix_alpha: float = Field(1.0, gt=0)
    token_loss_weight: float = Field(0.5, ge=0)
    # Of the true class in the classifier's target; the rest is the annotator's, LV-ViT's is all.
    true_class_share: float = Field(0.0, ge=0, le=1)
    ema_decay: float = Field(0.99996, ge=0, lt=1)
    seed: int = 42

    @property
    def total_epochs(self) -> int:
        """Epochs that are run, those at the final learning rate included."""
        return self.epochs + self.cooldown_epochs

    @property
    def scaled_lr(self) -> float:
        """The peak learning rate of `batch_size`: in proportion to the batch."""
        return self.lr * self.batch_size / self.lr_batch_size

    def changed(self, **changes: Any) -> 'Recipe':
        """The recipe with some of its fields changed; values may be strings.

        Raises:
            UserError: if there is no such field or a value is out of range.
        """
        if unknown := set(changes) - set(Recipe.model_fields):
            name = sorted(unknown)[0]
            near = difflib.get_close_matches(name, Recipe.model_fields, 3, 0.3)
            raise UserError(
                f"a recipe has no '{name}': did you mean {', '.join(near or Recipe.model_fields)}?"
            )
        try:
            return Recipe.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            wrong = error.errors()[0]
            raise UserError(
                f"'{wrong['input']}' is no {wrong['loc'][0]} of a recipe: {wrong['msg'].lower()}."
            ) from error


_SMALL = Recipe(model='maformer_small')
_BASE = _SMALL.changed(model='maformer_base', drop_path=0.3)
_LARGE = _SMALL.changed(model='maformer_large', drop_path=0.4, lr=1.2e-3)
# For small images by the hundred, not for ImageNet: what the released checkpoint is trained by.
_MICRO = _SMALL.changed(
    model='maformer_micro',
    img_size=64,
    epochs=50,
    cooldown_epochs=0,
    warmup_epochs=2,
    batch_size=32,
    lr=1e-3,
    lr_batch_size=32,
    drop_path=0.0,
    crop_scale=(0.5, 1.0),
    rand_augment='rand-m5-mstd0.5-inc1',
    random_erasing=0.1,
    mix_prob=0.2,
    true_class_share=0.5,  # its annotator is no better than it is
    ema_decay=0.98,
)

RECIPES: dict[str, Recipe] = {
    recipe.model + ('_token_labeling' if token_labeling else ''): recipe.changed(
        token_labeling=token_labeling
    )
    for recipe in (_MICRO, _SMALL, _BASE, _LARGE)
    for token_labeling in (False, True)
}


def recipe_for(model: str, token_labeling: bool = False, name: str | None = None) -> Recipe:
    """The recipe of `model`: the one called `name`, else that of the size it is a variant of.

    Raises:
        UserError: if there is no recipe of that name, or none named and none of that size.
    """
    suffix = '_token_labeling' if token_labeling else ''
    if name is None:
        sizes = [size for size in RECIPES if model == size or model.startswith(f'{size}_')]
        if not sizes:
            raise UserError(
                f"there is no recipe of its own for '{model}': "
                f'name one of {", ".join(_names())} with --recipe.'
            )
        name = max(sizes, key=len)
    if name.removesuffix('_token_labeling') + suffix not in RECIPES:
        raise UserError(f"there is no recipe '{name}': name one of {', '.join(_names())}.")
    recipe = RECIPES[name.removesuffix('_token_labeling') + suffix]
    return recipe.changed(model=model)


def _names() -> list[str]:
    return [name for name in RECIPES if not name.endswith('_token_labeling')]
