"""Layers written out slowly, and the checks of networks that are made of them.

Maps are channels-last, (H, W, C), and of one image. `state` holds parameters by name.
"""

import math

import timm
import torch

from reproduce.weights import parameters


def linear(x, state, name):
    weight = state[f'{name}.weight']
    return x @ weight.flatten(1).T + state.get(f'{name}.bias', 0)


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def layer_norm(x, state, name, eps=1e-5):
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x * state[f'{name}.weight'] + state[f'{name}.bias']


def batch_norm(x, state, name):
    x = (x - state[f'{name}.running_mean']) / (state[f'{name}.running_var'] + 1e-5).sqrt()
    return x * state[f'{name}.weight'] + state[f'{name}.bias']


def padded(x, multiple):
    """Zeros at the bottom and on the right make both sides multiples."""
    H, W, C = x.shape
    out = x.new_zeros(H + -H % multiple, W + -W % multiple, C)
    out[:H, :W] = x
    return out


def convolution(x, state, name, stride=1, padding=0):
    """(H, W, C) to (h, w, C'), pixel by pixel; a kernel of one input channel is depthwise."""
    weight, bias = state[f'{name}.weight'], state.get(f'{name}.bias', 0)
    H, W, C = x.shape
    k = weight.shape[-1]
    equation = 'yxo,oyx->o' if weight.shape[1] == 1 else 'yxc,ocyx->o'
    weight = weight[:, 0] if weight.shape[1] == 1 else weight
    whole = x.new_zeros(H + 2 * padding, W + 2 * padding, C)
    whole[padding : padding + H, padding : padding + W] = x
    rows = range(0, H + 2 * padding - k + 1, stride)
    columns = range(0, W + 2 * padding - k + 1, stride)
    out = [
        torch.einsum(equation, whole[y : y + k, z : z + k], weight) + bias
        for y in rows
        for z in columns
    ]
    return torch.stack(out).view(len(rows), len(columns), -1)


def small_network(name, sizes, **kwargs):
    """A network of four stages with the sizes `dims`, `depths` and `heads`, for five classes."""
    return timm.create_model(
        name,
        embed_dims=sizes['dims'],
        depths=sizes['depths'],
        num_heads=sizes['heads'],
        num_classes=5,
        **kwargs,
    ).eval()


class Shapes(dict):
    """The names and shapes of a released checkpoint, written down layer by layer."""

    def layer(self, name, weight, bias=True):
        self[f'{name}.weight'] = weight
        if bias:
            self[f'{name}.bias'] = weight[:1]

    def batch_norm(self, name, channels):
        self.layer(name, (channels,))
        self[f'{name}.running_mean'] = self[f'{name}.running_var'] = (channels,)
        self[f'{name}.num_batches_tracked'] = ()

    def random(self):
        """Random parameters, large enough that every one of them shows in the outputs."""
        torch.manual_seed(0)
        state = {}
        for name, shape in self.items():
            if name.endswith(('num_batches_tracked', 'relative_position_index')):
                state[name] = torch.zeros(shape, dtype=torch.long)
                continue
            is_matrix = name.endswith('.weight') and len(shape) > 1
            scale = (2 / max(math.prod(shape[1:]), 4)) ** 0.5 if is_matrix else 0.5
            state[name] = torch.randn(shape, dtype=torch.double) * scale
            if name.endswith('running_var'):
                state[name] = 0.5 + state[name].abs()
            elif 'norm' in name and name.endswith('weight'):
                state[name] += 1
        return state


def check_names(shapes, checkpoint_filter_fn, name, **arguments):
    """The names of a release become all those of the network, and the network's own stay."""
    released = {key: torch.empty(shape, device='meta') for key, shape in shapes.items()}
    with torch.device('meta'):
        ours = timm.create_model(name, **arguments).state_dict()
    translated = checkpoint_filter_fn(released)
    assert {k: v.shape for k, v in translated.items()} == {k: v.shape for k, v in ours.items()}
    assert list(checkpoint_filter_fn(ours)) == list(ours)


def load_release(model, content, path):
    """Load what a released file holds, by way of the file."""
    torch.save(content, path)
    model = model.double().eval()
    parameters.load(model, path)
    return model


def check_outputs(model, size, slow):
    """The maps and the logits are those that `slow` returns for the second of two images."""
    images = torch.randn(2, 3, *size, dtype=torch.double)
    with torch.no_grad():
        maps = model.forward_intermediates(images, intermediates_only=True, output_fmt='NHWC')
        logits = model(images)
        expected, expected_logits = slow(images[1])
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours[1], theirs)
    torch.testing.assert_close(logits[1], expected_logits)
