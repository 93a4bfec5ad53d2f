"""Training images, augmented with timm's own transforms, and their label maps.

What is random about an image is decided by (seed, epoch, image) alone. So neither the number of
processes and workers nor an interruption changes the images that a training sees.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import functional as TF

from datasets.imagenet import ImageNet, open_image
from reproduce.train.recipes import Recipe
from reproduce.train.token_labeling import label_map_path, load_label_map


class RememberedCrop(RandomResizedCropAndInterpolation):
    """timm's random resized crop, which tells in `box` where it was cut.

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
    """Augmented images by (epoch, index).

    An item is a dict of `image` (3, S, S), `label`, and with label maps also `map` [2, k, H, W],
    `box` (4,) and `flip` as `token_labeling.dense_labels` takes them.
    """

    def __init__(
        self, data: ImageNet, recipe: Recipe, config: dict[str, Any], labels: Path | None
    ) -> None:
        self.data, self.seed, self.labels, self.hflip = data, recipe.seed, labels, recipe.hflip
        self.crop = RememberedCrop(
            recipe.img_size, recipe.crop_scale, interpolation=recipe.interpolation
        )
        _, self.augment, self.to_tensor = create_transform(
            recipe.img_size,
            is_training=True,
            auto_augment=recipe.rand_augment or None,
            interpolation=recipe.interpolation,
            mean=config['mean'],
            std=config['std'],
            re_prob=recipe.random_erasing,
            re_mode='pixel',
            separate=True,
        )
        allow_no_bits(self.augment)

    def __len__(self) -> int:
        return len(self.data.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        path, label = self.data.samples[index]
        with seeded(self.seed, epoch, index):
            image = self.crop(open_image(path))
            flip = random.random() < self.hflip
            image = self.to_tensor(self.augment(TF.hflip(image) if flip else image))
        item = {'image': image, 'label': label}
        if self.labels is not None:
            wnid = self.data.classes[label]
            item |= {
                'map': load_label_map(label_map_path(self.labels, path, wnid)),
                'box': torch.tensor(self.crop.box),
                'flip': flip,
            }
        return item


def allow_no_bits(augment: Any) -> None:
    """Let the `posterize` of timm's RandAugment keep 0 bits, which is a black image.

    'PosterizeIncreasing' keeps 4 bits less four tenths of the drawn level, so none at level 10,
    which 'rand-m9-mstd0.5-inc1' draws for two of a thousand images. Pillow used to return a black
    image then, and recent releases raise an error instead.

    Args:
        augment: the second of the transforms that `timm.data.create_transform` returns with
            `separate=True`; changed in place.
    """
    for policy in getattr(augment, 'transforms', ()):
        for operation in getattr(policy, 'ops', ()):
            if getattr(operation, 'aug_fn', None) is auto_augment.posterize:
                operation.aug_fn = _posterize


def _posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    if bits_to_keep == 0:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep)


class ValidationImages(Dataset):
    """(image (3, S, S), label) as the model's evaluation crops it."""

    def __init__(self, data: ImageNet, config: dict[str, Any]) -> None:
        self.data = data
        self.transform = create_transform(**config)

    def __len__(self) -> int:
        return len(self.data.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.data.samples[index]
        return self.transform(open_image(path)), label


class Batches(Sampler):
    """The keys (epoch, index) of one process's share of every batch.

    Every epoch is a permutation of the images, cut into whole batches of `batch_size`, and every
    batch into equal parts for the processes: the same batches on any number of them.
    """

    def __init__(self, images: int, batch_size: int, rank: int, size: int, seed: int) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.share = slice(rank * batch_size // size, (rank + 1) * batch_size // size)
        self.epoch = 0

    def __len__(self) -> int:
        return self.images // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.images)
        for i in range(len(self)):
            batch = order[i * self.batch_size : (i + 1) * self.batch_size]
            yield [(self.epoch, int(index)) for index in batch[self.share]]


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Python's, NumPy's and torch's generators (CPU), seeded from `key`; restored afterwards."""
    python, numpy, state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first, second, third = _seeds(key)
    try:
        random.seed(first)
        np.random.seed(second)
        torch.default_generator.manual_seed(third)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(state)


def seed_everything(*key: int) -> None:
    """Seed Python's, NumPy's and torch's generators from `key`, on all devices."""
    first, second, third = _seeds(key)
    random.seed(first)
    np.random.seed(second)
    torch.manual_seed(third)


def _seeds(key: tuple[int, ...]) -> list[int]:
    return np.random.SeedSequence(key).generate_state(3).tolist()
