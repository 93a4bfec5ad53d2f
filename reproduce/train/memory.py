"""The peak of a training step's memory on a GPU, predicted without one.

The bytes of all tensors that exist at the same time are counted, each rounded up as torch's
allocator does. A classifier takes its steps with fake tensors, which have shapes and no content, so
a prediction takes seconds and no memory. What the loss of a detector computes depends on the image:
it takes its steps with real tensors, on one image as large as the recipe's and with as many objects
as its heads sample.

What a GPU holds besides is not counted: CUDA's context, buffers of NCCL and of DDP, workspaces of
cuDNN and cuBLAS, and fragments. `LEFT_OUT` is a reserve for these.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
import torch.nn as nn
from tabulate import tabulate
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

# GB of the GPUs that the table is about.
GPUS = (16, 32, 80)

# torch's allocator hands out multiples of this.
_BLOCK = 512

_CLASSES = 1000
# The shape of the image of a detector, and its objects: a mask head samples up to 128.
_IMAGE = 3, 800, 1333
_OBJECTS = 130


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is active.

    Attributes:
        now: the bytes of those that exist.
        peak: the highest that `now` has been.
    """

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
    """Predict the peak of a training step of a classifier, in GiB.

    Args:
        images: of one process.
        amp: 'fp16', 'bf16', or 'off' for fp32.
    """
    with torch.device('meta'):
        model = build(recipe, _CLASSES)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, PeakMemory() as memory, _norms_in_fp32():
        model = model.to_empty(device='cpu')
        average = [torch.empty_like(tensor) for tensor in model.state_dict().values()]
        optimizer = create_optimizer_v2(model, 'adamw', lr=1e-3, weight_decay=0.05, fused=True)
        targets = targets_of(recipe, model, _CLASSES)
        batch = _batch(recipe, images)
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


def sentence(recipe: Recipe, images: int, amp: str, gib: float) -> str:
    """Return whether a training step of a classifier will fit into the `gib` of a GPU."""
    peak = classifier_peak(recipe, images, amp)
    needs = (
        f'a step with {images} images needs about {peak:.1f} GiB of the GPU, which has {gib:.1f}'
    )
    if peak <= gib - LEFT_OUT:
        return needs
    less = classifier_peak(recipe.changed(grad_checkpointing=True), images, amp)
    return (
        f'warning: {needs}: it will probably run out of memory; with --set grad_checkpointing=true '
        f'it needs {less:.1f}, and --set accumulation=2 halves the images of a pass'
    )


def _batch(recipe: Recipe, images: int) -> dict[str, torch.Tensor]:
    """Return a batch as the recipe's data loader gives it."""
    size = recipe.img_size
    batch = {
        'image': torch.empty(images, 3, size, size),
        'label': torch.empty(images, dtype=torch.int64),
    }
    if recipe.token_labeling:
        # Five scores and classes in each of the 18 x 18 cells of LV-ViT's label maps.
        batch['map'] = torch.empty(images, 2, 5, 18, 18, dtype=torch.half)
        batch['box'] = torch.empty(images, 4)
    return batch


def config_peak(name: str, images: int, amp: str, grad_checkpointing: bool = False) -> float:
    """Predict the peak of a training step of a detector or segmenter, in GiB.

    It takes two steps with one image. What that image needs besides weights, gradients and the
    optimizer's state, each of `images` needs.

    Args:
        name: of a config.
        images: of one process.
        amp: 'fp16', 'bf16', or 'off' for fp32.
    """
    # Imported here, because they take seconds, and classifiers do not need them.
    from mmengine.optim import OptimWrapper

    from reproduce.openmmlab import models
    from reproduce.openmmlab.configs import load_config

    config = load_config(name)
    if grad_checkpointing:
        config.model.backbone.with_cp = True
    batch = _batch_of(config)
    with quiet_libraries(), PeakMemory() as memory, _norms_in_fp32(), _autocast(amp):
        model = models.build(config, 'cpu').requires_grad_().train()
        models.extract_regions_in_fp32(model)
        optimizer = OptimWrapper(torch.optim.AdamW(model.parameters()))
        for _ in range(2):
            model.train_step(batch, optimizer)
    # Weights and two states of AdamW exist still, and gradients are as large as the weights.
    static = 4 / 3 * memory.now
    return (static + images * (memory.peak - static)) / GIB


def _batch_of(config: Any) -> dict[str, Any]:
    """Return a batch of one image as the data loader of mmdet or mmseg gives it."""
    from mmdet.testing import demo_mm_inputs
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from reproduce.openmmlab.configs import task_of

    if task_of(config) == 'coco':
        return demo_mm_inputs(1, [_IMAGE], [_OBJECTS], num_classes=80, with_mask=True)
    size = config.model.data_preprocessor.size
    labels = PixelData(data=torch.zeros(1, *size, dtype=torch.int64))
    sample = SegDataSample(metainfo={'img_shape': size, 'ori_shape': size}, gt_sem_seg=labels)
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    return {'inputs': [image], 'data_samples': [sample]}


def predict(
    trainings: Mapping[str, Recipe | None], request: RehearsalRequest
) -> Iterator[dict[str, Any]]:
    """Predict the peak memory of trainings on GPUs, with and without gradient checkpointing.

    Args:
        trainings: as `rehearsal.select` returns them.
        request: images of a step, precision and number of processes (8 unless it says otherwise).

    Yields:
        `name`, `images` of one process, `amp`, and the peaks in GiB: `plain`, `checkpointed`.

    Raises:
        UserError: if a training cannot be built.
    """
    from reproduce.openmmlab.configs import load_config

    predicted: dict[tuple[Any, ...], list[float]] = {}
    for name, recipe in trainings.items():
        amp = request.amp or ('fp16' if recipe else 'off')
        own = recipe.batch_size // (request.processes or 8) if recipe else 0
        images = request.batch_size or own or load_config(name).train_dataloader.batch_size
        key = (recipe.model_dump_json(include=_SHAPING) if recipe else name, images, amp)
        if key not in predicted:
            predicted[key] = [
                classifier_peak(recipe.changed(grad_checkpointing=checkpointed), images, amp)
                if recipe
                else config_peak(name, images, amp, checkpointed)
                for checkpointed in (False, True)
            ]
        plain, checkpointed = predicted[key]
        facts = {'name': name, 'images': images, 'amp': amp}
        yield {**facts, 'plain': plain, 'checkpointed': checkpointed}


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of predictions in Markdown."""
    lines = []
    for row in rows:
        fits = (
            'yes'
            if row['plain'] <= size - LEFT_OUT
            else 'with checkpointing'
            if row['checkpointed'] <= size - LEFT_OUT
            else 'no'
            for size in GPUS
        )
        peaks = (f'{row[peak]:.1f}' for peak in ('plain', 'checkpointed'))
        lines.append((row['name'], row['images'], row['amp'], *peaks, *fits))
    heads = ('training', 'images', 'amp', 'peak GiB', 'with checkpointing')
    return tabulate(lines, (*heads, *(f'fits {size} GB' for size in GPUS)), 'github')
