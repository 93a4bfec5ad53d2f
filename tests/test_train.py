"""Training: recipes, token labeling against brute force, resuming, several processes."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from timm.data import resolve_data_config
from torchvision.transforms import functional as TF

import model as _maformer  # noqa: F401
from datasets import imagenet, shapes
from reproduce.commands.train import train_imagenet
from reproduce.errors import UserError
from reproduce.train.classifier import TrainingJob, build, scaling, targets_of, train
from reproduce.train.images import (
    Batches,
    RememberedCrop,
    TrainingImages,
    allow_no_bits,
    seeded,
)
from reproduce.train.label_maps import label_maps, make_labels
from reproduce.train.recipes import RECIPES, recipe_for
from reproduce.train.token_labeling import (
    dense_labels,
    load_label_map,
    mix_tokens,
    token_grid,
    token_labeling_loss,
)

# ------------------------------------------------------------------------------------------------
# Recipes


def test_the_paper_s_recipes():
    """Section 4.2 of the paper, and what it takes from LV-ViT."""
    for size, lr, drop_path in (
        ('small', 1.6e-3, 0.1),
        ('base', 1.6e-3, 0.3),
        ('large', 1.2e-3, 0.4),
    ):
        for token_labeling in (False, True):
            recipe = recipe_for(f'maformer_{size}', token_labeling)
            assert (recipe.lr, recipe.drop_path) == (lr, drop_path)
            assert recipe.token_labeling == token_labeling
            assert (recipe.batch_size, recipe.epochs, recipe.weight_decay) == (1024, 300, 0.05)
            assert recipe.token_loss_weight == 0.5
            assert recipe.scaled_lr == lr


def test_a_variant_follows_its_size_s_recipe():
    recipe = recipe_for('maformer_small_3383_conv_global')
    assert recipe == RECIPES['maformer_small'].changed(model='maformer_small_3383_conv_global')
    assert recipe_for('resnet18', name='maformer_base').drop_path == 0.3
    with pytest.raises(UserError, match='name one of maformer_micro'):
        recipe_for('resnet18')
    with pytest.raises(UserError, match="no recipe 'maformer_huge'"):
        recipe_for('resnet18', name='maformer_huge')


def test_batch_and_learning_rate_scale_together_and_the_log_says_so():
    recipe = recipe_for('maformer_small').changed(batch_size='256')
    assert recipe.scaled_lr == pytest.approx(4e-4)
    assert scaling(recipe, 8) == (
        'batch 256 = 8 x 32, learning rate 0.0004: scaled with the batch from 0.0016 at 1024 '
        '(x 0.25)'
    )
    assert 'nothing was scaled' in scaling(recipe_for('maformer_small'), 8)


def test_a_wrong_change_of_a_recipe_is_explained():
    recipe = recipe_for('maformer_small')
    with pytest.raises(UserError, match="no 'batchsize': did you mean batch_size"):
        recipe.changed(batchsize=3)
    with pytest.raises(UserError, match="'many' is no epochs"):
        recipe.changed(epochs='many')


# ------------------------------------------------------------------------------------------------
# Token labeling


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
    flips = torch.tensor([False, False, True])
    labels, tokens = dense_labels(maps, boxes, flips, 7, (2, 2), smoothing=0.1)
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
            if flips[b]:
                logits = logits[:, ::-1]
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


def test_cutting_pixels_is_cutting_tokens_of_the_patch_embedding():
    """The stem sees every patch by itself: MixToken may work on pixels."""
    stem = timm.create_model('maformer_micro').stem
    images = torch.rand(2, 3, 64, 64)
    np.random.seed(3)
    mixed, _, _ = mix_tokens(images, torch.rand(2, 5), torch.rand(2, 2, 2, 5), 32)
    whole, cut = (stem(x.permute(0, 2, 3, 1)) for x in (images, mixed))
    changed = (mixed != images).any(1)[:, ::4, ::4]
    assert 0 < changed.float().mean() < 1
    torch.testing.assert_close(cut, torch.where(changed[..., None], whole.flip(0), whole))


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


def test_images_that_are_no_whole_number_of_tokens_are_refused():
    assert token_grid(torch.empty(1, 3, 64, 96), 32) == (2, 3)
    with pytest.raises(UserError, match='80 x 64 are no whole number of tokens'):
        token_grid(torch.empty(1, 3, 80, 64), 32)


def test_the_crop_tells_where_it_was():
    ramp = np.stack(np.broadcast_arrays(*np.mgrid[:100, :200], 0), -1).astype(np.uint8)
    image = Image.fromarray(ramp)
    crop = RememberedCrop(50, (0.2, 0.5), interpolation='bilinear')
    for _ in range(5):
        pixels = np.asarray(crop(image), float)
        left, top, right, bottom = crop.box
        assert pixels[:, 0, 1].mean() == pytest.approx(200 * left, abs=4)
        assert pixels[:, -1, 1].mean() == pytest.approx(200 * right, abs=4)
        assert pixels[0, :, 0].mean() == pytest.approx(100 * top, abs=4)
        assert pixels[-1, :, 0].mean() == pytest.approx(100 * bottom, abs=4)


# ------------------------------------------------------------------------------------------------
# Data, label maps and training on the embedded data


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    shapes.write(root, train=50, val=50)
    return root / 'imagenet'


@pytest.fixture(scope='module')
def labels(root, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('labels')
    annotator = timm.create_model('test_resnet', num_classes=10)
    torch.save(annotator.state_dict(), folder.with_suffix('.pth'))
    make_labels('test_resnet', root, folder, folder.with_suffix('.pth'), 96, workers=0)
    return folder


def micro(token_labeling=False, **changes):
    small = {'img_size': 32, 'epochs': 3, 'warmup_epochs': 1, 'batch_size': 16, 'ema_decay': 0.9}
    return recipe_for('maformer_micro', token_labeling).changed(**small | changes)


def test_every_training_image_has_a_label_map(root, labels):
    data = imagenet.load(root, 'train')
    for path, label in data.samples:
        loaded = load_label_map(labels / data.classes[label] / f'{path.stem}.pt')
        assert loaded.shape == (2, 5, 3, 3)
        assert loaded.dtype == torch.float16
    assert len(list(labels.rglob('*.pt'))) == len(data.samples)
    assert json.loads((labels / 'labels.json').read_text())['annotator'] == 'test_resnet'


@pytest.mark.parametrize(
    'name', ['test_resnet', 'test_convnext', 'maformer_micro', 'vit_tiny_patch16_224']
)
def test_a_label_map_is_the_classifier_at_every_position(name):
    """Heads that are affine after pooling: the maps' mean is the prediction of the whole image."""
    size = {'img_size': 64} if 'vit' in name or 'maformer' in name else {}
    pool = {'global_pool': 'avg', 'class_token': False} if 'vit' in name else {}
    annotator = timm.create_model(name, num_classes=5, **size, **pool).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        maps = label_maps(annotator, images)
        assert maps.shape[:3] == (2, 2, 5)
        assert (maps[:, 0].diff(dim=1) <= 0).all()
        if name in ('test_resnet', 'maformer_micro'):
            whole = torch.zeros(2, 5, *maps.shape[3:])
            whole.scatter_(1, maps[:, 1].long(), maps[:, 0].float())
            torch.testing.assert_close(whole.mean((2, 3)), annotator(images), atol=2e-3, rtol=2e-3)


def test_augmentation_depends_on_seed_epoch_and_image_alone(root, labels):
    data = imagenet.load(root, 'train')
    config = resolve_data_config({}, model=timm.create_model('maformer_micro'))

    def item(epoch, index):
        return TrainingImages(data, micro(True), config, labels)[epoch, index]

    state = torch.get_rng_state()
    first = item(0, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again, later = item(0, 5), item(1, 5)
    assert torch.equal(first['image'], again['image'])
    assert not torch.equal(first['image'], later['image'])
    assert set(first) == {'image', 'label', 'map', 'box', 'flip'}


def test_box_and_flip_are_those_of_the_image(root, labels):
    """The recorded crop and flip, applied by hand, give the image that was trained on."""
    data = imagenet.load(root, 'train')
    recipe = micro(True, rand_augment='', random_erasing=0, interpolation='bicubic')
    config = resolve_data_config({}, model=timm.create_model('maformer_micro'))
    images = TrainingImages(data, recipe, config, labels)
    flips = set()
    for index in range(6):
        item = images[0, index]
        image = imagenet.open_image(data.samples[index][0])
        left, top, right, bottom = (
            round(float(c) * n) for c, n in zip(item['box'], image.size * 2, strict=True)
        )
        crop = TF.resized_crop(
            image, top, left, bottom - top, right - left, [32, 32], Image.BICUBIC
        )
        crop = TF.to_tensor(TF.hflip(crop) if item['flip'] else crop)
        expected = TF.normalize(crop, config['mean'], config['std'])
        # timm's transforms jitter the colours where there is no RandAugment: compare the form.
        correlation = torch.corrcoef(torch.stack([item['image'].ravel(), expected.ravel()]))[0, 1]
        wrong = torch.corrcoef(torch.stack([item['image'].ravel(), expected.flip(2).ravel()]))[0, 1]
        assert correlation > 0.8
        assert correlation > wrong
        flips.add(bool(item['flip']))
    assert flips == {True, False}


def test_a_batch_is_dealt_to_the_processes_whole():
    one = Batches(50, 8, 0, 1, seed=1)
    two = [Batches(50, 8, rank, 2, seed=1) for rank in range(2)]
    assert len(one) == 6
    for whole, *parts in zip(one, *two, strict=True):
        assert whole == parts[0] + parts[1]
    first = list(one)
    one.epoch = 1
    assert [index for batch in one for _, index in batch] != [i for b in first for _, i in b]


def curve(rows):
    return [(row['loss'], row['top1'], row['ema_top1'], row['lr']) for row in rows]


@pytest.mark.parametrize('token_labeling', [False, True])
def test_a_resumed_training_is_the_uninterrupted_one(root, labels, tmp_path, token_labeling):
    recipe = micro(token_labeling, drop_path=0.2)
    shared = {'data': root, 'labels': labels if token_labeling else None, 'device': 'cpu'}
    whole = train(TrainingJob(recipe, output=tmp_path / 'whole', workers=0, **shared))
    assert len(whole) == 3
    cut = TrainingJob(recipe, output=tmp_path / 'cut', until=1, workers=1, **shared)
    assert len(train(cut)) == 1
    assert not (tmp_path / 'cut/model.safetensors').exists()
    rest = train(TrainingJob(recipe, output=tmp_path / 'cut', resume=True, workers=0, **shared))
    assert curve(rest) == curve(whole)
    logged = pd.read_csv(tmp_path / 'cut/log.csv')
    assert logged['loss'].tolist() == pytest.approx([row['loss'] for row in whole])
    a, b = (load_file(tmp_path / name / 'model.safetensors') for name in ('whole', 'cut'))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_what_a_training_leaves_behind(root, tmp_path):
    output = tmp_path / 'run'
    rows = train(TrainingJob(micro(epochs=1), root, output, workers=0, device='cpu'))
    assert {path.name for path in output.iterdir()} == {
        *('recipe.json', 'train.log', 'log.csv', 'last.pth', 'model.safetensors', 'curve.png')
    }
    with safe_open(output / 'model.safetensors', 'pt') as file:
        assert file.metadata()['img_size'] == '32'
    network = timm.create_model('maformer_micro', num_classes=10)
    network.load_state_dict(load_file(output / 'model.safetensors'))
    log = (output / 'train.log').read_text()
    assert 'batch 16 = 1 x 16, learning rate' in log
    assert f'loss {rows[0]["loss"]:.4f}' in log
    with Image.open(output / 'curve.png') as picture:
        assert picture.size == (960, 360)

    with pytest.raises(UserError, match='holds a training already'):
        train(TrainingJob(micro(epochs=1), root, output, workers=0))
    with pytest.raises(UserError, match=r'trained with epochs = 1, not 2'):
        train(TrainingJob(micro(epochs=2), root, output, workers=0, resume=True))
    (output / 'last.pth').write_bytes(b'PK broken')
    with pytest.raises(UserError, match=r'cannot read .*last\.pth'):
        train(TrainingJob(micro(epochs=1), root, output, workers=0, resume=True))


def test_two_processes_train_as_one_does(root, labels, tmp_path):
    """Without what is drawn in each process by itself: mixing and stochastic depth."""
    recipe = micro(True, mix_prob=0, drop_path=0, epochs=2)
    shared = {'data': root, 'labels': labels, 'device': 'cpu'}
    one = train(TrainingJob(recipe, output=tmp_path / 'one', workers=0, **shared))
    two = train(TrainingJob(recipe, output=tmp_path / 'two', workers=0, **shared), processes=2)
    for a, b in zip(one, two, strict=True):
        assert a['loss'] == pytest.approx(b['loss'], rel=1e-4)
        assert a['lr'] == b['lr']
    assert 'batch 16 = 2 x 8' in (tmp_path / 'two/train.log').read_text()
    with pytest.raises(UserError, match='holds a training already'):
        train(TrainingJob(recipe, output=tmp_path / 'two', workers=0, **shared))


def test_an_error_in_one_of_two_processes_ends_both_with_its_sentence(root, tmp_path):
    broken = tmp_path / 'data'
    shutil.copytree(root, broken)
    path = sorted((broken / 'train').rglob('*.JPEG'))[3]
    path.write_bytes(path.read_bytes()[:300])
    for processes, workers in ((1, 1), (2, 0)):
        job = TrainingJob(micro(epochs=1), broken, tmp_path / 'run', workers=workers, device='cpu')
        with pytest.raises(UserError, match=f'^cannot read the image {path}'):
            train(job, processes)
        shutil.rmtree(tmp_path / 'run')


def test_a_job_that_does_not_fit_is_explained(root, labels, tmp_path):
    def refused(match, recipe=None, **job):
        with pytest.raises(UserError, match=match):
            train(TrainingJob(recipe or micro(), **{'data': root, 'output': tmp_path / 'x'} | job))

    refused('needs the annotator', micro(True))
    refused('for token labeling only', labels=labels)
    refused('is not a folder', micro(True), labels=tmp_path / 'absent')
    refused(r'there is no label map .*\.pt', micro(True), labels=tmp_path, workers=1)
    shutil.rmtree(tmp_path / 'x')
    refused('do not fill a batch', micro(batch_size=1024))
    refused('cannot be mixed in pairs', micro(batch_size=15))
    refused('nothing to train', until=0)
    refused(r'no .*last\.pth to resume', resume=True)
    refused("'resnet18' has no auxiliary head", micro(True, model='resnet18'), labels=labels)
    refused("timm has no model 'resnet'", micro(model='resnet'))
    refused('--amp', amp='fp8')
    assert not Path(tmp_path / 'x').exists()


def test_the_command(root, tmp_path):
    small = ['img_size=32', 'epochs=1', 'batch_size=16']
    train_imagenet('maformer_micro', root, tmp_path / 'run', changes=small, workers=0)
    assert '16 = 1 x 16, learning rate 0.0005: scaled' in (tmp_path / 'run/train.log').read_text()
    with pytest.raises(UserError, match="'epochs' is no NAME=VALUE"):
        train_imagenet('maformer_micro', root, tmp_path, changes=['epochs'])


def test_a_broken_label_map_is_named(tmp_path):
    path = tmp_path / 'image.pt'
    path.write_bytes(b'nothing')
    with pytest.raises(UserError, match=r'cannot read the label map .*image\.pt'):
        load_label_map(path)
    torch.save(torch.zeros(5, 3), path)
    with pytest.raises(UserError, match=r'holds \[5, 3\]'):
        load_label_map(path)


def test_the_true_class_has_its_share_of_the_target():
    batch = {
        'image': torch.rand(4, 3, 32, 32),
        'label': torch.tensor([0, 1, 2, 6]),
        'map': some_maps(4),
        'box': torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 4),
        'flip': torch.zeros(4, dtype=torch.bool),
    }
    output = torch.randn(4, 7), torch.randn(4, 1, 1, 7)
    dense, tokens = dense_labels(batch['map'], batch['box'], batch['flip'], 7, (1, 1))
    for share in (0.0, 0.25):
        recipe = micro(
            True, mix_prob=0, label_smoothing=0, token_loss_weight=0.5, true_class_share=share
        )
        _, loss_of = targets_of(recipe, build(recipe, 7), 7)(batch)
        labels = (1 - share) * dense + share * F.one_hot(batch['label'], 7)
        expected = token_labeling_loss(output, labels, tokens, 0.5)
        torch.testing.assert_close(loss_of(output), expected)


def test_label_smoothing_without_mixing_is_the_plain_loss():
    recipe = micro(mix_prob=0, label_smoothing=0.1)
    batch = {'image': torch.rand(4, 3, 32, 32), 'label': torch.tensor([0, 1, 2, 9])}
    images, loss_of = targets_of(recipe, build(recipe, 10), 10)(dict(batch))
    assert torch.equal(images, batch['image'])
    logits = torch.randn(4, 10)
    expected = F.cross_entropy(logits, batch['label'], label_smoothing=0.1)
    torch.testing.assert_close(loss_of(logits), expected)


def policy(recipe):
    """The random operations of a recipe, as a training applies them."""
    transforms = timm.data.create_transform(
        32, is_training=True, auto_augment=recipe.rand_augment, separate=True
    )
    allow_no_bits(transforms[1])
    return transforms[1]


@pytest.mark.parametrize('name', ['maformer_small', 'maformer_base', 'maformer_large'])
def test_the_real_policy_is_legal_at_every_level_that_it_draws(name):
    """Pillow refuses to posterize to 0 bits, which two of a thousand images come to."""
    augment = policy(RECIPES[name])
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    with seeded(0):
        for _ in range(5000):
            assert augment(image).size == (8, 8)


@pytest.mark.parametrize('bits', range(9))
def test_posterize_keeps_the_highest_bits(bits):
    augment = policy(RECIPES['maformer_small'])
    (operation,) = (op for op in augment.transforms[0].ops if op.name == 'PosterizeIncreasing')
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert('RGB')
    expected = np.asarray(image) >> (8 - bits) << (8 - bits)
    assert np.array_equal(np.asarray(operation.aug_fn(image, bits)), expected)
