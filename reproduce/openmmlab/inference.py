"""Detectors and segmenters over a data set, through mmengine's Runner."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from model.checkpoint import CheckpointError, differences, listed, read
from reproduce.distributed import Group
from reproduce.errors import UserError
from reproduce.evaluate.harness import PRECISIONS, Job, batches
from reproduce.openmmlab import configs, models
from reproduce.systems import load_systems
from reproduce.weights.loading import check_finite


def resolve(model: str, arguments: Mapping[str, Any], task: str) -> tuple[str | None, str, Config]:
    """The system of the tables that this is, if it is one; the config's name; the config.

    Args:
        model: a system of `task`, or a config as `configs.load_config` finds it.
        arguments: values that replace some of the config's, by dotted name.

    Raises:
        UserError: if it is neither, a system that is only cited, or a model of another task.
    """
    systems = {s.name: s for s in load_systems() if s.task == task}
    if model in systems:
        if systems[model].cited is not None:
            raise UserError(f'{model} cannot be evaluated, only cited: {systems[model].cited}.')
        name = systems[model].evaluated_config
    else:
        name = configs.config_name(model)
    config = configs.load_config(name)
    if (found := configs.task_of(config)) != task:
        raise UserError(f'{name} is a config for {found}, not for {task}: evaluate it there.')
    try:
        config.merge_from_dict({key: _tupled(value) for key, value in arguments.items()})
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f'--cfg-options do not fit {name}: {error}.') from error
    system = next((s.name for s in systems.values() if s.evaluated_config == name), None)
    return None if arguments else system, name, config


def build(config: Config, path: Path) -> nn.Module:
    """The model of `config` with the weights in `path`, in evaluation mode.

    Raises:
        UserError: if the file cannot be read safely, or its parameters are not those of the model.
    """
    try:
        model = models.build(_without_pretraining(config), 'cpu')
    except Exception as error:  # whatever a foreign constructor raises
        raise UserError(
            f'the model of {Path(config.filename).name} cannot be built: {type(error).__name__}: '
            f'{error}'.splitlines()[0]
        ) from error
    try:
        state = read(path)
    except CheckpointError as error:
        raise UserError(f'{error}.') from error
    wanted = model.state_dict()
    # Only training reads it, and older checkpoints do not have it.
    for name in wanted.keys() - state.keys():
        if name.endswith('.num_batches_tracked'):
            state[name] = wanted[name]
    if differ := differences(state, wanted):
        raise UserError(
            f'the checkpoint {path} is not one of {Path(config.filename).name}: {listed(differ)}.'
        )
    check_finite(state, path)
    model.load_state_dict(state)
    return model


def described(config: Config, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    """What decides the predictions of weights: the test pipeline, and a hash with the model."""
    model = _without_pretraining(config).model.to_dict()
    content = json.dumps([model, pipeline], sort_keys=True, default=str)
    return {
        'pipeline': json.loads(json.dumps(pipeline, default=str)),
        'config_sha256': hashlib.sha256(content.encode()).hexdigest()[:16],
    }


def predict(
    model: nn.Module,
    dataset: Dataset,
    keep: Callable[[int, BaseDataElement], Any],
    config: Config,
    group: Group,
    job: Job,
) -> list[Any] | None:
    """What `keep(index, prediction)` makes of every item of `dataset`, by index.

    Args:
        dataset: mmengine's form of one: items of a test pipeline.

    Returns:
        the list in the first process, None in the others.

    Raises:
        UserError: if an image cannot be read, or the memory does not hold a batch; in all
            processes.
    """

    def loop(runner: Runner, dataloader: Any, evaluator: Any) -> BaseLoop:
        return _EachImageOnce(runner, dataset, keep, group, job)

    with tempfile.TemporaryDirectory() as folder:
        runner = _OnItsDevice(
            model=model.to(group.device),
            work_dir=folder,
            test_dataloader={},
            test_evaluator={},
            test_cfg={'type': loop},
            default_scope=config.default_scope,
            default_hooks=dict.fromkeys(('runtime_info', 'timer', 'logger', 'checkpoint')),
            # The group is there already; a model that only predicts needs no wrapper for it.
            launcher='none',
            log_level='ERROR',
            experiment_name=Path(folder).name,
            cfg={'model': {}},
        )
        kept = group.gather(runner.test())
    if kept is None:
        return None
    if [index for index, _ in sorted(kept, key=_index)] != list(range(len(dataset))):
        raise RuntimeError(f'{len(kept)} predictions for {len(dataset)} images')
    return [content for _, content in sorted(kept, key=_index)]


class _OnItsDevice(Runner):
    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """The model where it is; mmengine would move it to the first GPU that it sees."""
        return revert_sync_batchnorm(model)


class _EachImageOnce(BaseLoop):
    """A test loop that counts no image twice on any number of processes, as mmengine's would."""

    def __init__(
        self,
        runner: Runner,
        dataset: Dataset,
        keep: Callable[[int, BaseDataElement], Any],
        group: Group,
        job: Job,
    ) -> None:
        super().__init__(runner, batches(dataset, pseudo_collate, group, job))
        self.keep, self.group, self.job = keep, group, job

    @torch.inference_mode()
    def run(self) -> list[tuple[int, Any]]:
        """The pairs (index, kept) of this process."""
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        model = self.runner.model.eval()
        kind, precision = self.group.device.type, PRECISIONS.get(self.job.amp)
        kept = []
        with torch.autocast(kind, precision, enabled=precision is not None):
            for indices, batch in self.dataloader:
                predictions = model.test_step(batch)
                kept += [(i, self.keep(i, p)) for i, p in zip(indices, predictions, strict=True)]
        self.group.agree()
        self.runner.call_hook('after_test_epoch', metrics={})
        self.runner.call_hook('after_test')
        return kept


def _tupled(value: Any) -> Any:
    """Sizes and scales as OpenMMLab takes them: JSON and TOML have lists only."""
    numbers = isinstance(value, list) and all(isinstance(item, int | float) for item in value)
    return tuple(value) if numbers else value


def checkpoint_name(system: str | None, name: str) -> str:
    """What the checkpoint of a config is called in a folder of several."""
    return system or Path(name.rpartition('::')[2]).stem


def _index(item: tuple[int, Any]) -> int:
    return item[0]


def _without_pretraining(config: Config) -> Config:
    """The config without the weights that its backbone would start its training from."""
    config = config.copy()
    config.model = _stripped(config.model.to_dict())
    return config


def _stripped(part: Any) -> Any:
    if isinstance(part, dict):
        return {k: _stripped(v) for k, v in part.items() if not _is_pretraining(k, v)}
    return [_stripped(item) for item in part] if isinstance(part, list | tuple) else part


def _is_pretraining(key: str, value: Any) -> bool:
    if key == 'init_cfg':
        return isinstance(value, dict) and value.get('type') == 'Pretrained'
    return key == 'pretrained'
