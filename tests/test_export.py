"""The folder of a measured classifier: timm computes the same from it, the Hub reads its card."""

import json

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_fuzz import fuzz, mutated_tree
from timm.data import resolve_model_data_config

from datasets import shapes
from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.evaluate import records
from reproduce.evaluate.harness import evaluate
from reproduce.report.model_folder import export
from reproduce.tasks.job import Job


@pytest.fixture(scope='module')
def outcome(embedded, sound):
    preprocessing = {'img_size': 64, 'crop_pct': 1.0}
    return evaluate(
        Job('imagenet', 'maformer_micro', sound, embedded, preprocessing=preprocessing, workers=0)
    )


@pytest.fixture
def kept(outcome, tmp_path):
    return outcome.save(tmp_path / 'kept')


def test_timm_computes_the_same_from_the_folder(run, kept, outcome, sound, tmp_path):
    folder = tmp_path / 'made' / 'micro'
    code, out, err = run('export', kept, '--output', folder, '--checkpoint', sound)
    assert (code, err) == (0, '')
    assert f"timm.create_model('local-dir:{folder}', pretrained=True)" in out
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    expected = timm.create_model('maformer_micro', num_classes=len(shapes.CLASSES)).eval()
    expected.load_state_dict(load_file(sound))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), expected(images))
    prepared = resolve_model_data_config(model)
    assert prepared['input_size'] == (3, 64, 64)
    assert prepared['crop_pct'] == 1.0
    assert sha256_of(folder / 'model.safetensors') == outcome.evaluation.checkpoint.sha256
    assert str(tmp_path) not in (folder / 'config.json').read_text()
    assert records.load(folder / 'record.json').metrics == outcome.evaluation.metrics
    assert run('verify', folder / 'record.json', '--checkpoint', sound)[0] == 0


def test_the_card_states_what_was_measured(kept, outcome, sound, tmp_path):
    e = outcome.evaluation
    export(kept, e, tmp_path / 'made', sound, 'Apache-2.0')
    card = ModelCard.load(tmp_path / 'made/README.md')
    assert (card.data.license, card.data.library_name) == ('apache-2.0', 'timm')
    found = {result.metric_name: result for result in card.data.eval_results}
    top1 = found['Top-1 accuracy (%)']
    assert top1.metric_value == e.metrics['top1']
    assert top1.dataset_args == {'images': e.data.images, 'fingerprint': e.data.fingerprint}
    assert top1.dataset_type == 'custom'
    assert '--crop-pct 1.0 --img-size 64' in card.text
    assert f'{e.metrics["top1"]:.2f}' in card.text


def test_arguments_and_other_forms_of_a_file_are_kept(embedded, tmp_path):
    """Weights of a training with token labeling, under names of the first release."""
    torch.manual_seed(0)
    small = {'embed_dim': 24, 'depth': 2, 'num_heads': 2, 'stem_width': 8, 'img_size': 32}
    arguments = {**small, 'token_labeling': True, 'num_classes': len(shapes.CLASSES)}
    network = timm.create_model('lvvit_small', **arguments).eval()
    state = {k.replace('.proj.conv', '.conv'): v for k, v in network.state_dict().items()}
    torch.save({'state_dict_ema': state}, tmp_path / 'lvvit.pth.tar')
    job = Job(
        *('imagenet', 'lvvit_small', tmp_path / 'lvvit.pth.tar', embedded),
        arguments=arguments,
        preprocessing={'img_size': 32},
        workers=0,
    )
    outcome = evaluate(job)
    path = outcome.save(tmp_path / 'kept')
    export(path, outcome.evaluation, tmp_path / 'made', tmp_path / 'lvvit.pth.tar')
    model = timm.create_model(f'local-dir:{tmp_path / "made"}', pretrained=True).eval()
    assert model.token_labeling
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), network(images))
    digest = sha256_of(tmp_path / 'made/model.safetensors')
    assert digest in (tmp_path / 'made/README.md').read_text()


def refusal(run, *arguments):
    code, out, err = run('export', *arguments)
    assert (code, out, err.count('\n')) == (2, '', 1)
    return err


def test_what_cannot_be_exported_says_what_to_do(run, kept, sound, tmp_path):
    made = tmp_path / 'made'
    save_file({'x': torch.zeros(1)}, tmp_path / 'other.safetensors')
    wrong = refusal(run, kept, '--output', made, '--checkpoint', tmp_path / 'other.safetensors')
    assert 'is not the file that' in wrong
    assert not made.exists()
    made.mkdir()
    (made / 'mine').write_text('mine')
    assert 'is not empty' in refusal(run, kept, '--output', made, '--checkpoint', sound)
    assert [path.name for path in made.iterdir()] == ['mine']
    content = json.loads(kept.read_text()) | {'task': 'coco', 'model': 'mine.py'}
    kept.write_text(json.dumps(content))
    with pytest.raises(UserError, match='timm does not load'):
        export(kept, records.load(kept), tmp_path / 'new', sound)


@fuzz(40)
@given(st.data())
def test_a_mutated_record_is_refused_in_one_sentence(outcome, sound, run, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp('mutated')
    path = outcome.save(folder)
    before = json.loads(path.read_text())
    content = data.draw(mutated_tree(before))
    path.write_text(json.dumps(content))
    where = ('--output', folder / 'made', '--checkpoint', sound)
    code, _, err = run('export', path, *where)
    assert (code, err.count('\n')) == ((0, 0) if content == before else (2, 1))
