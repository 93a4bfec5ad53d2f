"""ADE20K evaluation for real: micro segmenters with random weights on drawn scenes."""

import io
import zipfile

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import Runner
from PIL import Image
from ranks import in_ranks

from datasets import shapes
from datasets.ade20k import FORMAT, load
from reproduce.base.errors import UserError
from reproduce.evaluate.harness import evaluate
from reproduce.openmmlab import configs, models
from reproduce.openmmlab.data_paths import point_at
from reproduce.tasks.job import Job
from reproduce.tasks.segmentation import pipeline
from reproduce.tasks.segmentation_scores import score_folder

FPN = 'fpn_maformer-micro_shapes.py'
SCALE = (320, 80)
SMALL = {'test_dataloader.dataset.pipeline.1.scale': SCALE}
SLIDE = {'model.test_cfg': {'mode': 'slide', 'crop_size': (64, 64), 'stride': (40, 40)}}
IMAGES = 5  # neither 2 nor 3 divides it


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    shapes.write(root, train=0, val=45)
    return root / 'ade20k/ADEChallengeData2016'


def segmenter(config, seed=0):
    """With random weights that predict several classes."""
    torch.manual_seed(seed)
    config = configs.load_config(config)
    model = models.build(config, 'cpu')
    torch.nn.init.normal_(model.decode_head.conv_seg.weight, std=3)
    return model


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    torch.save(segmenter(FPN).state_dict(), folder / f'{FPN}.pth')
    return folder


def job(root, weights, arguments=None, **kwargs):
    options = {'limit': IMAGES, 'workers': 0, 'device': 'cpu'}
    options['arguments'] = SMALL | (arguments or {})
    return Job('ade20k', FPN, weights / f'{FPN}.pth', root, **options | kwargs)


def opened(predictions):
    with zipfile.ZipFile(io.BytesIO(predictions)) as archive:
        return {
            name: np.array(Image.open(io.BytesIO(archive.read(name))))
            for name in archive.namelist()
        }


@pytest.fixture(scope='module')
def alone(root, weights):
    return evaluate(job(root, weights, multi_scale=True))


@pytest.mark.parametrize('arguments', [{}, SLIDE], ids=['whole', 'slide'])
def test_it_is_what_mmsegs_own_test_loop_gives(root, weights, tmp_path, arguments):
    found = evaluate(job(root, weights, arguments=arguments)).evaluation
    config = configs.load_config(FPN)
    config.merge_from_dict({**SMALL, **arguments})
    data = load(root)
    point_at(config, data, 'test')
    n = len(data.samples)
    config.test_dataloader.dataset.indices = [i * n // IMAGES for i in range(IMAGES)]
    config.merge_from_dict({'test_dataloader.num_workers': 0, 'log_level': 'ERROR'})
    config.test_dataloader.persistent_workers = False
    config.model.backbone.init_cfg = None
    config.work_dir, config.load_from = str(tmp_path), str(weights / f'{FPN}.pth')
    config.visualizer = None
    expected = Runner.from_cfg(config).test()
    assert expected['mIoU'] > 0
    for name, value in found.metrics.items():
        theirs = {'miou': 'mIoU', 'macc': 'mAcc', 'aacc': 'aAcc'}[name]
        assert value == pytest.approx(expected[theirs], abs=0.00501), name


def views(image, model):
    """Scores (K, H, W) of the 12 views, each at the size of the image (H, W, 3) in BGR."""
    mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
    height, width = image.shape[:2]
    for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75):
        factor = min(SCALE[0] * ratio / max(height, width), SCALE[1] * ratio / min(height, width))
        size = int(width * factor + 0.5), int(height * factor + 0.5)
        resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        rgb = torch.from_numpy(resized[:, :, ::-1].copy()).permute(2, 0, 1).float()
        inputs = ((rgb - mean) / std)[None]
        for flip in (False, True):
            logits = model._forward(inputs.flip(3) if flip else inputs)
            logits = F.interpolate(logits, inputs.shape[2:], mode='bilinear')
            logits = logits.flip(3) if flip else logits
            yield F.interpolate(logits, (height, width), mode='bilinear')[0].softmax(0)


@torch.inference_mode()
def test_multi_scale_is_the_mean_of_twelve_views(root, weights, alone):
    model = segmenter(FPN)
    kept = opened(alone.predictions)
    samples = load(root, limit=IMAGES).samples
    assert set(kept) == {f'{d}{p.name}' for _, p in samples for d in ('', 'multi_scale/')}
    differ = 0
    for path, label_map in samples:
        scores = list(views(cv2.imread(str(path)), model))
        assert len(scores) == 12
        single, multi = scores[4].argmax(0) + 1, sum(scores).argmax(0) + 1
        # A pixel may have two best classes up to rounding.
        assert (kept[label_map.name] != single.numpy()).mean() < 1e-3
        assert (kept[f'multi_scale/{label_map.name}'] != multi.numpy()).mean() < 1e-3
        differ += (single != multi).sum().item()
    assert differ > 100


def test_multi_scale_sizes_are_those_of_the_papers():
    config = configs.load_config('upernet_maformer-small_8xb2-160k_ade20k-512x512.py')
    resize, flip, _ = pipeline(config, True)[1]['transforms']
    assert sorted(step['scale'] for step in resize) == [
        *((1024, 256), (1536, 384), (2048, 512), (2560, 640), (3072, 768), (3584, 896)),
    ]
    assert all(step['keep_ratio'] for step in resize)
    assert [step['prob'] for step in flip] == [0, 1]
    plain = pipeline(config, False)
    assert [step['type'] for step in plain] == ['LoadImageFromFile', 'Resize', 'PackSegInputs']
    assert plain[1]['scale'] == (2048, 512) == resize[0]['scale']
    config.test_dataloader.dataset.pipeline[1] = {'type': 'Resize', 'scale_factor': 0.5}
    with pytest.raises(UserError, match='has no Resize with a scale of two sides'):
        pipeline(config, True)


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same(root, weights, alone):
    together = in_ranks(3, evaluate, job(root, weights, multi_scale=True))
    assert together.predictions == alone.predictions
    assert together.evaluation.metrics == alone.evaluation.metrics
    assert together.evaluation.per_class == alone.evaluation.per_class
    assert together.evaluation.key == alone.evaluation.key


def test_images_of_different_sizes_in_a_batch(root, weights, alone):
    """Of one scale, which is part of several."""
    together = evaluate(job(root, weights, batch_size=3))
    assert together.evaluation.metrics.keys() == {'miou', 'macc', 'aacc'}
    assert together.evaluation.metrics.items() < alone.evaluation.metrics.items()
    assert together.evaluation.key != alone.evaluation.key
    whole = opened(alone.predictions)
    for name, labels in opened(together.predictions).items():
        assert np.array_equal(labels, whole[name])


def test_what_is_kept_scores_the_same(root, alone, tmp_path):
    path = tmp_path / f'kept{alone.evaluation.predictions}'
    path.write_bytes(alone.predictions)
    again, images, problems = score_folder(path, root / 'annotations/validation', IMAGES, FORMAT)
    assert again.metrics == alone.evaluation.metrics
    assert again.per_class == alone.evaluation.per_class
    assert images == alone.evaluation.data.images == IMAGES
    assert problems == alone.evaluation.data.problems


def test_a_model_that_gives_no_numbers(root, tmp_path):
    state = segmenter(FPN).state_dict()
    state['decode_head.conv_seg.weight'] *= 1e36
    torch.save(state, tmp_path / f'{FPN}.pth')
    with pytest.raises(UserError, match=r'NaN or infinity for .*ADE_val_00000001\.jpg'):
        evaluate(job(root, tmp_path))


def test_a_model_of_other_classes(root, weights):
    arguments = {'model.decode_head.num_classes': 150}
    with pytest.raises(UserError, match=r'num_classes is 150, and .* has 15 classes'):
        evaluate(job(root, weights, arguments=arguments))
