"""Pretrained weights in other models: without token labeling, for other classes, at other sizes."""

import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from reproduce.base.errors import UserError
from reproduce.weights import loading

SMALL = {
    'maformer_micro': {},
    'lvvit_small': {'embed_dim': 24, 'depth': 2, 'num_heads': 2, 'stem_width': 8, 'img_size': 64},
}
each = pytest.mark.parametrize('name', SMALL)


@pytest.fixture
def file(tmp_path, name):
    """Weights of a training with token labeling on 1000 classes."""
    torch.manual_seed(0)
    network = timm.create_model(name, token_labeling=True, **SMALL[name])
    save_file(network.state_dict(), tmp_path / 'labeled.safetensors')
    return tmp_path / 'labeled.safetensors'


def pretrained(name, file, **arguments):
    overlay = {'file': str(file)}
    return timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, **SMALL[name] | arguments
    ).eval()


@each
def test_a_plain_model_leaves_the_auxiliary_head_out_and_says_so_once(name, file):
    with pytest.warns(UserWarning, match='created without token_labeling=True') as caught:
        plain = pretrained(name, file)
    assert len([w for w in caught if 'auxiliary head' in str(w.message)]) == 1
    labeled = pretrained(name, file, token_labeling=True, add_token_max=False)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), labeled(images))


@each
@pytest.mark.parametrize('token_labeling', [True, False])
@pytest.mark.filterwarnings('ignore:the weights have an auxiliary head')
def test_other_classes_are_fine_tuned(name, file, token_labeling):
    model = pretrained(name, file, num_classes=10, token_labeling=token_labeling).train()
    original = pretrained(name, file, token_labeling=True).state_dict()
    state = model.state_dict()
    heads = {k for k in state if k.startswith(('head.', 'aux_head.'))}
    assert all(torch.equal(state[k], original[k]) for k in state.keys() - heads)
    assert {state[k].shape[0] for k in heads} == {10}
    outputs = model(torch.randn(2, 3, 64, 64))
    logits, *tokens = outputs if token_labeling else (outputs,)
    assert logits.shape == (2, 10)
    assert [t.shape[-1] for t in tokens] == [10] * token_labeling


@each
def test_a_features_only_model_needs_no_remark(name, file):
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'the weights have an auxiliary head')
        model = pretrained(name, file, num_classes=0)
    assert model(torch.randn(1, 3, 64, 64)).ndim == 2


@pytest.mark.parametrize('name', ['lvvit_small'])
@pytest.mark.filterwarnings('ignore:the weights have an auxiliary head')
def test_lvvits_position_table_is_resampled_as_its_release_does(name, file):
    model = pretrained(name, file, img_size=96)
    table = pretrained(name, file).pos_embed  # (1, 1 + 4 * 4, C)
    grid = table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(6, 6), mode='bicubic', align_corners=False)
    expected = torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, 36, -1)], 1)
    torch.testing.assert_close(model.pos_embed, expected)


@pytest.mark.parametrize('name', ['lvvit_small'])
def test_a_misfit_names_what_differs_under_the_names_of_the_model(name, file):
    """An evaluation takes weights at their own size; of the release's names nothing is listed."""
    state = loading.read(file)
    released = {k.replace('embed.proj.', 'embed.'): v for k, v in state.items()}
    torch.save(released, file.with_suffix('.pth'))
    model = timm.create_model(name, token_labeling=True, **SMALL[name] | {'img_size': 96})
    with pytest.raises(UserError) as error:
        loading.load(model, file.with_suffix('.pth'))
    message = str(error.value)
    assert 'pos_embed is (1, 17, 24) in the file and (1, 37, 24) in the model' in message
    assert message.count(' in the file and ') == 1
    assert ' more' not in message
