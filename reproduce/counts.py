"""Parameters and FLOPs of systems: kept in a file, and counted again only when they may differ.

What a system counts is a function of its definition, of the code that builds and counts it, and of
the versions of the libraries. `results/counts.csv` keeps each count under a hash of all three, so
a count of other code is never taken. The file can be deleted at any time.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from reproduce.errors import UserError
from reproduce.files import read_csv, write_csv
from reproduce.folders import COUNTS
from reproduce.progress import progress
from reproduce.quiet import quiet_libraries
from reproduce.systems import System, load_systems
from reproduce.versions import CHECKOUT, libraries, sources_sha256

# The files and folders of this project that decide what is counted.
_CODE = (
    'model',
    'operators',
    'reproduce/complexity.py',
    'reproduce/configs',
    'reproduce/openmmlab',
    'reproduce/paper/printed.py',
)
# The packages whose versions decide it.
_LIBRARIES = (
    *('torch', 'torchvision', 'timm'),
    *('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation'),
)
# Each process that counts detectors holds mmdet and mmseg: nearly 1 GB.
_MOST_PROCESSES = 8


@dataclass(frozen=True)
class Complexity:
    """`params` in parameters, the rest in multiply-adds of one forward pass of one image."""

    params: int
    layer_flops: int
    total_flops: int


class _KeptCount(BaseModel):
    """A line of the file; `key` is a hash over everything that decides the counts."""

    model_config = ConfigDict(extra='forbid')
    system: str
    key: str
    params: int = Field(ge=0)
    layer_flops: int = Field(ge=0)
    total_flops: int = Field(ge=0)

    @property
    def complexity(self) -> Complexity:
        """The counts without what they are kept under."""
        return Complexity(self.params, self.layer_flops, self.total_flops)


def count(systems: Collection[System], path: Path = COUNTS) -> dict[str, Complexity | str]:
    """Return the complexity of every system that is not only cited, by name, or why it has none.

    Those that `path` keeps are read from it. The others are counted, in one process for each of
    the machine's cores, and kept. A system that fails to build or to run does not keep the others
    from being counted.

    Raises:
        UserError: if a package or a config file that a system needs is missing.
    """
    wanted = [system for system in systems if system.cited is None]
    keys = {system.name: count_key(system) for system in wanted}
    kept = _read(path)
    counts: dict[str, Complexity | str] = {
        name: kept[key].complexity for name, key in keys.items() if key in kept
    }
    missing = [system for system in wanted if system.name not in counts]
    if missing:
        counts |= (new := _count_in_processes(missing))
        lines = [
            _KeptCount(system=name, key=keys[name], **asdict(complexity))
            for name, complexity in new.items()
            if isinstance(complexity, Complexity)
        ]
        _keep(kept, lines, path)
    return counts


def count_key(system: System, checkout: Path = CHECKOUT) -> str:
    """Return a hash over the definition of a system and the code and libraries that count it."""
    definition = system.model_dump(include={'model', 'arguments', 'input_size', 'config'})
    installed = libraries()
    decisive = [
        definition,
        sources_sha256(_CODE, checkout),
        [installed[name] for name in _LIBRARIES],
    ]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, _KeptCount]:
    return {line.key: line for _, line in read_csv(path, _KeptCount)} if path.is_file() else {}


def _keep(kept: Mapping[str, _KeptCount], new: Iterable[_KeptCount], path: Path) -> None:
    """Write the counts of the systems that there are, and of today's code, to `path`."""
    current = {count_key(system) for system in load_systems() if system.cited is None}
    lines = {line.key: line for line in (*kept.values(), *new) if line.key in current}
    rows = sorted((line.model_dump() for line in lines.values()), key=itemgetter('system'))
    try:
        write_csv(path, _KeptCount, rows)
    except UserError as error:  # as in a checkout that is read-only: nothing is lost but time
        print(f'note: the counts are not kept: {error}', file=sys.stderr)


def _count_in_processes(systems: Collection[System]) -> dict[str, Complexity | str]:
    """Count `systems` side by side; each process has imported what all of them need."""
    context = multiprocessing.get_context('forkserver')
    detectors = any(system.config is not None for system in systems)
    context.set_forkserver_preload(
        ['reproduce.complexity', *(('mmdet.models', 'mmseg.models') if detectors else ())]
    )
    counts: dict[str, Complexity | str] = {}
    processes = min(len(os.sched_getaffinity(0)), len(systems), _MOST_PROCESSES)
    with (
        progress('counting parameters and FLOPs', len(systems)) as shown,
        ProcessPoolExecutor(processes, context, _ignore_interrupts) as pool,
    ):
        try:
            started = {pool.submit(_count_one, system): system.name for system in systems}
            for done in as_completed(started):
                name = started[done]
                counts[name] = done.result()
                shown.step(name)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return counts


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _count_one(system: System) -> Complexity | str:
    with quiet_libraries():
        # Imported here: whoever finds all counts kept does without torch.
        from reproduce.complexity import measure_system

        try:
            return measure_system(system)
        except UserError:
            raise
        except Exception as error:  # whatever a foreign model raises, not all of it can be sent
            return f'{type(error).__name__}: {error}'.splitlines()[0]
