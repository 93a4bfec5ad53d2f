"""The layout of the code: one name for one module and one class, and nothing imported in vain."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

from reproduce.cli import COMMANDS

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for folder in ('model', 'datasets', 'reproduce', 'benchmarks')
    for path in sorted((ROOT / folder).rglob('*.py'))
    if 'configs' not in path.parts
]
# Each layer may have a module for each task.
TASK_MODULES = {'__init__', '__main__', 'imagenet', 'coco', 'ade20k'}


def doubled(names):
    return [name for name, n in Counter(names).items() if n > 1]


def test_names_of_modules_and_of_public_classes_are_unique():
    assert not doubled(path.stem for path in FILES if path.stem not in TASK_MODULES)
    nodes = [node for path in FILES for node in ast.walk(ast.parse(path.read_text()))]
    classes = [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    assert not doubled(name for name in classes if not name.startswith('_'))


# Helps first: they wait for less than what reads results.
_QUICK = [
    ['--help'],
    *([command, '--help'] for command in COMMANDS),
    ['score', 'coco', '--help'],
    *(['show', 'table4/Swin-T/top1'], ['tables', '4'], ['audit'], ['checkpoints']),
    ['table', '1', '--models', 'MAFormer-B'],
]


def test_what_only_reads_does_not_wait_for_torch():
    """All in one process, in which an import would be seen after the command that makes it."""
    code = f"""
import sys
from reproduce.cli import run
for arguments in {_QUICK!r}:
    sys.argv = ['reproduce', *arguments]
    try:
        run()
    except SystemExit as stop:
        assert not stop.code, arguments
    slow = {{'torch', 'timm'}} | ({{'matplotlib', 'scipy'}} if '--help' in arguments else set())
    assert not slow & set(sys.modules), (arguments, slow & set(sys.modules))
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
