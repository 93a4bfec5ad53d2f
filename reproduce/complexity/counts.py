"""Parameters and FLOPs of systems, kept in `results/counts.csv`.

A line of the file is used while nothing has changed that decides it: the code that builds and
counts networks, the libraries, the system. The file can be deleted at any time.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from reproduce.base.errors import UserError, first_line
from reproduce.base.files import read_csv, write_csv
from reproduce.base.folders import COUNTS
from reproduce.base.quiet import quiet_libraries
from reproduce.base.versions import CHECKOUT, libraries, sources_sha256
from reproduce.complexity import Complexity
from reproduce.paper import DETECTION_SIZE, SEGMENTATION_SIZE
from reproduce.systems import System

# The files and folders of this project that decide what is counted.
CODE = (
    'model',
    'operators',
    'reproduce/complexity/measuring.py',
    'reproduce/configs',
    'reproduce/openmmlab',
)

_LIBRARIES = (
    *('torch', 'torchvision', 'timm'),
    *('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation'),
)


class _Line(BaseModel, extra='forbid'):
    name: str
    key: str
    params: int = Field(ge=0)
    layer_flops: int = Field(ge=0)
    total_flops: int = Field(ge=0)
    backbone_params: int = Field(ge=0)
    backbone_layer_flops: int = Field(ge=0)
    backbone_total_flops: int = Field(ge=0)


def count(systems: Collection[System], path: Path = COUNTS) -> dict[str, Complexity | str]:
    """Return the complexity of every system that is not only cited, by name, or why it has none.

    Those that `path` keeps are read from it, the others are counted. A system that fails to build
    or to run does not keep the others from being counted.
    """
    wanted = {system.name: system for system in systems if system.cited is None}
    keys = {name: key(system) for name, system in wanted.items()}
    kept = _read(path)
    missing = {n: s for n, s in wanted.items() if n not in kept or kept[n].key != keys[n]}
    failures = {}
    if missing:
        counted = in_processes(_count, missing)
        for name, found in counted.items():
            if isinstance(found, str):
                failures[name] = found
            else:
                kept[name] = _Line.model_validate({'name': name, 'key': keys[name], **found})
        try:
            write_csv(path, _Line, [kept[name].model_dump() for name in sorted(kept)])
        except UserError as error:  # as in a checkout that is read-only: nothing is lost but time
            print(f'note: the counts are not kept: {error}', file=sys.stderr)
    return {
        name: failures.get(name) or Complexity(**kept[name].model_dump(exclude={'name', 'key'}))
        for name in wanted
    }


def key(system: System, checkout: Path = CHECKOUT) -> str:
    """Return a hash over the code, the libraries and the definition of a system."""
    installed = libraries()
    fields = {'model', 'arguments', 'input_size', 'config'}
    content = [
        sources_sha256(CODE, checkout),
        [installed[name] for name in _LIBRARIES],
        [DETECTION_SIZE, SEGMENTATION_SIZE],
        system.model_dump(include=fields),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def in_processes(
    compute: Callable[[Any], dict[str, int] | str], wanted: Mapping[str, Any]
) -> dict[str, dict[str, int] | str]:
    """Return what `compute` returns for each of the `wanted`, computed in new processes, by name.

    Raises:
        UserError: if one is raised, or a process is killed.
    """
    # A process that builds detectors holds mmdet and mmseg, nearly 1 GB.
    processes = min(8, len(os.sched_getaffinity(0)))
    spawn, ignore = multiprocessing.get_context('spawn'), (signal.SIGINT, signal.SIG_IGN)
    results = {}
    with ProcessPoolExecutor(processes, spawn, signal.signal, ignore) as pool:
        started = {pool.submit(compute, one): name for name, one in wanted.items()}
        try:
            for done in as_completed(started):
                name = started[done]
                results[name] = done.result()
                print(f'counted {len(results)}/{len(wanted)} {name}', file=sys.stderr)
        except BrokenProcessPool as error:
            raise UserError('a worker process was killed, as when memory is full.') from error
        finally:
            pool.shutdown(cancel_futures=True)
    return results


def _count(system: System) -> dict[str, int] | str:
    """Return the fields of a complexity, or the exception that was raised, as text."""
    # Imported here: commands that find all counts kept do without torch.
    from reproduce.complexity.measuring import measure_system

    with quiet_libraries():
        try:
            return asdict(measure_system(system))
        except UserError:
            raise
        except Exception as error:  # whatever a model raises, not all of which can be pickled
            return f'{type(error).__name__}: {first_line(error)}'


def _read(path: Path) -> dict[str, _Line]:
    try:
        return {line.name: line for _, line in read_csv(path, _Line)}
    except UserError:  # missing, damaged or of an earlier version: it is written again
        return {}
