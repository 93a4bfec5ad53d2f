"""The peak of a training step's memory on a GPU, predicted without one.

The bytes of all tensors that exist at the same time are counted, each rounded up as torch's
allocator does. A classifier takes its steps with fake tensors, which have shapes and no content, so
a prediction takes seconds and no memory. What the loss of a detector computes depends on the image:
it takes its steps with real tensors, on one image as large as the recipe's and with as many objects
as its heads sample.

What a GPU holds besides is not counted: CUDA's context, buffers of NCCL and of DDP, workspaces of
cuDNN and cuBLAS, and fragments. `LEFT_OUT` is a reserve for these.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
import torch.nn as nn
from timm.optim import create_optimizer_v2

# PyTorch documents the two modes under these paths.
from torch._subclasses import FakeTensorMode
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from reproduce.base.quiet import quiet_libraries
from reproduce.base.tensors import tensors_in
from reproduce.tasks.job import autocast
from reproduce.train.building import build, targets_of
from reproduce.train.jobs import RehearsalRequest
from reproduce.train.recipes import Recipe

GIB = 2**30

# GiB of a GPU that the tensors of a step cannot have.
LEFT_OUT = 1.5

# The settings of a recipe that decide the tensors of a step.
_SHAPING = {'model', 'arguments', 'token_labeling', 'img_size', 'drop_path', 'accumulation'}

# torch's allocator hands out multiples of this.
_BLOCK = 512

_CLASSES = 1000
# The shape of the image of a detector, and its objects: a mask head samples up to 128.
_IMAGE = 3, 800, 1333
_OBJECTS = 130


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is active: those `now`, the `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, tuple[ref, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tensors_in((args, list(kwargs.values()))):
            self._add(tensor, made=False)
        out = func(*args, **kwargs)
        for tensor in tensors_in(out):
            self._add(tensor, made=True)
        return out

    def _add(self, tensor: torch.Tensor, made: bool) -> None:
        """Count the memory of a tensor once; what was there before counts nothing."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._alive:
            size = -(-storage.nbytes() // _BLOCK) * _BLOCK if made else 0
            self._alive[key] = ref(storage, lambda _: self._remove(key)), size
            self.now += size
            self.peak = max(self.peak, self.now)

    def _remove(self, key: int) -> None:
        self.now -= self._alive.pop(key)[1]


@contextmanager
def _norms_in_fp32() -> Iterator[None]:
    """Let autocast on the CPU compute norms in fp32, as on a GPU; recomputed ones, too."""

    def cast(module: nn.Module, inputs: Any) -> Any:
        if isinstance(module, nn.LayerNorm | nn.GroupNorm) and torch.is_autocast_enabled('cpu'):
            return (inputs[0].float(),)
        return None

    hook = register_module_forward_pre_hook(cast)
    try:
        yield
    finally:
        hook.remove()


def _autocast(amp: str) -> torch.autocast:
    # A CPU computes fastest in bf16, which has as many bytes as fp16.
    return autocast(torch.device('cpu'), 'bf16' if amp == 'fp16' else amp)


def classifier_peak(recipe: Recipe, images: int, amp: str) -> float:
    """Predict the peak of a training step of a classifier with `images` in a process, in GiB."""
    with torch.device('meta'):
        model = build(recipe, _CLASSES)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, PeakMemory() as memory, _norms_in_fp32():
        model = model.to_empty(device='cpu')
        average = [torch.empty_like(tensor) for tensor in model.state_dict().values()]
        optimizer = create_optimizer_v2(model, 'adamw', lr=1e-3, weight_decay=0.05, fused=True)
        targets = targets_of(recipe, model, _CLASSES)
        batch = {
            'image': torch.empty(images, 3, recipe.img_size, recipe.img_size),
            'label': torch.empty(images, dtype=torch.int64),
        }
        if recipe.token_labeling:
            # Five scores and classes in each of the 18 x 18 cells of LV-ViT's label maps.
            batch['map'] = torch.empty(images, 2, 5, 18, 18, dtype=torch.half)
            batch['box'] = torch.empty(images, 4)
        for _ in range(2):  # the optimizer has its state from the first step on
            memory.peak = memory.now
            optimizer.zero_grad()
            parts = [value.chunk(recipe.accumulation) for value in batch.values()]
            for part in zip(*parts, strict=True):
                inputs, loss_of = targets(dict(zip(batch, part, strict=True)))
                with _autocast(amp):
                    output = model(inputs)
                loss_of(output).backward()
                del output, inputs, loss_of
            optimizer.step()
        del average
        return memory.peak / GIB


def config_peak(name: str, images: int, amp: str, grad_checkpointing: bool = False) -> float:
    """Predict the peak of a training step of a config with `images` in a process, in GiB.

    It takes two steps with one image, or two of a segmenter. What an image needs besides weights,
    gradients and the optimizer's state, each of `images` needs.
    """
    # Imported here, because they take seconds, and classifiers do not need them.
    from mmdet.testing import demo_mm_inputs
    from mmengine.optim import OptimWrapper
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from reproduce.openmmlab import models
    from reproduce.openmmlab.configs import load_config, task_of

    config = load_config(name)
    if grad_checkpointing:
        config.model.backbone.with_cp = True
    if task_of(config) == 'coco':
        drawn = 1
        batch = demo_mm_inputs(1, [_IMAGE], [_OBJECTS], num_classes=80, with_mask=True)
        masks = batch['data_samples'][0].gt_instances.masks
        masks.masks = masks.masks.astype('uint8')  # as a data loader gives them, and not in float64
    else:
        drawn = 2  # UPerNet normalizes one cell of each image, and BatchNorm needs two values
        size = config.model.data_preprocessor.size
        labels = PixelData(data=torch.zeros(1, *size, dtype=torch.int64))
        sample = SegDataSample(metainfo={'img_shape': size, 'ori_shape': size}, gt_sem_seg=labels)
        image = torch.randint(256, (3, *size), dtype=torch.uint8)
        batch = {'inputs': [image] * drawn, 'data_samples': [sample] * drawn}
    with quiet_libraries(), PeakMemory() as memory, _norms_in_fp32(), _autocast(amp):
        model = models.build(config, 'cpu').requires_grad_().train()
        models.find_regions_in_fp32(model)
        optimizer = OptimWrapper(torch.optim.AdamW(model.parameters()))
        for _ in range(2):
            model.train_step(batch, optimizer)
    # Weights and two states of AdamW exist still, and gradients are as large as the weights.
    static = 4 / 3 * memory.now
    return (static + images / drawn * (memory.peak - static)) / GIB


def predict(
    trainings: Mapping[str, Recipe | None], request: RehearsalRequest
) -> Iterator[dict[str, Any]]:
    """Predict the peak memory of trainings on GPUs, with and without gradient checkpointing.

    Args:
        trainings: as `rehearsal.select` returns them.
        request: images of a step, precision and number of processes (8 unless it says otherwise).

    Yields:
        `training`, `images` of one process, `amp`, and the peaks in GiB: `peak`, `checkpointed`.

    Raises:
        UserError: if a training cannot be built.
    """
    from reproduce.openmmlab.configs import load_config

    predicted: dict[tuple[Any, ...], list[float]] = {}
    for name, recipe in trainings.items():
        amp = request.amp or ('fp16' if recipe else 'off')
        own = recipe.batch_size // (request.processes or 8) if recipe else 0
        images = request.batch_size or own or load_config(name).train_dataloader.batch_size
        key = recipe.model_dump_json(include=_SHAPING) if recipe else name, images, amp
        if key not in predicted:
            predicted[key] = [
                classifier_peak(recipe.changed(grad_checkpointing=checkpointed), images, amp)
                if recipe
                else config_peak(name, images, amp, checkpointed)
                for checkpointed in (False, True)
            ]
        peaks = dict(zip(('peak', 'checkpointed'), predicted[key], strict=True))
        yield {'training': name, 'images': images, 'amp': amp, **peaks}
