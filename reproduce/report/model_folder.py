"""A folder with a measured classifier that timm loads: weights, config, model card, record."""

import os
import shlex
import shutil
import tempfile
from pathlib import Path

import timm
import torch
import torch.nn as nn
from jinja2 import Environment, FileSystemLoader
from safetensors import safe_open
from timm.models import model_entrypoint, save_for_hf

from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.evaluate.apart import evaluate_command
from reproduce.evaluate.records import Evaluation
from reproduce.systems import timm_names
from reproduce.tasks import TASKS, classification
from reproduce.weights import parameters, registry, store

WEIGHTS = 'model.safetensors'  # the name that timm looks for first


def export(
    record: Path,
    evaluation: Evaluation,
    folder: Path,
    checkpoint: str | Path | None = None,
    licence: str | None = None,
) -> list[str]:
    """Write a measured classifier as a folder for timm's 'local-dir:', and return its files' names.

    The folder appears whole or not at all, after timm has loaded it and computed what the evaluated
    network computes.

    Args:
        record: the record's file; the files next to it that belong to it are copied, too.
        checkpoint: the weights, in one of the forms of `store.find`; None for released ones.
        licence: of the weights; None for that of released ones, if they are.

    Raises:
        UserError: if the record is not that of a classifier, its weights are missing or are others
            than the evaluated ones, or `folder` is not empty.
    """
    e = evaluation
    if e.task != 'imagenet':
        raise UserError(
            f'{e.stem} is a record of {TASKS[e.task].scope}, whose models timm does not load: '
            f'share the file of the weights with its config {Path(e.model).name}.'
        )
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f'{folder} is not empty: name a new folder with --output.')
    path = _weights(e, checkpoint)
    size = timm_names.size_argument(e.model, parameters.trained_preprocessing(path).get('img_size'))
    network = classification.build(e.model, {**size, **e.arguments}, e.data.classes)
    parameters.load(network, path)
    measured = {k: tuple(v) if isinstance(v, list) else v for k, v in e.preprocessing.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f'.{folder.name}.', dir=folder.parent, ignore_cleanup_errors=True
    ) as name:
        made = Path(name) / folder.name
        save_for_hf(network, str(made), safe_serialization=True, data_config=measured)
        if path.suffix == '.safetensors':
            with safe_open(path, 'pt') as file:
                has_same_names = set(file.keys()) == set(network.state_dict())
            if has_same_names:  # then the file keeps its SHA-256
                shutil.copyfile(path, made / WEIGHTS)
        loaded = timm.create_model(f'local-dir:{made}', pretrained=True).eval()
        images = torch.randn(2, *measured['input_size'], generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            if not torch.equal(loaded(images), network(images)):
                raise UserError(
                    f'what timm {timm.__version__} loads from the exported folder computes other '
                    'outputs than the evaluated network: use the version of timm in the record.'
                )
        shutil.copy(record, made / 'record.json')
        for file in (record.parent / name for name in (e.predictions, e.statistics)):
            if file.is_file():
                shutil.copy(file, made)
        digest = sha256_of(made / WEIGHTS)
        (made / 'README.md').write_text(_model_card(e, network, licence, digest))
        files = sorted(file.name for file in made.iterdir())
        os.replace(made, folder)
    return files


def _weights(evaluation: Evaluation, checkpoint: str | Path | None) -> Path:
    """Return the file of the evaluated weights."""
    recorded = evaluation.checkpoint
    if not (checkpoint or recorded.released):
        raise UserError(
            f'the weights of {evaluation.stem} are not released ones: name their file, '
            f'{recorded.file} (SHA-256 {recorded.sha256[:16]}...), with --checkpoint.'
        )
    path = store.find(checkpoint or recorded.released, evaluation.system or evaluation.model)
    if (digest := sha256_of(path)) != recorded.sha256:
        raise UserError(
            f'{path} is not the file that {evaluation.stem} was measured with: its SHA-256 is '
            f'{digest[:16]}..., expected {recorded.sha256[:16]}... of {recorded.file}.'
        )
    return path


def _model_card(e: Evaluation, network: nn.Module, licence: str | None, digest: str) -> str:
    """Return the README.md of exported weights, whose file has this SHA-256."""
    if licence is None and (entry := registry.released(e.checkpoint.sha256)):
        licence = entry.licence
    stated = e.preprocessing | {'img_size': e.preprocessing['input_size'][-1]}
    command = evaluate_command(
        *('imagenet', e.model, WEIGHTS, 'DATA', e.arguments),
        {name: stated.get(name, True) for name in e.set_by_hand},  # use_train_size is a flag
        amp=None if e.precision == 'fp32' else e.precision,
    )
    images = f'{e.data.images:,} images of {e.data.classes} classes, not the validation set'
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent))
    return environment.get_template('model_card.md.j2').render(
        e=e,
        parameters=sum(p.numel() for p in network.parameters()) / 1e6,
        images=TASKS[e.task].validation_set if e.data.complete else images,
        ours=model_entrypoint(e.model.partition('.')[0]).__module__.startswith('model.'),
        command=shlex.join(['python', '-m', *command]),
        digest=digest,
        licence=licence,
    )
