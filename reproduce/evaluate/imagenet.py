"""Top-1 and Top-5 of a classifier on ImageNet-1K, every image exactly once.

Batches are cut before they are dealt to the processes, so an image meets the same batch, and gets
the same prediction, on any number of them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn as nn
from timm.data import create_transform, resolve_data_config
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from datasets.imagenet import ImageNet, load, open_image
from reproduce import checkpoints, records
from reproduce.errors import UserError
from reproduce.evaluate.predictions import TOP, Predictions, names, score
from reproduce.evaluate.processes import Group, in_group, join, launch
from reproduce.systems import load_systems

PRECISIONS = {'fp16': torch.float16, 'bf16': torch.bfloat16}
PREPROCESSING = ('input_size', 'crop_pct', 'crop_mode', 'interpolation', 'mean', 'std')


@dataclass(frozen=True)
class Job:
    """What to evaluate, and how.

    Attributes:
        model: a system of Tables 1-4, or a timm model.
        checkpoint: a file, a folder with `MODEL.safetensors` in it, or a released checkpoint.
        data: the folder of ImageNet.
        arguments: constructor arguments of the model, besides the system's.
        limit: take that many images only.
        batch_size: images a batch, in each process.
        workers: processes that read images, for each process that computes.
        amp: 'fp16' or 'bf16'; None computes in fp32.
        preprocessing: what replaces the model's own: img_size, crop_pct, interpolation, mean, std.
        device: 'cpu' or 'cuda'; None takes GPUs where there are some.
    """

    model: str
    checkpoint: str | Path
    data: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    batch_size: int = 64
    workers: int = 4
    amp: str | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A measurement and the predictions that it was computed from."""

    evaluation: records.Evaluation
    predictions: Predictions


def evaluate(job: Job, processes: int = 1) -> Outcome | None:
    """Evaluate on `processes` processes of this machine, or on those that `torchrun` started.

    Returns:
        the outcome; None in all but the first of the processes that `torchrun` started.

    Raises:
        UserError: if the checkpoint, the data or an option is not what it should be, or an image
            cannot be read.
    """
    if processes < 1:
        raise UserError(f'{processes} processes cannot evaluate anything: give 1 or more.')
    if processes > 1 and not in_group():
        return launch(run, (job,), processes)
    return run(job)


def run(job: Job) -> Outcome | None:
    """The part of this process; see `evaluate`."""
    system, name, arguments = resolve(job.model, job.arguments)
    config = preprocessing(name, arguments, job.preprocessing)
    if job.amp is not None and job.amp not in PRECISIONS:
        raise UserError(f"--amp '{job.amp}' is unknown: take {' or '.join(PRECISIONS)}.")
    if job.batch_size < 1:
        raise UserError(f'a batch of {job.batch_size} images is none: give 1 or more.')
    path = checkpoints.find(job.checkpoint, system or name)
    data = load(job.data, limit=job.limit)
    classifier = build(name, arguments, len(data.wnids))
    checkpoints.load(classifier, path, classes=str(job.data))
    with join(job.device) as group:
        start = time.perf_counter()
        classes, scores = predict(classifier, data, config, group, job)
        seconds = time.perf_counter() - start
        if group.rank:
            return None
        labels = np.array([label for _, label in data.samples])
        metrics, intervals = score(labels, classes)
        evaluation = records.Evaluation(
            task='imagenet',
            system=system,
            model=name,
            arguments=arguments,
            checkpoint=records.Checkpoint(file=path.name, sha256=checkpoints.sha256(path)),
            data=records.Data(
                split=data.split,
                images=len(data.samples),
                classes=len(data.wnids),
                fingerprint=data.fingerprint,
                complete=data.complete,
                problems=data.problems,
            ),
            precision=job.amp or 'fp32',
            preprocessing=config,
            overridden=tuple(sorted(job.preprocessing)),
            metrics=metrics,
            intervals=intervals,
            provenance=records.provenance(group.device, group.size, job.batch_size, seconds),
        )
        return Outcome(evaluation, Predictions(names(data), labels, classes, scores))


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
    device, n, k = group.device, len(data.samples), min(TOP, len(data.wnids))
    classifier = classifier.to(device)
    forward = _forward(classifier, config, device, job.amp)
    classes = torch.zeros(n, k, dtype=torch.int64, device=device)
    scores = torch.zeros(n, k, device=device)
    seen = torch.zeros(n, dtype=torch.int64, device=device)
    loader = _loader(data, config, group, job)
    progress = tqdm(total=n, unit='image', disable=True if group.rank else None, smoothing=0.05)
    try:
        for i, (indices, images) in enumerate(loader):
            if group.failed:
                break
            logits = forward(images.to(device, non_blocking=True))
            best = logits.topk(k).indices
            part = slice(indices[0], indices[-1] + 1)
            classes[part] = best
            scores[part] = logits.softmax(-1).gather(1, best)
            seen[part] += 1
            # This process is the first, and its i-th batch the first of a round of all.
            begin = i * group.size * job.batch_size
            progress.update(min(group.size * job.batch_size, n - begin))
    except UserError as error:
        group.fail(str(error))
    except torch.OutOfMemoryError:
        group.fail(
            f'a batch of {job.batch_size} images does not fit the memory: lower --batch-size.'
        )
    finally:
        progress.close()
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
    # fp32 means fp32: cuDNN would round the inputs of convolutions to TF32.
    torch.backends.cudnn.allow_tf32 = False

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


def _loader(
    data: ImageNet, config: Mapping[str, Any], group: Group, job: Job
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """The batches of this process; raises UserError at the first image that cannot be read."""
    n = len(data.samples)
    batches = [range(i, min(i + job.batch_size, n)) for i in range(0, n, job.batch_size)]
    mine = batches[group.rank :: group.size]
    loader = DataLoader(
        _Images(data.samples, config),
        batch_sampler=mine,
        num_workers=min(job.workers, len(mine)),
        collate_fn=_collate,
        pin_memory=group.device.type == 'cuda',
    )
    for indices, images in loader:
        # As an exception of the loader's process it would bring that process's traceback along.
        if isinstance(images, str):
            raise UserError(images)
        yield indices, images


class _Images(Dataset):
    """The images as uint8 (3, H, W), each with its index; one that cannot be read as its error."""

    def __init__(self, samples: Sequence[tuple[Path, int]], config: Mapping[str, Any]) -> None:
        self.files = [str(path) for path, _ in samples]
        # As for timm's prefetcher: pixels travel as bytes, and are normalised where they arrive.
        self.transform = create_transform(**config, use_prefetcher=True)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor | str]:
        try:
            return index, self.transform(open_image(Path(self.files[index])))
        except UserError as error:
            return index, str(error)


def _collate(items: list[tuple[int, torch.Tensor | str]]) -> tuple[list[int], torch.Tensor | str]:
    indices, images = zip(*items, strict=True)
    unreadable = next((image for image in images if isinstance(image, str)), None)
    return list(indices), unreadable or torch.stack(images)
