"""RandAugment at the recipes' own strength: legal, and label maps that follow their images."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import resolve_data_config
from timm.data.auto_augment import NAME_TO_OP, RandAugment

from datasets import imagenet
from reproduce.train.images import MOVING, LegalOperation, RememberedCrop, TrainingImages
from reproduce.train.recipes import RECIPES
from reproduce.train.seeds import seed_everything
from reproduce.train.token_labeling import dense_labels


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope='module')
def config():
    return resolve_data_config({}, model=timm.create_model('maformer_micro'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two classes with an image of coloured blocks each, of 500 x 375 pixels as in ImageNet."""
    root = tmp_path_factory.mktemp('blocks')
    for wnid in ('n00000001', 'n00000002'):
        path = root / f'train/{wnid}/{wnid}_1.png'
        path.parent.mkdir(parents=True)
        blocks(500, 375)[0].save(path)
    return root


def blocks(width, height, side=6):
    """An image of side x side blocks of different colours, and the number of each pixel's block."""
    rows = np.arange(height) * side // height
    columns = np.arange(width) * side // width
    numbers = rows[:, None] * side + columns
    return Image.fromarray(colours(side)[numbers]), numbers


def colours(side=6):
    steps = np.linspace(20, 235, side)
    red, green = np.meshgrid(steps, steps, indexing='ij')
    return np.stack([red, green, 255 - red], -1).reshape(-1, 3).astype(np.uint8)


def test_images_pass_the_policy_of_the_recipes(folder, config):
    """33 of 20,000 drawn levels ask m9 to keep no bits of a pixel, which Pillow 13 refuses."""
    recipe = next(recipe for recipe in RECIPES.values() if '-m9-' in recipe.rand_augment)
    (augment,) = TrainingImages(imagenet.load(folder, 'train'), recipe, config, None).augment
    assert isinstance(augment, RandAugment)
    asked = []
    for operation in augment.ops:
        operation.aug_fn = Recorded(operation.aug_fn, asked)
    seed_everything(7)
    for i in range(1000):
        image = augment(noise(24, 16, i))
        assert (image.size, image.mode) == ((24, 16), 'RGB')
    bits = [argument for function, argument in asked if function is NAME_TO_OP['Posterize']]
    assert 0 in bits  # so the case that used to fail was met
    assert {function for function, _ in asked} == {op.aug_fn.legal.function for op in augment.ops}


class Recorded:
    def __init__(self, legal, asked):
        self.legal, self.asked = legal, asked

    def __call__(self, image, *arguments, **options):
        self.asked.append((self.legal.function, arguments[0] if arguments else None))
        return self.legal(image, *arguments, **options)


def test_no_bits_are_a_black_image_as_on_older_releases_of_pillow():
    image = noise(24, 16)
    legal = LegalOperation(NAME_TO_OP['PosterizeIncreasing'])
    for bits in (-2, 0, 1, 4, 8):
        # Pillow's own definition, which holds for 0 bits as well.
        mask = ~((1 << (8 - bits)) - 1) & 0xFF
        expected = np.asarray(image) & np.uint8(mask)
        assert np.array_equal(np.asarray(legal(image, bits)), expected)


def agreement_with_colours(images, side=6, crop='exact', grid=(7, 7), count=30):
    """The share of tokens whose label is the block that their pixels are coloured as."""
    normalize = images.to_tensor.transforms[-1]
    mean, std = (torch.as_tensor(value) for value in (normalize.mean, normalize.std))
    palette = torch.from_numpy(colours(side).astype(np.float32))
    right = seen = 0
    for epoch in range(count):
        item = images[epoch, epoch % 2, 0]
        pixels = (item['image'] * std.view(3, 1, 1) + mean.view(3, 1, 1)) * 255
        nearest = torch.cdist(pixels.permute(1, 2, 0).reshape(-1, 3), palette).min(1)
        number = torch.where(nearest.values < 10, nearest.indices, -1).view(pixels.shape[1:])
        _, tokens = dense_labels(item['map'][None], item['box'][None], side**2, grid, crop=crop)
        step = pixels.shape[1] // grid[0]
        for i in range(grid[0]):
            for j in range(grid[1]):
                patch = number[i * step : (i + 1) * step, j * step : (j + 1) * step]
                if (patch == patch[0, 0]).float().mean() > 0.95 and patch[0, 0] >= 0:
                    right += int(tokens[0, i, j].argmax()) == int(patch[0, 0])
                    seen += 1
    assert seen > 3 * count
    return right / seen


def test_labels_fit_the_images_that_are_trained_on(folder, config, tmp_path):
    """At the size and strength of the real recipe: flip, moving operations, crop, label map."""
    recipe = RECIPES['maformer_large_token_labeling'].changed(
        random_erasing=0, interpolation='bilinear'
    )
    data = imagenet.load(folder, 'train')
    # The map names more classes than have a folder of their own.
    data = replace(data, classes=(*data.classes, *(f'other {i}' for i in range(34))))
    cells = blocks(18, 18)[1]
    label_map = torch.zeros(2, 5, 18, 18)
    label_map[0, 0] = 20.0
    label_map[1] = torch.from_numpy(cells)
    label_map[1, 1:] = (label_map[1, :1] + torch.arange(1, 5)[:, None, None]) % 36
    for path, label in data.samples:
        target = tmp_path / data.classes[label] / f'{path.stem}.pt'
        target.parent.mkdir()
        torch.save(label_map.half(), target)
    images = TrainingImages(data, recipe, config, tmp_path)
    (augment,) = images.augment
    augment.ops = [op for op in augment.ops if op.aug_fn.function in MOVING]
    assert len(augment.ops) == 5
    for operation in augment.ops:
        operation.prob = 1.0
        operation.kwargs['fillcolor'] = (0, 0, 0)
    assert agreement_with_colours(images) > 0.97
    # What LV-ViT's released code does, and what a map that stays where it was would give.
    assert agreement_with_colours(images, crop='lvvit', count=10) < 0.5
    images.crop.get_params = RememberedCrop(224, recipe.crop_scale).get_params
    assert agreement_with_colours(images, count=10) < 0.5
