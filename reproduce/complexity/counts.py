"""Parameters and FLOPs of systems, which `results/counts.csv` keeps."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from reproduce.base.folders import COUNTS
from reproduce.base.worker_pool import in_processes
from reproduce.complexity.kept_results import KeptLine, code_key, kept_or_computed
from reproduce.systems import System

# The files and folders of this project that decide what is counted.
CODE = (
    'model',
    'operators',
    'reproduce/complexity/flops.py',
    'reproduce/configs',
    'reproduce/openmmlab',
    'reproduce/paper/printed.py',
)


@dataclass(frozen=True)
class Complexity:
    """`params` in parameters, the rest in multiply-adds of one forward pass of one image."""

    params: int
    layer_flops: int
    total_flops: int


class _KeptCount(KeptLine):
    params: int = Field(ge=0)
    layer_flops: int = Field(ge=0)
    total_flops: int = Field(ge=0)


def count(systems: Collection[System], path: Path = COUNTS) -> dict[str, Complexity | str]:
    """Return the complexity of every system that is not only cited, by name, or why it has none.

    Those that `path` keeps are read from it, the others are counted. A system that fails to build
    or to run does not keep the others from being counted.

    Raises:
        UserError: if a package or a config file that a system needs is missing.
    """
    wanted = {system.name: system for system in systems if system.cited is None}

    def compute(names: list[str]) -> dict:
        chosen = {name: (wanted[name],) for name in names}
        what = 'counting parameters and FLOPs'
        return in_processes(_count, chosen, what)

    found = kept_or_computed(
        path,
        _KeptCount,
        code_key(CODE),
        {name: definition(system) for name, system in wanted.items()},
        compute,
    )
    return {
        name: line
        if isinstance(line, str)
        else Complexity(line.params, line.layer_flops, line.total_flops)
        for name, line in found.items()
    }


def definition(system: System) -> dict[str, Any]:
    """Return what of a system decides the networks that are built for it."""
    fields = {'model', 'arguments', 'input_size', 'config', 'accuracy_config'}
    return system.model_dump(include=fields)


def _count(system: System) -> dict[str, int]:
    # Imported here: whoever finds all counts kept does without torch.
    from reproduce.complexity.flops import measure_system

    return asdict(measure_system(system))
