"""Training images, augmented with timm's own transforms, and the label maps that follow them.

What is random about an image is decided by (seed, epoch, image, repeat) alone. So neither the
number of processes and workers nor an interruption changes the images that a training sees.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.utils.data import Dataset, Sampler

from datasets.reading import open_image
from datasets.stores import AnyPath
from datasets.subset import Split
from reproduce.base.errors import UserError
from reproduce.train.augmentation import TracedImage, make_legal
from reproduce.train.recipes import Recipe
from reproduce.train.seeds import seeded
from reproduce.train.token_labeling import label_map_path, load_label_map, move_label_map

# An image of an epoch: (epoch, index, repeat).
Key = tuple[int, int, int]


class RememberedCrop(RandomResizedCropAndInterpolation):
    """timm's random resized crop, which keeps in `box` where it last cut.

    `box` is left, top, right, bottom in fractions of the image.
    """

    def get_params(
        self, img: Image.Image, scale: tuple[float, float], ratio: tuple[float, float]
    ) -> tuple[int, int, int, int]:
        top, left, height, width = super().get_params(img, scale, ratio)
        W, H = img.size
        self.box = (left / W, top / H, (left + width) / W, (top + height) / H)
        return top, left, height, width


class TrainingImages(Dataset):
    """Augmented images by (epoch, index, repeat).

    Without label maps the order is timm's: crop, flip, RandAugment, random erasing. With them it is
    LV-ViT's: flip, RandAugment on the whole image, crop, random erasing; the map follows all of it.

    An item is a dict of `image` (3, S, S), `label`, and with label maps also `map` [2, k, H, W] and
    `box` (4,) as `token_labeling.dense_labels` takes them.

    Args:
        config: timm's data config of the model, of which the mean and the deviation are taken.
        labels: the folder of the label maps; None for none.
        in_memory: whether images and label maps are kept once they are read.

    Raises:
        UserError: if the recipe's RandAugment is none of timm's, or the first label map cannot be
            read.
    """

    def __init__(
        self,
        data: Split,
        recipe: Recipe,
        config: dict[str, Any],
        labels: AnyPath | None,
        in_memory: bool = False,
    ) -> None:
        self.data, self.recipe, self.labels = data, recipe, labels
        self.crop = RememberedCrop(
            recipe.img_size,
            recipe.crop_scale,
            recipe.crop_ratio,
            interpolation=recipe.interpolation,
        )
        try:
            _, augment, self.to_tensor = create_transform(
                recipe.img_size,
                is_training=True,
                auto_augment=recipe.rand_augment or None,
                color_jitter=recipe.color_jitter,
                interpolation=recipe.interpolation,
                mean=config['mean'],
                std=config['std'],
                re_prob=recipe.random_erasing,
                re_mode='pixel',
                separate=True,
            )
        except (AssertionError, ValueError) as error:
            raise UserError(
                f"'{recipe.rand_augment}' is not a RandAugment of timm's: expected one such as "
                'rand-m9-mstd0.5-inc1.'
            ) from error
        self.augment = [
            make_legal(step) if isinstance(step, RandAugment) else step
            for step in augment.transforms
        ]
        # Nothing changes what they return: each step of the augmentation makes a new image.
        self.opened = cache(open_image) if in_memory else open_image
        self.label_map = cache(self._label_map) if in_memory else self._label_map
        self.map_shape = None
        if labels is not None:
            self.map_shape = self._label_map(0).shape

    def __len__(self) -> int:
        return len(self.data.samples)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index, repeat = key
        path, label = self.data.samples[index]
        image = self.opened(path)
        label_map = None if self.labels is None else self.label_map(index)
        with seeded(self.recipe.seed, epoch, index, repeat):
            if label_map is None:
                return {'image': self._cropped_first(image), 'label': label}
            image, label_map, box = self._cropped_last(image, label_map)
        return {'image': image, 'label': label, 'map': label_map, 'box': torch.tensor(box)}

    def _cropped_first(self, image: Image.Image) -> torch.Tensor:
        image = self.crop(image)
        if random.random() < self.recipe.hflip:
            image = ImageOps.mirror(image)
        for step in self.augment:
            image = step(image)
        return self.to_tensor(image)

    def _cropped_last(
        self, image: Image.Image, label_map: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[float, ...]]:
        traced = TracedImage.of(image, tuple(label_map.shape[-2:]))
        if random.random() < self.recipe.hflip:
            traced = traced.mirrored()
        for step in self.augment:
            if isinstance(step, RandAugment):
                traced = step(traced)
            else:
                traced = replace(traced, image=step(traced.image))
        cropped = self.to_tensor(self.crop(traced.image))
        return cropped, move_label_map(label_map, traced.sources()), self.crop.box

    def _label_map(self, index: int) -> torch.Tensor:
        path, label = self.data.samples[index]
        path = label_map_path(self.labels, path, self.data.classes[label])
        label_map = load_label_map(path, len(self.data.classes))
        if self.map_shape not in (None, label_map.shape):
            raise UserError(
                f'{path} is {list(label_map.shape)} and the first label map '
                f'{list(self.map_shape)}: expected maps of one annotator; make them again.'
            )
        return label_map


class ValidationImages(Dataset):
    """(image (3, S, S), label) as timm's data config of a model crops it."""

    def __init__(self, data: Split, config: dict[str, Any]) -> None:
        self.samples, self.transform = data.samples, create_transform(**config)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.samples[index]
        return self.transform(open_image(path)), label


class TrainingBatches(Sampler):
    """The keys of one process's share of every batch of an epoch.

    Every epoch is a permutation of the images, cut into whole batches. With the recipe's repeats,
    each image of the permutation comes several times in a row, and the epoch ends when it has as
    many batches as without. Batches are dealt to the processes one image each in turn, so that the
    repeats of an image meet different processes, and are the same batches on any number of them.

    Args:
        images: the number of images.
        rank, size: the rank of this process, and the world size.

    Attributes:
        epoch: the epoch whose batches are given.
        first: the number of its batches that are left out, which a resumed training has done.
    """

    def __init__(self, images: int, recipe: Recipe, rank: int, size: int) -> None:
        self.images, self.recipe = images, recipe
        self.share = slice(rank, recipe.batch_size, size)
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return self.images // self.recipe.batch_size - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        batch, repeats = self.recipe.batch_size, self.recipe.repeats
        generator = np.random.default_rng([self.recipe.seed, self.epoch])
        order = generator.permutation(self.images)
        for i in range(self.first, self.images // batch):
            places = range(i * batch, (i + 1) * batch)[self.share]
            yield [(self.epoch, int(order[place // repeats]), place % repeats) for place in places]
