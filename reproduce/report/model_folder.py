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
from timm.models._hub import save_config_for_hf

from reproduce.base.errors import UserError
from reproduce.base.files import sha256_of
from reproduce.evaluate.records import Evaluation
from reproduce.report import exchange
from reproduce.report.model_card import model_card
from reproduce.systems import timm_names
from reproduce.tasks import TASKS, classification
from reproduce.train.weights_file import to_bytes
from reproduce.weights import parameters, registry, store

WEIGHTS = 'model.safetensors'  # the name that timm looks for first


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: it holds the files.
        files: their names, in order.
        sha256: of the weights' file.
        same_file: whether that is the evaluated file to the byte; others hold the same parameters.
    """

    folder: Path
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
    if evaluation.task != 'imagenet':
        raise UserError(
            f'{evaluation.stem} is a record of {TASKS[evaluation.task].scope}, whose models timm '
            'does not load: hand on the file of the weights with its config '
            f'{Path(evaluation.model).name}, which `evaluate {evaluation.task} --config CONFIG '
            '--checkpoint FILE` and the test tools of mmdet and mmseg take.'
        )
    _check_free(folder)
    for name in formats:
        exchange.check(name)
    path = _weights(evaluation, checkpoint)
    network = _network(evaluation, path)
    content, same_file = _content(network, path)
    example = _example(evaluation)
    if licence is None and (entry := registry.released(evaluation.checkpoint.sha256)):
        licence = entry.licence
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f'.{folder.name}.', dir=folder.parent, ignore_cleanup_errors=True
        ) as name:
            made = Path(name) / folder.name
            made.mkdir()
            (made / WEIGHTS).write_bytes(content)
            _write_config(network, evaluation, made / 'config.json')
            _check_with_timm(network, example, made)
            for extra in formats:
                exchange.write(extra, network, example, made)
            for file in _of_record(record, evaluation):
                shutil.copy(file, made / ('record.json' if file == record else file.name))
            digest = sha256_of(made / WEIGHTS)
            card = model_card(evaluation, network, licence, None if same_file else digest, formats)
            (made / 'README.md').write_text(card)
            files = tuple(sorted(file.name for file in made.iterdir()))
            os.replace(made, folder)
    except OSError as error:
        raise UserError(f'{folder} cannot be written: {error.strerror}.') from error
    return Exported(folder, files, digest, same_file)


def _check_free(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(
            f'{folder} holds something already: name a new folder with --output, or an empty one.'
        )


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


def _content(network: nn.Module, path: Path) -> tuple[bytes, bool]:
    """Return the weights as a file of safetensors, and whether it is the one at `path`."""
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    metadata = {}
    if path.suffix == '.safetensors':
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
            if set(file.keys()) == set(state):
                return path.read_bytes(), True
    # Tensors that share memory cannot be written twice.
    content = to_bytes({name: value.clone() for name, value in state.items()}, metadata)
    return content, False


def _write_config(network: nn.Module, evaluation: Evaluation, path: Path) -> None:
    """Write timm's config: the network's arguments, and the preprocessing it was measured with."""
    measured = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in evaluation.preprocessing.items()
    }
    save_config_for_hf(network, str(path), data_config=measured)


def _example(evaluation: Evaluation) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *evaluation.preprocessing['input_size'], generator=generator)


def _check_with_timm(network: nn.Module, example: torch.Tensor, folder: Path) -> None:
    """Check that timm builds from `folder` a network that computes the same.

    Raises:
        UserError: if it does not.
    """
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    with torch.inference_mode():
        same = torch.equal(loaded(example), network(example))
    if not same:
        raise UserError(
            f'what timm {timm.__version__} loads from the exported folder computes other outputs '
            'than the evaluated network, so nothing was written: export with the version of timm '
            'that the record names.'
        )


def _of_record(record: Path, evaluation: Evaluation) -> list[Path]:
    beside = (record.with_name(name) for name in (evaluation.predictions, evaluation.statistics))
    return [record, *(file for file in beside if file.is_file())]
