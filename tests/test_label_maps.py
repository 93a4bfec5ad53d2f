"""Label maps: the annotator at every position, and a folder that says how its maps were made."""

import json

import pytest
import timm
import torch
from PIL import Image
from timm.data import resolve_data_config
from torchvision.transforms import functional as TF

from datasets import imagenet, shapes
from datasets.reading import open_image
from reproduce.base.errors import UserError
from reproduce.train.label_maps import label_maps, make_labels
from reproduce.train.token_labeling import load_label_map, origin


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Images of 90 x 60 pixels: neither square nor of the annotator's size."""
    root = tmp_path_factory.mktemp('data')
    shapes.write(root, train=20, val=10)
    for path in (root / 'imagenet').rglob('*.JPEG'):
        image = Image.open(path).resize((90, 60))
        image.save(path, quality=95)
    return root / 'imagenet'


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'annotator.pth'
    torch.save(timm.create_model('test_resnet', num_classes=10).state_dict(), path)
    return path


def make(data, output, weights, **options):
    return make_labels('test_resnet', data, output, weights, 96, workers=0, device='cpu', **options)


@pytest.mark.parametrize('name', ['test_resnet', 'maformer_micro', 'vit_tiny_patch16_224'])
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


def test_every_training_image_has_a_map_of_the_whole_image(data, weights, tmp_path):
    make(data, tmp_path, weights)
    record = json.loads((tmp_path / 'labels.json').read_text())
    assert record['annotator'] == 'test_resnet' and record['complete']
    annotator = timm.create_model('test_resnet', num_classes=10).eval()
    annotator.load_state_dict(torch.load(weights))
    settings = resolve_data_config({}, model=annotator)
    images = imagenet.load(data, 'train')
    for path, label in images.samples:
        image = open_image(path)
        pixels = TF.resize(image, [96, 96], TF.InterpolationMode(settings['interpolation']))
        pixels = TF.normalize(TF.to_tensor(pixels), settings['mean'], settings['std'])
        with torch.inference_mode():
            expected = label_maps(annotator, pixels[None])[0]
        found = load_label_map(tmp_path / images.classes[label] / f'{path.stem}.pt', 10)
        assert found.shape == (2, 5, 3, 3)
        torch.testing.assert_close(found[0], expected[0], atol=1e-2, rtol=1e-2)
    assert len(list(tmp_path.rglob('*.pt'))) == len(images.samples)


def test_maps_of_two_kinds_are_not_mixed(data, weights, tmp_path):
    make(data, tmp_path, weights)
    maps = sorted(tmp_path.rglob('*.pt'))
    before = maps[0].stat().st_mtime_ns
    maps[1].unlink()
    # An interrupted run is continued.
    assert make(data, tmp_path, weights) == (1, len(maps) - 1)
    assert maps[0].stat().st_mtime_ns == before
    assert maps[1].exists()
    with pytest.raises(UserError, match='holds label maps of precision = fp32, not bf16'):
        make(data, tmp_path, weights, amp='bf16')
    other = tmp_path / 'other.pth'
    torch.manual_seed(1)
    torch.save(timm.create_model('test_resnet', num_classes=10).state_dict(), other)
    with pytest.raises(UserError, match='holds label maps of checkpoint_sha256 = '):
        make(data, tmp_path, other)
    assert origin(tmp_path)['resize'] == 'squash'
    (tmp_path / 'labels.json').unlink()
    with pytest.raises(UserError, match='holds label maps of annotator = None'):
        make(data, tmp_path, weights)


@pytest.mark.parametrize(
    'content',
    [
        {'map': torch.zeros(2, 5, 4, 4)},
        torch.zeros(3, 5, 4, 4),
        torch.full((2, 5, 4, 4), torch.nan),
        torch.full((2, 5, 4, 4), 10.0),
    ],
)
def test_label_maps_of_another_format_are_refused(tmp_path, content):
    path = tmp_path / 'x.pt'
    torch.save(content, path)
    with pytest.raises(UserError, match=r'x\.pt \(.*: expected a tensor \[2, 5, H, W\]'):
        load_label_map(path, 10)
    path.write_bytes(b'nothing')
    with pytest.raises(UserError, match=r'cannot read the label map .*x\.pt'):
        load_label_map(path, 10)
