"""A folder with a measured classifier that timm loads: weights, config, model card, record."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn as nn
from safetensors import safe_open
from timm.models import save_for_hf

from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.evaluate.records import Evaluation
from reproduce.report import exchange
from reproduce.report.model_card import model_card
from reproduce.systems import timm_names
from reproduce.tasks import TASKS, classification
from reproduce.weights import parameters, registry, store

WEIGHTS = 'model.safetensors'  # the name that timm looks for first


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: the names of the files in the folder, in order.
        sha256: of the weights' file.
        same_file: whether that is the evaluated file to the byte; others hold the same parameters.
    """

    files: tuple[str, ...]
    sha256: str
    same_file: bool


def export(
    record: Path,
    evaluation: Evaluation,
    folder: Path,
    checkpoint: str | Path | None = None,
    licence: str | None = None,
    formats: Sequence[str] = (),
) -> Exported:
    """Write a measured classifier as a folder for `timm.create_model('local-dir:FOLDER')`.

    The folder appears whole or not at all, after timm has loaded it and computed what the evaluated
    network computes.

    Args:
        record: the record's file; those beside it that belong to it are copied, too.
        folder: a new folder, or an empty one.
        checkpoint: the weights, in one of the forms of `store.find`; None for released ones.
        licence: of the weights; None for that of released ones, if they are.
        formats: the names of exchange formats, keys of `exchange.FORMATS`.

    Raises:
        UserError: if the record is not that of a classifier, its weights are not there or are
            others than the evaluated ones, a package that a format needs is missing, or `folder`
            holds something or cannot be written.
    """
    e = evaluation
    if e.task != 'imagenet':
        raise UserError(
            f'{e.stem} is a record of {TASKS[e.task].scope}, whose models timm does not load: '
            f'share the file of the weights with its config {Path(e.model).name}, which '
            f'`evaluate {e.task} --config CONFIG --checkpoint FILE` and the test tools of mmdet '
            'and mmseg take.'
        )
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(
            f'{folder} holds something already: name a new folder with --output, or an empty one.'
        )
    for name in formats:
        exchange.check(name)
    path = _weights(e, checkpoint)
    network = _network(e, path)
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(2, *e.preprocessing['input_size'], generator=generator)
    if licence is None and (entry := registry.released(e.checkpoint.sha256)):
        licence = entry.licence
    measured = {k: tuple(v) if isinstance(v, list) else v for k, v in e.preprocessing.items()}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f'.{folder.name}.', dir=folder.parent, ignore_cleanup_errors=True
        ) as name:
            made = Path(name) / folder.name
            save_for_hf(network, str(made), safe_serialization=True, data_config=measured)
            same_file = _has_the_parameters(path, network)
            if same_file:
                shutil.copyfile(path, made / WEIGHTS)
            _check_with_timm(network, example, made)
            for extra in formats:
                exchange.write(extra, network, example, made)
            shutil.copy(record, made / 'record.json')
            for file in (record.with_name(name) for name in (e.predictions, e.statistics)):
                if file.is_file():
                    shutil.copy(file, made)
            digest = sha256_of(made / WEIGHTS)
            card = model_card(e, network, licence, None if same_file else digest, formats)
            (made / 'README.md').write_text(card)
            files = tuple(sorted(file.name for file in made.iterdir()))
            os.replace(made, folder)
    except OSError as error:
        raise UserError(f'{folder} cannot be written: {error.strerror}.') from error
    return Exported(files, digest, same_file)


def _weights(evaluation: Evaluation, checkpoint: str | Path | None) -> Path:
    """Return the file of the evaluated weights."""
    recorded = evaluation.checkpoint
    where = checkpoint or recorded.released
    if not where:
        raise UserError(
            f'the weights of {evaluation.stem} are not released ones: name their file, '
            f'{recorded.file} (SHA-256 {recorded.sha256[:16]}...), with --checkpoint.'
        )
    path = store.find(where, evaluation.system or evaluation.model)
    if (digest := sha256_of(path)) != recorded.sha256:
        raise UserError(
            f'{path} is not the file that {evaluation.stem} was measured with: its SHA-256 is '
            f'{digest[:16]}..., expected {recorded.sha256[:16]}... of {recorded.file}; name that '
            'file, or evaluate this one and export its record.'
        )
    return path


def _network(evaluation: Evaluation, path: Path) -> nn.Module:
    """Return the evaluated classifier with its weights, in evaluation mode."""
    trained = parameters.trained_preprocessing(path)
    size = timm_names.size_argument(evaluation.model, trained.get('img_size'))
    arguments = {**size, **evaluation.arguments}
    network = classification.build(evaluation.model, arguments, evaluation.data.classes)
    parameters.load(network, path)
    return network


def _has_the_parameters(path: Path, network: nn.Module) -> bool:
    """Return whether a file holds the network's parameters by their own names, as safetensors."""
    if path.suffix != '.safetensors':
        return False
    with safe_open(path, 'pt') as file:
        return set(file.keys()) == set(network.state_dict())


def _check_with_timm(network: nn.Module, example: torch.Tensor, folder: Path) -> None:
    """Check that timm builds from `folder` a network that computes the same."""
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    with torch.inference_mode():
        same = torch.equal(loaded(example), network(example))
    if not same:
        raise UserError(
            f'what timm {timm.__version__} loads from the exported folder computes other outputs '
            'than the evaluated network, so nothing was written: export with the version of timm '
            'that the record names.'
        )
