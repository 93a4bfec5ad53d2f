"""Config files of this project, of mmdet and of mmseg: found by name and read."""

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.base.errors import UserError
from reproduce.tasks import TASKS

if TYPE_CHECKING:
    from mmengine.config import Config

CONFIGS = Path(__file__).parents[1] / 'configs'

_DISTRIBUTIONS = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmseg': 'onedl-mmsegmentation',
}


def load_config(name: str | Path) -> 'Config':
    """Read a config file of this project, of mmdet or of mmseg.

    Args:
        name: a path, a file name relative to `reproduce/configs`, or 'mmdet::...' or 'mmseg::...'
            for a config file inside the installed package, as in `_base_`.

    Raises:
        UserError: if there is no such file, or a package that it needs is not installed.
    """
    _require('mmengine', 'mmcv', 'mmdet', 'mmseg')
    if find_spec('mmcv._ext') is None:
        raise UserError(
            'mmcv has neither its compiled operators nor the stand-in for them: run '
            '`pip install --no-deps ./operators` in the checkout'
        )
    from mmengine.config import Config  # here, so that a missing package is the error above

    return Config.fromfile(_find(str(name)))


def config_name(name: str | Path) -> str:
    """Return the one name of a config: relative to `reproduce/configs` where it is there.

    Raises:
        UserError: if there is no such file.
    """
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
        scopes = dict.fromkeys(repr(task.scope) for task in TASKS.values() if task.scope)
        raise UserError(
            f'{config.filename} is not a config of a detector or segmenter: expected a model and '
            f'default_scope {" or ".join(scopes)}, found {scope!r}.'
        )
    tested = ((config.get('test_dataloader') or {}).get('dataset') or {}).get('type')
    return next((task.name for task in tasks if tested in task.datasets), tasks[0].name)


def _require(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise UserError(
                f'Tables 5-7 need {package}, which is not installed: '
                f'run `pip install {_DISTRIBUTIONS[package]}`'
            )


def _find(name: str) -> Path:
    package, _, relative = name.rpartition('::')
    if package not in ('', 'mmdet', 'mmseg'):
        raise UserError(f"'{name}' is no config: expected mmdet or mmseg before '::'")
    root = _installed_configs(package) if package else CONFIGS
    candidates = [root / relative] if package else [Path(name), root / name]
    for path in candidates:
        if path.is_file():
            return path
    names = [p.relative_to(root).as_posix() for p in root.rglob('*.py') if '_base_' not in p.parts]
    near = get_close_matches(relative, names, n=3, cutoff=0.0)
    prefix = f'{package}::' if package else ''
    raise UserError(
        f"there is no config '{name}'; the nearest are {', '.join(prefix + n for n in near)}"
    )


def _installed_configs(package: str) -> Path:
    spec = find_spec(package)
    return Path(spec.submodule_search_locations[0]) / '.mim' / 'configs'
