"""Token labeling against brute force and written-out formulas."""

import math

import forms
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datasets import imagenet, shapes
from reproduce.train.building import build, targets_of
from reproduce.train.images import TrainingImages
from reproduce.train.recipes import recipe_for
from reproduce.train.token_labeling import (
    dense_labels,
    label_map_path,
    mix_tokens,
    open_label_maps,
    origin,
    token_labeling_loss,
)


def bilinear(plane, y, x):
    """`plane` (H, W) at a point whose integer coordinates are the cells' centres."""
    H, W = plane.shape
    y, x = min(max(y, 0), H - 1), min(max(x, 0), W - 1)
    top, left = min(int(y), H - 2), min(int(x), W - 2)
    dy, dx = y - top, x - left
    rows = plane[top : top + 2, left : left + 2]
    return np.array([1 - dy, dy]) @ rows @ np.array([1 - dx, dx])


def brute_force_crop(plane, box, size):
    """`plane` (H, W) in `box`, averaged over a regular grid of points in each of size x size."""
    H, W = plane.shape
    left, top, right, bottom = box[0] * W, box[1] * H, box[2] * W, box[3] * H
    height, width = (bottom - top) / size, (right - left) / size
    rows, columns = math.ceil(height), math.ceil(width)
    return np.array(
        [
            [
                np.mean(
                    [
                        bilinear(
                            plane,
                            top + height * (i + (a + 0.5) / rows) - 0.5,
                            left + width * (j + (b + 0.5) / columns) - 0.5,
                        )
                        for a in range(rows)
                        for b in range(columns)
                    ]
                )
                for j in range(size)
            ]
            for i in range(size)
        ]
    )


def some_maps(batch=3, classes=7, height=5, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, height, width, generator=generator) * 3
    values, indices = logits.topk(5, 1)
    return torch.stack([values, indices.float()], 1).half()


def test_dense_labels_are_the_cropped_maps():
    maps = some_maps()
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.1, 0.3, 0.8, 0.65], [0.5, 0.05, 0.95, 0.9]])
    labels, tokens = dense_labels(maps, boxes, 7, (2, 2), smoothing=0.1)
    assert labels.shape == (3, 7)
    assert tokens.shape == (3, 2, 2, 7)
    for b in range(3):
        planes = np.zeros((7, 5, 5))
        for k in range(5):
            for i in range(5):
                for j in range(5):
                    planes[int(maps[b, 1, k, i, j]), i, j] = float(maps[b, 0, k, i, j])
        for found, size in ((labels[b, None, None], 1), (tokens[b], 2)):
            logits = np.stack([brute_force_crop(p, boxes[b].tolist(), size) for p in planes], -1)
            expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            expected = expected * 0.9 + 0.1 / 7
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_mixtoken_against_the_written_out_formula():
    rng = np.random.default_rng(0)
    images = torch.rand(4, 3, 128, 96)
    labels = torch.rand(4, 6).softmax(1)
    tokens = torch.rand(4, 4, 3, 6).softmax(3)
    shares = set()
    for seed in rng.integers(0, 1000, 20):
        np.random.seed(seed)
        mixed, mixed_labels, mixed_tokens = mix_tokens(images, labels, tokens, 32)
        swapped = 0
        for i in range(4):
            for j in range(3):
                cell = np.s_[:, :, 32 * i : 32 * i + 32, 32 * j : 32 * j + 32]
                other = torch.equal(mixed[cell], images.flip(0)[cell])
                assert other or torch.equal(mixed[cell], images[cell])
                source = tokens.flip(0) if other else tokens
                assert torch.equal(mixed_tokens[:, i, j], source[:, i, j])
                swapped += other
        share = 1 - swapped / 12
        shares.add(share)
        expected = share * labels + (1 - share) * labels[[3, 2, 1, 0]]
        torch.testing.assert_close(mixed_labels, expected)
    assert len(shares) > 3


def test_the_loss_against_the_written_out_formula():
    logits, token_logits = torch.randn(2, 5), torch.randn(2, 3, 2, 5)
    labels, tokens = torch.rand(2, 5).softmax(1), torch.rand(2, 3, 2, 5).softmax(3)
    image_part = -np.mean([sum(labels[b] * logits[b].log_softmax(0)).item() for b in range(2)])
    token_part = -np.mean(
        [
            sum(tokens[b, i, j] * token_logits[b, i, j].log_softmax(0)).item()
            for b in range(2)
            for i in range(3)
            for j in range(2)
        ]
    )
    found = token_labeling_loss((logits, token_logits), labels, tokens, 0.5)
    assert found.item() == pytest.approx(image_part + 0.5 * token_part, rel=1e-5)


def test_the_published_crop_exchanges_the_axes():
    """LV-ViT's code passes top, left, height and width on as if they were x, y, and so on."""
    maps = some_maps(height=9, width=9)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.1, 0.3, 0.8, 0.65], [0.5, 0.05, 0.95, 0.9]])
    published = dense_labels(maps, boxes, 7, (2, 2), crop='lvvit')
    exchanged = dense_labels(maps, boxes[:, [1, 0, 3, 2]], 7, (2, 2))
    for found, expected in zip(published, exchanged, strict=True):
        torch.testing.assert_close(found, expected)
    assert not torch.allclose(published[1], dense_labels(maps, boxes, 7, (2, 2))[1], atol=0.01)


def test_label_maps_are_read_from_their_archive(tmp_path):
    shapes.write(tmp_path, train=30, val=0)
    data = imagenet.load(tmp_path / 'imagenet', 'train')
    for index, (image, label) in enumerate(data.samples):
        path = label_map_path(tmp_path / 'labels', image, data.classes[label])
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(some_maps(1, 10, seed=index)[0], path)
    (tmp_path / 'labels/labels.json').write_text('{"annotator": "a", "complete": true}')
    archive = tmp_path / 'maps.zip'
    forms.zipped(archive, forms.below(tmp_path / 'labels', 'label_top5_train_nfnet/'))
    maps = open_label_maps(archive)
    assert origin(maps) == origin(tmp_path / 'labels') == {'annotator': 'a'}
    recipe = recipe_for('maformer_micro', True)
    config = {'mean': (0.5,) * 3, 'std': (0.25,) * 3}
    folder, packed = (
        TrainingImages(data, recipe, config, labels) for labels in (tmp_path / 'labels', maps)
    )
    for index in range(len(data.samples)):
        expected, found = folder[0, index, 0], packed[0, index, 0]
        assert expected.keys() == found.keys() == {'image', 'label', 'map', 'box'}
        assert all(np.array_equal(expected[key], found[key]) for key in expected)


def test_the_true_class_has_its_share_of_the_target():
    batch = {
        'image': torch.rand(4, 3, 32, 32),
        'label': torch.tensor([0, 1, 2, 6]),
        'map': some_maps(4),
        'box': torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 4),
    }
    output = torch.randn(4, 7), torch.randn(4, 1, 1, 7)
    dense, tokens = dense_labels(batch['map'], batch['box'], 7, (1, 1))
    for share in (0.0, 0.25):
        recipe = recipe_for('maformer_micro', True).changed(
            img_size=32,
            mix_prob=0,
            label_smoothing=0,
            token_loss_weight=0.5,
            true_class_share=share,
        )
        _, loss_of = targets_of(recipe, build(recipe, 7), 7)(batch)
        labels = (1 - share) * dense + share * F.one_hot(batch['label'], 7)
        expected = token_labeling_loss(output, labels, tokens, 0.5)
        torch.testing.assert_close(loss_of(output), expected)
