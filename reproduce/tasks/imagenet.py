"""Top-1 and Top-5 of a classifier on ImageNet-1K."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import timm
import torch
import torch.nn as nn
from timm.data import create_transform, resolve_data_config
from torch.utils.data import Dataset

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from datasets.imagenet import ImageNet, load, open_image
from reproduce.distributed import Group
from reproduce.errors import UserError
from reproduce.evaluate import harness
from reproduce.evaluate.harness import PRECISIONS, Measured, Prepared, batches
from reproduce.score.imagenet import TOP, Predictions, names, score
from reproduce.systems import load_systems
from reproduce.weights import loading, store

PREPROCESSING = ('input_size', 'crop_pct', 'crop_mode', 'interpolation', 'mean', 'std')


@dataclass(frozen=True)
class Job(harness.Job):
    """A classifier: a system of Tables 1-4, a MAFormer or any timm model.

    Attributes:
        preprocessing: what replaces the model's own: img_size, crop_pct, interpolation, mean, std.
    """

    task: ClassVar[str] = 'imagenet'

    batch_size: int = 64
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    def prepare(self) -> Prepared:
        system, name, arguments = resolve(self.model, self.arguments)
        config = preprocessing(name, arguments, self.preprocessing)
        path = store.find(self.checkpoint, system or name)
        data = load(self.data, limit=self.limit)
        classifier = build(name, arguments, len(data.classes))
        loading.load(classifier, path, classes=str(self.data))
        return Prepared(
            system=system,
            model=name,
            arguments=arguments,
            checkpoint=path,
            data=data,
            preprocessing=config,
            measure=partial(measure, classifier, data, config, self),
            overridden=tuple(sorted(self.preprocessing)),
        )


def measure(
    classifier: nn.Module, data: ImageNet, config: Mapping[str, Any], job: Job, group: Group
) -> Measured | None:
    """Top-1 and Top-5 and the predictions, in the first process of `group`; see `predict`."""
    classes, scores = predict(classifier, data, config, group, job)
    if group.rank:
        return None
    labels = np.array([label for _, label in data.samples])
    metrics, intervals = score(labels, classes)
    kept = Predictions(names(data), labels, classes, scores)
    return Measured(metrics, kept.to_csv(), '.csv.gz', intervals)


def resolve(model: str, arguments: Mapping[str, Any]) -> tuple[str | None, str, dict[str, Any]]:
    """The system of the tables that this is, if it is one; the timm model; its arguments.

    Raises:
        UserError: if `model` is neither, or a system that is only cited.
    """
    systems = {s.name: s for s in load_systems() if s.framework == 'classifier'}
    if model in systems:
        if systems[model].cited is not None:
            raise UserError(f'{model} cannot be evaluated, only cited: {systems[model].cited}.')
        name, merged = systems[model].model, {**systems[model].arguments, **arguments}
    else:
        name, merged = model, dict(arguments)
    if not timm.is_model(name):
        near = [
            *get_close_matches(model, systems, n=2, cutoff=0.3),
            *get_close_matches(model, timm.list_models(), n=3, cutoff=0.3),
        ]
        told = ', '.join(dict.fromkeys(near)) or 'listed by timm.list_models()'
        raise UserError(f"there is no model '{model}'; the nearest are {told}.")
    system = next(
        (s.name for s in systems.values() if (s.model, s.arguments) == (name, merged)), None
    )
    return system, name, merged


def preprocessing(
    name: str, arguments: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """How images become the model's input: its own config with `overrides` in place.

    Raises:
        UserError: if an override is out of range.
    """
    crop = overrides.get('crop_pct')
    if crop is not None and not 0 < crop <= 1.5:
        raise UserError(f'a crop ratio of {crop} is out of range: expected one in (0, 1].')
    given = dict(overrides)
    size = given.get('img_size')
    if size is not None and size < 1:
        raise UserError(f'images of {size} pixels are none: give a positive size.')
    config = resolve_data_config(
        {'in_chans': arguments.get('in_chans', 3), **given},
        pretrained_cfg=timm.get_pretrained_cfg(name).to_dict(),
    )
    return {
        key: list(config[key]) if isinstance(config[key], tuple) else config[key]
        for key in PREPROCESSING
    }


def build(name: str, arguments: Mapping[str, Any], classes: int) -> nn.Module:
    """The classifier, with random weights.

    Raises:
        UserError: if it does not take these arguments.
    """
    try:
        return timm.create_model(name, **{'num_classes': classes, **arguments}).eval()
    except Exception as error:  # whatever a foreign constructor raises
        raise UserError(
            f'{name} cannot be built with {arguments or "no arguments"}: '
            f'{type(error).__name__}: {error}'.splitlines()[0]
        ) from error


def predict(
    classifier: nn.Module, data: ImageNet, config: Mapping[str, Any], group: Group, job: Job
) -> tuple[np.ndarray, np.ndarray]:
    """The best classes (N, K) of the N images of `data`, in their order, and their probabilities.

    Raises:
        UserError: if an image cannot be read, the model does not take images of this size, gives
            no number, or the memory does not hold a batch; in all processes.
    """
    device, n, k = group.device, len(data.samples), min(TOP, len(data.classes))
    classifier = classifier.to(device)
    forward = _forward(classifier, config, device, job.amp)
    classes = torch.zeros(n, k, dtype=torch.int64, device=device)
    scores = torch.zeros(n, k, device=device)
    seen = torch.zeros(n, dtype=torch.int64, device=device)
    for indices, images in batches(_Images(data.samples, config), torch.stack, group, job):
        logits = forward(images.to(device, non_blocking=True))
        best = logits.topk(k).indices
        part = slice(indices[0], indices[-1] + 1)
        classes[part] = best
        scores[part] = logits.softmax(-1).gather(1, best)
        seen[part] += 1
    group.agree()
    classes, scores, seen = (group.add(t).numpy() for t in (classes, scores, seen))
    if not (seen == 1).all():
        raise RuntimeError(f'image {seen.argmax()} was predicted {seen.max()} times')
    if not (finite := np.isfinite(scores).all(1)).all():
        first = data.samples[int(finite.argmin())][0]
        raise UserError(
            f'the model gives NaN or infinity for {(~finite).sum():,} of {n:,} images, first '
            f'{first}: its weights are not sound, or --amp {job.amp} overflows.'
        )
    return classes, scores


def _forward(
    classifier: nn.Module, config: Mapping[str, Any], device: torch.device, amp: str | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Pixels (B, 3, H, W), 0-255 as uint8, to logits (B, K) in fp32."""
    mean, std = (
        torch.tensor(config[name], device=device).view(1, -1, 1, 1) * 255
        for name in ('mean', 'std')
    )

    @torch.inference_mode()
    def forward(images: torch.Tensor) -> torch.Tensor:
        images = (images.float() - mean) / std
        with torch.autocast(device.type, PRECISIONS.get(amp), enabled=amp is not None):
            return classifier(images).float()

    size = config['input_size']
    try:
        forward(torch.zeros(1, *size, dtype=torch.uint8, device=device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f'the model does not take images of {size[1]} x {size[2]} pixels '
            f'({str(error).splitlines()[0]}): give another --img-size, or build it for this one '
            f'with --model-kwargs img_size={size[1]}.'
        ) from error
    return forward


class _Images(Dataset):
    """The images as uint8 (3, H, W)."""

    def __init__(self, samples: Sequence[tuple[Path, int]], config: Mapping[str, Any]) -> None:
        self.files = [str(path) for path, _ in samples]
        # As for timm's prefetcher: pixels travel as bytes, and are normalised where they arrive.
        self.transform = create_transform(**config, use_prefetcher=True)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(open_image(Path(self.files[index])))
