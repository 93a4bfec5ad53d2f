"""What decides the speed on a GPU, shown without one: kernels of attention, waits, strides."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import model as _maformer  # noqa: F401
from datasets import shapes
from model.attention import CrossShapedAttention
from reproduce.base import gpus
from reproduce.base.errors import UserError
from reproduce.base.loading import default_workers
from reproduce.base.processes import join
from reproduce.train.classifier_steps import ClassifierTraining
from reproduce.train.jobs import TrainingJob
from reproduce.train.label_maps import make_labels
from reproduce.train.recipes import recipe_for


class Operators(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func._schema.name.removeprefix('aten::')] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    ('name', 'attentions'),
    [
        ('maformer_small', 3 * 3 + 2),  # two stripes and the fusion
        ('maformer_small_shifted_window', 3 * 2 + 2),
        ('cswin_tiny', 4 * 2 + 1),
        ('focal_tiny', 5),
        ('mixformer_b4', 5),
        ('vil_small', 3 * 2 + 2),  # of chunks and of the global token
        ('shuffle_tiny', 5),
        ('dsnet_tiny', 5 * 3),
    ],
)
def test_every_attention_is_a_fused_kernel_and_every_parameter_has_a_gradient(name, attentions):
    """The CPU's fused kernel needs what those of GPUs do, and a bias without gradient besides."""
    with torch.device('meta'):
        network = timm.create_model(name, num_classes=10, depths=(2, 1, 1, 1))
    with FakeTensorMode(allow_non_fake_inputs=True):
        network.to_empty(device='cpu')
        images = torch.empty(2, 3, 224, 224)
        with Operators() as operators:
            network.eval().requires_grad_(False)(images)
        out = network.train().requires_grad_()(images)
        sum(part.sum() for part in (out if isinstance(out, tuple) else [out])).backward()
    kernels = {name: n for name, n in operators.calls.items() if 'attention' in name}
    assert kernels == {'_scaled_dot_product_flash_attention_for_cpu': attentions}
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_gradients_of_lepe_have_the_strides_of_its_weights():
    """PyTorch copies others in each step."""
    attention, strides = CrossShapedAttention(8, 2), []
    for convolution in attention.lepe:
        convolution.weight.register_hook(lambda gradient: strides.append(gradient.stride()[2:]))
    attention(torch.randn(2, 5, 6, 8)).sum().backward()
    assert strides == [(3, 1), (3, 1)]


class Waits(TorchFunctionMode):
    """Lists the calls that would make the host wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, '__name__', '')
        ours = 'site-packages' not in sys._getframe(1).f_code.co_filename
        moves = any(isinstance(value, torch.device) for value in (*args, *kwargs.values()))
        if name in ('item', 'tolist', 'cpu', 'cuda', 'numpy') or (
            ours and moves and name in ('to', 'tensor') and not kwargs.get('non_blocking')
        ):
            self.calls.append(name)
        return func(*args, **kwargs)


@pytest.mark.parametrize('token_labeling', [False, True])
def test_nothing_in_a_step_waits_for_the_device(tmp_path, token_labeling):
    shapes.write(tmp_path, train=50, val=10)
    data, maps = tmp_path / 'imagenet', tmp_path / 'maps' if token_labeling else None
    if maps:
        weights = tmp_path / 'annotator.pth'
        torch.save(timm.create_model('test_resnet', num_classes=10).state_dict(), weights)
        make_labels('test_resnet', data, maps, weights, 32, workers=0)
    recipe = recipe_for('maformer_micro', token_labeling).changed(
        img_size=32, batch_size=8, accumulation=2
    )
    with join('cpu') as group:
        job = TrainingJob(recipe, data, tmp_path / 'run', maps, workers=0, amp='fp16')
        training = ClassifierTraining(job, group)
    batch = next(training.batches())
    training.take_step(batch)
    with Waits() as waits, Operators() as operators:
        training.take_step(batch)
    assert waits.calls == []
    assert not {'_local_scalar_dense', 'nonzero', 'masked_select'} & operators.calls.keys()
    assert operators.calls['_fused_adamw_'] > 0


@pytest.mark.parametrize(('script', 'nodes'), [('one_node', 1), ('two_nodes', 2)])
def test_the_sbatch_files_give_each_gpu_eight_cores(script, nodes, monkeypatch):
    text = (Path(__file__).parents[1] / f'docs/slurm/{script}.sbatch').read_text()
    asked = dict(re.findall(r'^#SBATCH --([\w-]+)=(\S+)$', text, re.MULTILINE))
    assert [asked[name] for name in ('nodes', 'ntasks-per-node', 'gpus-per-node')] == [
        *(str(nodes), '1', '8')
    ]
    monkeypatch.setenv('SLURM_CPUS_PER_TASK', asked['cpus-per-task'])
    monkeypatch.setenv('LOCAL_WORLD_SIZE', asked['gpus-per-node'])
    assert default_workers() == 8


def test_an_operator_without_a_deterministic_algorithm_is_one_sentence(monkeypatch):
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', '')
    message = 'put_ does not have a deterministic implementation, .*: leave out --deterministic'
    try:
        with pytest.raises(UserError, match=message), join('cpu'):
            gpus.use_deterministic_algorithms()
            torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))
    finally:
        torch.use_deterministic_algorithms(False)
