"""The file of trained weights: the same training gives the same bytes."""

import json
from collections.abc import Mapping

import torch
from safetensors.torch import save


def to_bytes(weights: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return `weights` and `metadata` in the format of safetensors, metadata sorted by key.

    The library writes metadata in an order that differs from one process to the next, and with it
    the file's hash, by which records name weights.
    """
    content = save(dict(weights), dict(metadata))
    length = int.from_bytes(content[:8], 'little')
    header = json.loads(content[8 : 8 + length])
    header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
    text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
    text += b' ' * (-len(text) % 8)  # the tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, 'little') + text + content[8 + length :]
