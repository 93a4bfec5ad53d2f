"""The wheel: the package of the networks, under the name `maformer`, and nothing else."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from email import message_from_string
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / 'model').glob('*.py'))

# The installed package alone.
USE = """
import sys
import timm, torch
from mmengine.config import Config
from mmengine.registry import MODELS
import maformer

config = Config.fromfile('config.py')  # imports maformer.openmmlab
assert 'model' not in sys.modules and 'datasets' not in sys.modules
assert maformer.__file__.startswith(sys.argv[1]), maformer.__file__
names = timm.list_models(module='maformer')
images = torch.rand(2, 3, 70, 64)
assert timm.create_model('maformer_micro', num_classes=7).eval()(images).shape == (2, 7)
maps = MODELS.build(config.model)(images)
assert [tuple(m.shape[1:]) for m in maps] == [(32, 18, 16), (64, 9, 8), (96, 5, 4), (128, 3, 2)]

print('used', len(names))
"""
CONFIG = """
custom_imports = dict(imports=['maformer.openmmlab'], allow_failed_imports=False)
model = dict(type='MAFormer', arch='maformer_micro')
"""


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """The folder that the wheel is unpacked into."""
    sources, folder = (tmp_path_factory.mktemp(name) for name in ('sources', 'installed'))
    for name in ('pyproject.toml', 'LICENSE', 'docs', 'model', 'datasets', 'reproduce'):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, sources)
        else:
            ignored = shutil.ignore_patterns('__pycache__', 'released')
            shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    command = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-index']
    command += ['--no-build-isolation', '--wheel-dir', 'dist', '.']
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (sources / 'dist').glob('*.whl')
    ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_holds_the_networks_alone(installed):
    assert {path.name.partition('-')[0] for path in installed.iterdir()} == {'maformer'}
    files = {path.name for path in (installed / 'maformer').iterdir()} - {'__pycache__'}
    assert files == {path.name for path in MODULES} | {'py.typed'}


def test_the_wheel_requires_what_its_modules_import(installed):
    imported = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            imported.setdefault(path.stem, set()).update(n.partition('.')[0] for n in names)
    imported = {name: found - sys.stdlib_module_names for name, found in imported.items()}
    for_openmmlab = imported.pop('openmmlab')
    (info,) = installed.glob('*.dist-info')
    metadata = message_from_string((info / 'METADATA').read_text())
    required = metadata.get_all('Requires-Dist')
    plain = {r.partition('>')[0].strip() for r in required if 'extra' not in r}
    assert set().union(*imported.values()) == plain
    assert for_openmmlab <= plain | {'mmengine'}
    assert any('mmengine' in r and "extra == 'openmmlab'" in r.replace('"', "'") for r in required)


def test_the_constraints_fit_what_is_asked_for():
    lines = (ROOT / 'requirements/tested.txt').read_text().splitlines()
    tested = dict(line.split('==') for line in lines if not line.startswith('#'))
    tested = {canonicalize_name(name): version for name, version in tested.items()}
    groups = tomllib.loads((ROOT / 'pyproject.toml').read_text())['dependency-groups']
    for name in ('suite', 'dev'):
        for asked in (Requirement(text) for text in groups[name] if isinstance(text, str)):
            assert tested[canonicalize_name(asked.name)] in asked.specifier, asked


@pytest.mark.slow
def test_the_installed_package_works_outside_of_the_checkout(installed, tmp_path):
    (tmp_path / 'config.py').write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, '-c', USE, installed],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('used ')
