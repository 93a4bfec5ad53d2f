"""What a forward pass takes, found on the `meta` device: no compute, no memory, no weights."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import timm
import torch
import torch.nn as nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reproduce.complexity import flops as complexity
from reproduce.openmmlab import configs, models
from reproduce.systems import System
from reproduce.tasks import TASKS, classification
from reproduce.tasks.segmentation import RATIOS


def of_classifier(system: System, batch_size: int, trained: Mapping[str, Any]) -> dict[str, int]:
    """Return the fields of a `ForwardCost` of a classifier.

    Args:
        trained: the preprocessing that the weights were trained with, as far as they say so.
    """
    _, name, arguments = classification.resolve(system.name, {})
    shape = classification.preprocessing(name, arguments, trained)['input_size']
    with torch.device('meta'):
        classifier = timm.create_model(name, **arguments)
    # As many at a time as in the evaluation: networks that work in pieces take less than as many
    # times the memory of one.
    images = torch.empty(batch_size, *shape, device='meta')
    params, flops, intermediates = forwarded(classifier, lambda m: m(images))
    return _fields(shape[1:], params, flops // batch_size, intermediates)


def of_openmmlab(system: System, batch_size: int, multi_scale: bool) -> dict[str, int]:
    """Return the fields of a `ForwardCost` of a detector or segmenter."""
    config = configs.load_config(system.evaluated_config)
    network, size = models.build(config), models.evaluated_size(config)
    params, flops, intermediates = forwarded(network, lambda m: models.evaluated_forward(m, size))
    if multi_scale:
        largest = max(RATIOS)
        scaled = tuple(int(side * largest) for side in size)
        _, flops_of_largest, intermediates = forwarded(
            network, lambda m: models.evaluated_forward(m, scaled)
        )
        flops = of_all_views(flops, flops_of_largest, largest, RATIOS)
    # A batch of a segmenter's is segmented one image after the other.
    together = batch_size if TASKS[system.task].padded_batches else 1
    return _fields(size, params, flops, intermediates * together)


def _fields(size: Sequence[int], params: int, flops: int, intermediates: int) -> dict[str, int]:
    height, width = size
    return {
        'height': height,
        'width': width,
        'params': params,
        'flops': flops,
        'intermediates': intermediates,
    }


def of_all_views(first: int, scaled: int, ratio: float, ratios: Collection[float]) -> int:
    """Return the FLOPs of an image at all `ratios`, each also mirrored, from those at 1 and one.

    Those of layers grow with its pixels, those of attention over the whole of it with their square.
    """
    by_square = (scaled - ratio**2 * first) / (ratio**4 - ratio**2)
    by_pixels = first - by_square
    return round(2 * sum(by_pixels * r**2 + by_square * r**4 for r in ratios))


def forwarded(model: nn.Module, forward: Callable[[nn.Module], Any]) -> tuple[int, int, int]:
    """Return parameters of `model`; multiply-adds and most bytes at a time of `forward(model)`."""
    live = _Live()

    def watched(model: nn.Module) -> None:
        with live, torch.inference_mode():
            forward(model)

    counted = complexity.measure(model, watched)
    return counted.params, counted.total_flops, live.peak


class _Live(TorchDispatchMode):
    """Follows how many bytes the tensors that operators make hold at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.storages = {k: v for k, v in self.storages.items() if not v[0].expired()}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                held = StorageWeakRef(storage), storage.nbytes()
                self.storages.setdefault(storage._cdata, held)
        self.peak = max(self.peak, sum(held for _, held in self.storages.values()))
        return result
