"""Training images, augmented with timm's own transforms, and the label maps that follow them.

What is random about an image is decided by (seed, epoch, image, repeat) alone. So neither the
number of processes and workers nor an interruption changes the images that a training sees.

Of timm's RandAugment only the function that each operation calls is wrapped:

* Posterizing to no bits at all, which `PosterizeIncreasing` asks for at level 10, is an error in
  recent releases of Pillow. Older ones gave a black image, which the published trainings have seen.
  It is a black image here, on every release.
* The operations that move pixels are applied to a map of cells as well (`TracedImage`), so that
  labels of parts of an image can follow it.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import auto_augment, create_transform
from timm.data.auto_augment import RandAugment
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.utils.data import Dataset, Sampler

from datasets.reading import open_image
from datasets.stores import AnyPath
from datasets.subset import Split
from reproduce.train.recipes import Recipe
from reproduce.train.seeds import seeded
from reproduce.train.token_labeling import label_map_path, load_label_map

# timm's operations that move pixels; all others change colours in place.
MOVING = (
    *(auto_augment.rotate, auto_augment.shear_x, auto_augment.shear_y),
    *(auto_augment.translate_x_abs, auto_augment.translate_x_rel),
    *(auto_augment.translate_y_abs, auto_augment.translate_y_rel),
)

# An image of an epoch: (epoch, index, repeat).
Key = tuple[int, int, int]


@dataclass(frozen=True)
class TracedImage:
    """An image whose pixels remember the cell of a label map that they came from.

    `cells` is an image of the same size, in mode 'I': the number of the cell of each pixel, counted
    from 1 row by row, and 0 where the pixel is from outside the image.
    """

    image: Image.Image
    cells: Image.Image

    @classmethod
    def of(cls, image: Image.Image, grid: tuple[int, int]) -> 'TracedImage':
        """Divide `image` into `grid` rows and columns of cells."""
        (width, height), (rows, columns) = image.size, grid
        row = np.arange(height, dtype=np.int32) * rows // height
        column = np.arange(width, dtype=np.int32) * columns // width
        return cls(image, Image.fromarray(row[:, None] * columns + column + 1))

    def moved(self, label_map: torch.Tensor) -> torch.Tensor:
        """Return the label map [2, k, H, W] of the image before, moved as the image was.

        A cell gets what the cell has that its centre is from. From outside the image, every logit
        is 0.
        """
        (width, height), (rows, columns) = self.cells.size, label_map.shape[-2:]
        y = ((np.arange(rows) + 0.5) * height / rows).astype(int)
        x = ((np.arange(columns) + 0.5) * width / columns).astype(int)
        sources = torch.from_numpy(np.asarray(self.cells)[y[:, None], x]).long().flatten()
        moved = label_map.flatten(2)[:, :, (sources - 1).clamp(min=0)] * (sources > 0)
        return moved.view_as(label_map)


class LegalOperation:
    """A function of timm's operation tables, on images and `TracedImage`s, at any level."""

    def __init__(self, function: Callable[..., Image.Image]) -> None:
        self.function = function

    def __call__(self, image: Image.Image | TracedImage, *arguments: float, **options: Any) -> Any:
        if isinstance(image, TracedImage):
            changed, cells = self(image.image, *arguments, **options), image.cells
            if self.function in MOVING:
                # A pixel comes from one cell, or from none: numbers of cells are not interpolated.
                options |= {'fillcolor': 0, 'resample': Image.Resampling.NEAREST}
                cells = self.function(cells, *arguments, **options)
            return TracedImage(changed, cells)
        if self.function is auto_augment.posterize and arguments[0] < 1:
            return Image.new(image.mode, image.size)
        return self.function(image, *arguments, **options)


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
        self.augment = []
        for step in augment.transforms:
            if isinstance(step, RandAugment):
                for operation in step.ops:
                    operation.aug_fn = LegalOperation(operation.aug_fn)
            self.augment.append(step if isinstance(step, RandAugment) else LegalOperation(step))
        # Nothing changes what they return: each step of the augmentation makes a new image.
        self.opened = cache(open_image) if in_memory else open_image
        self.label_map = cache(load_label_map) if in_memory else load_label_map

    def __len__(self) -> int:
        return len(self.data.samples)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index, repeat = key
        path, label = self.data.samples[index]
        image, classes = self.opened(path), self.data.classes
        if self.labels is None:
            with seeded(self.recipe.seed, epoch, index, repeat):
                image = self._augmented(self.crop(image))
                return {'image': self.to_tensor(image), 'label': label}
        path = label_map_path(self.labels, path, classes[label])
        label_map = self.label_map(path, len(classes))
        traced = TracedImage.of(image, label_map.shape[-2:])
        with seeded(self.recipe.seed, epoch, index, repeat):
            traced = self._augmented(traced)
            cropped = self.to_tensor(self.crop(traced.image))
        box, label_map = torch.tensor(self.crop.box), traced.moved(label_map)
        return {'image': cropped, 'label': label, 'map': label_map, 'box': box}

    def _augmented(self, image: Image.Image | TracedImage) -> Any:
        """Return the image flipped at random, and after the steps of the augmentation."""
        if random.random() < self.recipe.hflip:
            if isinstance(image, TracedImage):
                image = TracedImage(ImageOps.mirror(image.image), ImageOps.mirror(image.cells))
            else:
                image = ImageOps.mirror(image)
        for step in self.augment:
            image = step(image)
        return image


class ValidationImages(Dataset):
    """(image (3, S, S), label) of pairs of a file and a label, by a data config of timm's."""

    def __init__(self, samples: Sequence[tuple[AnyPath, int]], config: dict[str, Any]) -> None:
        self.samples, self.transform = samples, create_transform(**config)

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
