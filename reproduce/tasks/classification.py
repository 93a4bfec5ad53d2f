"""Top-1 and Top-5 of a classifier: a system of the tables, or any timm model."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import timm
import torch
import torch.nn as nn
from timm.data import create_transform, resolve_data_config
from torch.utils.data import Dataset

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from datasets.reading import open_image
from datasets.stores import AnyPath
from reproduce.base.errors import UserError, first_line
from reproduce.systems import load_systems, timm_names
from reproduce.tasks import TASKS
from reproduce.tasks.classification_scores import TOP, Predictions, score
from reproduce.tasks.job import Job, Prepared, check_finite, inference
from reproduce.tasks.scores import Scorer
from reproduce.weights import parameters, store

PREPROCESSING = ('input_size', 'crop_pct', 'crop_mode', 'interpolation', 'mean', 'std')

# What replaced preprocessing is more than, and at most. Pixels have the scale of 0 to 1.
_LIMITS = {'img_size': (0, 10_000), 'mean': (-1, 1), 'std': (0, 1)}


def prepare(job: Job, device: torch.device) -> Prepared:
    """See `Task.prepare`."""
    system, name, arguments = resolve(job.model, job.arguments)
    path = store.find(job.checkpoint, system or name)
    trained = parameters.trained_preprocessing(path)
    stated = parameters.hub_config(path)
    # A system's size is that of its row, and any other model's that of the weights.
    own = preprocessing(name, arguments, {}, {} if system else stated)
    config = preprocessing(name, arguments, {**trained, **job.preprocessing}, stated)
    by_weights = trained.keys() | (stated.keys() & set(PREPROCESSING))
    overridden = set(job.preprocessing)
    if config['input_size'] != own['input_size'] and 'use_train_size' not in overridden:
        overridden.add('img_size')  # it is not the system's number, whoever decided the size
    data = TASKS[job.task].load_data(job.data, limit=job.limit)
    size = timm_names.size_argument(name, trained.get('img_size'))
    classifier = build(name, {**size, **arguments}, len(data.classes))
    notes = parameters.load(classifier, path)
    network = _Network(classifier, config).to(device)
    with inference(device, job.amp):
        network.try_out()
    files, labels = data.names, np.array([label for _, label in data.samples])

    def predict(indices: Sequence[int], images: torch.Tensor) -> list[tuple[np.ndarray, ...]]:
        probabilities, classes = network(images.to(device, non_blocking=True)).cpu().numpy()
        for index, of_image in zip(indices, probabilities, strict=True):
            check_finite(of_image, files[index])
        return list(zip(classes.astype(int), probabilities, strict=True))

    def collected(predictions: list[tuple[np.ndarray, ...]]) -> Predictions:
        return Predictions(files, labels, *map(np.stack, zip(*predictions, strict=True)))

    return Prepared(
        described={
            'system': system,
            'model': name,
            'arguments': arguments,
            'preprocessing': config,
            'overridden': tuple(sorted(overridden)),
            'from_weights': tuple(sorted(by_weights - job.preprocessing.keys())),
        },
        checkpoint=path,
        data=data,
        images=_Images(data.samples, config),
        collate=torch.stack,
        predict=predict,
        scorer=Scorer(
            '.csv.gz', lambda p: score(collected(p), data.classes), lambda p: collected(p).to_csv()
        ),
        notes=notes,
    )


def resolve(model: str, arguments: Mapping[str, Any]) -> tuple[str | None, str, dict[str, Any]]:
    """Return the system of the tables that this is, or None; the timm model; and its arguments.

    Raises:
        UserError: if there is no such system or model, or it is a system that is only cited.
    """
    systems = {s.name: s for s in load_systems() if s.framework == 'classifier'}
    name, merged = model, dict(arguments)
    if model in systems:
        if systems[model].cited is not None:
            raise UserError(f'{model} cannot be evaluated, only cited: {systems[model].cited}.')
        name, merged = systems[model].model, {**systems[model].arguments, **arguments}
    timm_names.check(name)
    same = (s.name for s in systems.values() if (s.model, s.arguments) == (name, merged))
    return next(same, None), name, merged


def preprocessing(
    name: str,
    arguments: Mapping[str, Any],
    overrides: Mapping[str, Any],
    stated: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return how images become the model's input: by its own config, changed by `overrides`.

    As timm's own validation does, a model whose config names another size or crop for testing than
    for training is given those for testing, unless `overrides` has `use_train_size`. What weights
    state, see `parameters.hub_config`, takes the place of its config.

    Raises:
        UserError: if an override is out of range.
    """
    config = resolve_data_config(
        {'in_chans': arguments.get('in_chans', 3), **overrides},
        pretrained_cfg=stated or timm.get_pretrained_cfg(name).to_dict(),
        use_test_size=not overrides.get('use_train_size'),
    )
    limits = {**_LIMITS, 'crop_pct': (0, parameters.MOST_CROP_PCT[config['crop_mode']])}
    for option, (above, most) in limits.items():
        given = overrides.get(option)
        if given is not None and not all(above < value <= most for value in np.ravel(given)):
            raise UserError(
                f'{option} {given} is out of range: expected more than {above} and at most {most}.'
            )
    return {
        key: list(config[key]) if isinstance(config[key], tuple) else config[key]
        for key in PREPROCESSING
    }


def build(name: str, arguments: Mapping[str, Any], classes: int) -> nn.Module:
    """Return the classifier in evaluation mode, with random weights.

    Raises:
        UserError: if it does not take these arguments.
    """
    try:
        network = timm.create_model(name, **{'num_classes': classes, **arguments}).eval()
    except Exception as error:  # whatever a foreign constructor raises
        raise UserError(
            f'{name} cannot be built with {arguments or "no arguments"}: {first_line(error)}'
        ) from error
    if not getattr(network, 'num_classes', 0):
        raise UserError(
            f'{name} with {arguments} gives features: leave out features_only and num_classes=0.'
        )
    return network


class _Network(nn.Module):
    """A classifier with the normalisation of its input before it and the best classes behind it."""

    def __init__(self, classifier: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.classifier, self.size = classifier, config['input_size']
        for name in ('mean', 'std'):
            value = torch.tensor(config[name]).view(1, -1, 1, 1) * 255
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the probabilities and the indices of the best classes, (2, B, 5) in fp32.

        One tensor leaves the device in one piece; fp32 holds indices up to 2^24. The images are
        (B, 3, H, W) in uint8.
        """
        logits = self.classifier((images.float() - self.mean) / self.std).float()
        best = logits.topk(min(TOP, logits.shape[1])).indices
        return torch.stack([logits.softmax(-1).gather(1, best), best.float()])

    def try_out(self) -> None:
        """Compute one image of the size that will be read, before any is."""
        try:
            self(torch.zeros(1, *self.size, dtype=torch.uint8, device=self.mean.device))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a foreign model raises
            _, height, width = self.size
            reason = first_line(error)
            raise UserError(
                f'the model does not take images of {height} x {width} pixels ({reason}): give '
                'another --img-size, or build it for this one with --model-kwargs '
                f'img_size={height}.'
            ) from error


class _Images(Dataset):
    """The images, resized and cropped, as uint8 (3, H, W), each with the SHA-256 of its file."""

    def __init__(self, samples: Sequence[tuple[AnyPath, int]], config: Mapping[str, Any]) -> None:
        self.samples = samples
        # As for timm's prefetcher: pixels travel as bytes, and are normalised where they arrive.
        self.transform = create_transform(**config, use_prefetcher=True)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        digest = hashlib.sha256()
        image = open_image(self.samples[index][0], digest)
        return self.transform(image), digest.hexdigest()
