"""Config files of this project, of mmdet and of mmseg: found by name and read."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.base.errors import UserError
from reproduce.tasks import TASKS

if TYPE_CHECKING:
    from mmengine.config import Config

CONFIGS = Path(__file__).parents[1] / 'configs'


def load_config(name: str | Path) -> 'Config':
    """Read a config file of this project, of mmdet or of mmseg.

    `name` is a path, a file name relative to `reproduce/configs`, or 'mmdet::...' or 'mmseg::...'
    for a config file inside the installed package, as in `_base_`.

    Raises:
        UserError: if there is no such file, or a package that it needs is not installed.
    """
    # `mmcv._ext` is its compiled operators, or the stand-in for them in `operators`.
    for package in ('mmengine', 'mmcv', 'mmcv._ext', 'mmdet', 'mmseg'):
        if find_spec(package) is None:
            raise UserError(
                f'detectors and segmenters need {package}, which is not installed: run `make setup`'
            )
    from mmengine.config import Config  # here, so that a missing package is the error above

    return Config.fromfile(_find(str(name)))


def config_name(name: str | Path) -> str:
    """Return the one name of a config: relative to `reproduce/configs` where it is there."""
    path = _find(str(name)).resolve()
    return path.relative_to(CONFIGS).as_posix() if path.is_relative_to(CONFIGS) else str(name)


def task_of(config: 'Config') -> str:
    """Return the name of the task that a model of `config` is evaluated on.

    Raises:
        UserError: if it is neither a detector of mmdet nor a segmenter of mmseg.
    """
    scope = config.get('default_scope')
    tasks = [task for task in TASKS.values() if task.scope and task.scope == scope]
    if not tasks or 'model' not in config:
        raise UserError(
            f'{config.filename} is not a config of a detector or segmenter: expected a model and '
            f"default_scope 'mmdet' or 'mmseg', found {scope!r}."
        )
    tested = ((config.get('test_dataloader') or {}).get('dataset') or {}).get('type')
    return next((task.name for task in tasks if tested in task.datasets), tasks[0].name)


def _find(name: str) -> Path:
    package, _, relative = name.rpartition('::')
    spec = find_spec(package) if package in ('mmdet', 'mmseg') else None
    root = Path(spec.submodule_search_locations[0]) / '.mim/configs' if spec else CONFIGS
    for path in (root / relative, *([] if package else [Path(name)])):
        if path.is_file():
            return path
    raise UserError(
        f"there is no config '{name}': expected a file, one in reproduce/configs, or one of "
        "'mmdet::' or 'mmseg::'."
    )
