"""A rehearsal as text, as JSON, and as a page of Markdown."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import torch
from tabulate import tabulate

from reproduce.base.versions import libraries
from reproduce.evaluate.records import device_name
from reproduce.train.rehearsal import RehearsalRow

_MEASURED = ('peak GiB', 's a step', 'images/s', 'waits for data', 'days', 'disk GiB')


def as_text(rows: Sequence[RehearsalRow]) -> str:
    """Return the table of a rehearsal in Markdown, and why trainings fail."""
    # Numbers are set as they are: tabulate would drop the zeros at their end.
    table = tabulate(
        [(row.name, *_cells(row), 'fails' if row.failure else 'passes') for row in rows],
        ('training', *_MEASURED, 'verdict'),
        'github',
        colalign=('left', *['right'] * len(_MEASURED), 'left'),
        disable_numparse=True,
    )
    failures = [f'* {row.name}: {row.failure}' for row in rows if row.failure]
    passing = f'{len(rows) - len(failures)} of {len(rows)} pass.'
    return '\n\n'.join([table, *(['\n'.join(failures)] if failures else []), passing])


def as_dict(rows: Sequence[RehearsalRow]) -> dict[str, Any]:
    """Return a rehearsal as a JSON object."""
    return {
        'device': device(),
        'passes': all(not row.failure for row in rows),
        'trainings': [
            {'name': row.name, 'failure': row.failure, **(row.measured or {})} for row in rows
        ],
    }


def as_page(rows: Sequence[RehearsalRow]) -> str:
    """Return a rehearsal as a page of Markdown, with the command that it comes from."""
    versions = libraries()
    names = ', '.join(f'{name} {versions[name]}' for name in ('python', 'torch', 'timm'))
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return (
        f'# A rehearsal on {device()}\n\n'
        f'Measured by `python -m reproduce {shlex.join(sys.argv[1:])}` with {cores} cores, a load '
        f'of {load:.1f}, and {names}. `peak GiB` is the memory of a GPU, or of a process on a CPU; '
        '`days` is what the whole training on complete data takes at this batch, without its '
        'evaluations, and `disk GiB` what it writes.\n\n'
        f'{as_text(rows)}\n'
    )


def file_name() -> str:
    """Return the name of the page of this machine's device."""
    return re.sub('[^A-Za-z0-9.]+', '-', device()).strip('-') + '.md'


def device() -> str:
    """Return the name of the device that trainings run on, and the number of GPUs."""
    gpus = torch.cuda.device_count()
    name = device_name(torch.device('cuda' if gpus else 'cpu'))
    return f'{gpus} x {name}' if gpus > 1 else name


def _cells(row: RehearsalRow) -> tuple[str, ...]:
    found = row.measured
    if found is None:
        return ('',) * len(_MEASURED)
    return (
        f'{found["peak_bytes"] / 2**30:.1f}',
        f'{found["seconds"]:.3g}',
        f'{found["images"] / found["seconds"]:.3g}',
        f'{100 * found["waiting_seconds"] / found["seconds"]:.0f} %',
        f'{found["days"]:,.1f}' if found['days'] < 100 else f'{found["days"]:,.0f}',
        f'{found["disk_bytes"] / 2**30:.1f}',
    )
