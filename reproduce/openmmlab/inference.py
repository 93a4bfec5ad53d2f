"""Detectors and segmenters made ready to predict: from a config and weights to a test step."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement

from reproduce.base.errors import UserError, first_line
from reproduce.openmmlab import cfg_options, configs, detectron2_names, models
from reproduce.systems import load_systems
from reproduce.weights.parameters import load_renamed

Tester = Callable[[Mapping[str, Any]], list[BaseDataElement]]


def resolve(model: str, arguments: Mapping[str, Any], task: str) -> tuple[str | None, str, Config]:
    """Return the system of the tables that this is, or None; the name of its config; the config.

    `model` is a system, or a config as `configs.load_config` finds it; `arguments` are values that
    replace some of the config's, by dotted name.

    Raises:
        UserError: if there is no such system or config, it is only cited, or of another task.
    """
    systems = {s.name: s for s in load_systems() if s.task != 'imagenet'}
    if model in systems and systems[model].cited is not None:
        raise UserError(f'{model} cannot be evaluated, only cited: {systems[model].cited}.')
    name = systems[model].evaluated_config if model in systems else configs.config_name(model)
    config = configs.load_config(name)
    if (found := configs.task_of(config)) != task:
        raise UserError(f'{name} is a config for {found}, not for {task}: evaluate it there.')
    cfg_options.merge(config, arguments)
    system = next((s.name for s in systems.values() if s.evaluated_config == name), None)
    return None if arguments else system, name, config


def build(config: Config, path: Path) -> nn.Module:
    """Return the model of `config` with the weights in `path`, on the CPU.

    Raises:
        UserError: if the file cannot be read safely, or its parameters are not those of the model.
    """
    name = Path(config.filename).name
    try:
        model = models.build(_without_pretraining(config), 'cpu')
    except Exception as error:  # whatever a foreign constructor raises
        raise UserError(f'the model of {name} cannot be built: {first_line(error)}.') from error
    load_renamed(model, path, name, detectron2_names.renamed_for, unread=('auxiliary_head.',))
    return model


def described(config: Config, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the test pipeline, and a hash over it and the model, which decide the predictions."""
    model = _without_pretraining(config).model.to_dict()
    content = json.dumps([model, pipeline], sort_keys=True, default=str)
    return {
        'pipeline': json.loads(json.dumps(pipeline, default=str)),
        'config_sha256': hashlib.sha256(content.encode()).hexdigest()[:16],
    }


def tester(model: nn.Module, config: Config, device: torch.device) -> Tester:
    """Return the function that predicts a batch as mmengine's test loop does, on `device`."""
    # As mmengine's Runner does it: processes that read images would fight for the cores.
    cv2.setNumThreads(0)
    model = revert_sync_batchnorm(model).to(device).eval()

    def test_step(batch: Mapping[str, Any]) -> list[BaseDataElement]:
        with DefaultScope.overwrite_default_scope(config.default_scope):
            return model.test_step(batch)

    return test_step


def checkpoint_name(system: str | None, name: str) -> str:
    """Return the name that the checkpoint of a config has in a folder of several."""
    return system or Path(name.rpartition('::')[2]).stem


def _without_pretraining(config: Config) -> Config:
    """Return the config without the weights that its backbone would start its training from."""

    def stripped(part: Any) -> Any:
        if isinstance(part, list | tuple):
            return [stripped(item) for item in part]
        if not isinstance(part, dict):
            return part
        loads = isinstance(init := part.get('init_cfg'), dict) and init.get('type') == 'Pretrained'
        left_out = ('pretrained', 'init_cfg') if loads else ('pretrained',)
        return {key: stripped(value) for key, value in part.items() if key not in left_out}

    config = config.copy()
    config.model = stripped(config.model.to_dict())
    return config
